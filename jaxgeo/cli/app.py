"""The commands of `jaxgeo`, and their errors."""

import os
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from jaxgeo.cli.options import PROBLEMS, parse_hidden
from jaxgeo.cli.work import resume_command, train_command
from jaxgeo.problems.names import did_you_mean
from jaxgeo.training import FLOWS, OPTIMIZERS, Interruptible

# What typer raises at a mistyped option; a common ancestor, since typer brings its own click or uses the installed one.
USAGE_ERROR: Any = typer.BadParameter.__bases__[0]

COMMANDS = ("train", "resume")

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode="rich")
error_console = Console(stderr=True)


@app.callback()
def top() -> None:
    """Train networks along the geometrically adapted gradient flow.

    The cost falls as e^(-2s/N), and the time at which it reaches a tolerance is known before training starts.
    """


DATA, NETWORK, RUN = "Data", "Network and method", "Run"
FOLDER = typer.Argument(help="The folder of a run, such as runs/digits.", metavar="RUN")


@app.command()
def train(
    problem: Annotated[
        str | None,
        typer.Argument(help="[b]digits[/b], or the path of a table: CSV, Parquet or NPZ.", metavar="PROBLEM"),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="TOML file of settings, such as the config.toml of a run; options given beside it come first."
        ),
    ] = None,
    target: Annotated[str | None, typer.Option(help="Column of the table to predict.", rich_help_panel=DATA)] = None,
    task: Annotated[
        str | None,
        typer.Option(help="classification or regression; by default as the target looks.", rich_help_panel=DATA),
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option(help="Column to leave out; may be repeated.", rich_help_panel=DATA)
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            help="N, rows to train on; the others are held out. For digits 100 by default, for a table what is not "
            "held out, up to 1000 outputs.",
            rich_help_panel=DATA,
        ),
    ] = None,
    test_fraction: Annotated[
        float | None, typer.Option(help="Part of a table held out; 0.2 by default.", rich_help_panel=DATA)
    ] = None,
    hidden: Annotated[
        str | None,
        typer.Option(
            "--hidden",
            "--model",
            help="Hidden widths, such as 64-64; by default wide enough for K ≥ 4 QN.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    flow: Annotated[
        str | None,
        typer.Option(help=f"One of {', '.join(FLOWS)}; adapted by default.", rich_help_panel=NETWORK),
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(help=f"In place of a flow, one of {', '.join(OPTIMIZERS)}.", rich_help_panel=NETWORK)
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of an optimizer that takes one.", rich_help_panel=NETWORK)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Samples of an update; all by default.", rich_help_panel=NETWORK)
    ] = None,
    tol: Annotated[
        float | None,
        typer.Option(
            help="Stop where the cost is this part of C(0); by default 1e-6 for digits and 1e-4 for a table.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    rtol: Annotated[
        float | None,
        typer.Option(help="Tolerance of an ODE step; by default 1e-5, in float32 1e-3.", rich_help_panel=NETWORK),
    ] = None,
    max_steps: Annotated[
        int | None,
        typer.Option(help="Give up after so many steps or updates; 1000 by default.", rich_help_panel=NETWORK),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            help="Stop after so many parts (6 steps of a flow, an epoch) without a better cost on half of the held-out "
            "rows.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    record_every: Annotated[
        int | None, typer.Option(help="Updates from one row of the metrics to the next.", rich_help_panel=RUN)
    ] = None,
    precision: Annotated[str | None, typer.Option(help="float64 (default) or float32.", rich_help_panel=RUN)] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the split, the initial weights and the batches.", rich_help_panel=RUN)
    ] = None,
    keep_every: Annotated[
        float | None,
        typer.Option(help="Seconds from one checkpoint to the next; 5 by default.", rich_help_panel=RUN),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run; by default runs/NAME, or runs/NAME-2, … if in use.", rich_help_panel=RUN),
    ] = None,
) -> None:
    """Train a network, and write a report, the figures, the metrics and the network into a folder.

    Examples: [b]jaxgeo train digits[/b], and [b]jaxgeo train table.csv --target price[/b].
    """
    options = {
        "problem": problem,
        "target": target,
        "task": task,
        "drop": tuple(drop) if drop else None,
        "samples": samples,
        "test_fraction": test_fraction,
        "hidden": None if hidden is None else parse_hidden(hidden),
        "flow": flow,
        "optimizer": optimizer,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "tol": tol,
        "rtol": rtol,
        "max_steps": max_steps,
        "patience": patience,
        "record_every": record_every,
        "precision": precision,
        "seed": seed,
        "keep_every": keep_every,
    }
    given = {name: value for name, value in options.items() if value is not None}
    _finish(lambda interruptible: train_command(given, config, out, Console(), interruptible))


@app.command()
def resume(run: Annotated[Path, FOLDER]) -> None:
    """Go on with a run that was interrupted or killed, to the same end as if it had not been."""
    _finish(lambda interruptible: resume_command(run, Console(), interruptible))


def _finish(command: Callable[[Interruptible], int]) -> None:
    interruptible = Interruptible(
        lambda: error_console.print("\nfinishing the steps at hand; press Ctrl-C again to leave at once")
    )
    code = command(interruptible)
    if interruptible.abandoned:
        # Python cannot end in order while compiled code runs on another thread.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise typer.Exit(code)


def run(arguments: list[str]) -> int:
    """Run the command line; returns the exit code."""
    if arguments == ["--version"]:
        print(f"jaxgeo {version('jaxgeo')}")
        return 0
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        hint = f" Did you mean: jaxgeo train {arguments[0]}?" if arguments[0] in PROBLEMS else ""
        return _fail(f"no command {arguments[0]!r}{did_you_mean(arguments[0], COMMANDS)}{hint} See jaxgeo --help.")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code = app(arguments or ["--help"], prog_name="jaxgeo", standalone_mode=False)
    except USAGE_ERROR as error:
        return _fail(f"{error.format_message()} See jaxgeo {' '.join(arguments[:1])} --help.")
    except ValueError as error:
        return _fail(str(error).replace("`RankAdaptiveFlow`", "--flow rank-adaptive"))
    except typer.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted; what a run had come to is kept in its folder", 130)
    return code or 0


def _show_warning(message: Warning | str, *rest: Any) -> None:
    error_console.print("[yellow]note:[/] ", end="")
    error_console.print(str(message), markup=False, highlight=False, soft_wrap=True)


def _fail(message: str, code: int = 2) -> int:
    error_console.print("[bold red]error:[/] ", end="")
    error_console.print(" ".join(message.split()), markup=False, highlight=False, soft_wrap=True)
    return code
