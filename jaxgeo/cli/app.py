"""The commands of `jaxgeo`, and their errors."""

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from jaxgeo.cli.work import COMMAND_LINE_FLOWS, PROBLEMS, Options, train_command
from jaxgeo.problems.names import did_you_mean
from jaxgeo.training import Interruptible

# What typer raises at a mistyped option; a common ancestor, since typer brings its own click or uses the installed one.
USAGE_ERROR: Any = typer.BadParameter.__bases__[0]

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode="rich")
error_console = Console(stderr=True)


@app.callback()
def top() -> None:
    """Train networks along the geometrically adapted gradient flow.

    The cost falls as e^(-2s/N), and the time at which it reaches a tolerance is known before training starts.
    """


@app.command()
def train(
    problem: Annotated[str, typer.Argument(help="[b]digits[/b], or the path of a CSV file.", metavar="PROBLEM")],
    target: Annotated[str, typer.Option(help="Column of the CSV file to predict.", rich_help_panel="Data")] = "",
    task: Annotated[
        str,
        typer.Option(help="classification or regression; by default as the target looks.", rich_help_panel="Data"),
    ] = "",
    drop: Annotated[
        list[str] | None, typer.Option(help="Column to leave out; may be repeated.", rich_help_panel="Data")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            help="N, rows to train on; the others are held out. For digits 100 by default, for a table what is not "
            "held out, up to 1000 outputs.",
            rich_help_panel="Data",
        ),
    ] = None,
    test_fraction: Annotated[float, typer.Option(help="Part of a table held out.", rich_help_panel="Data")] = 0.2,
    hidden: Annotated[
        str,
        typer.Option(
            help="Hidden widths, such as 64-64; by default wide enough for K ≥ 4 QN.",
            rich_help_panel="Network and flow",
        ),
    ] = "",
    flow: Annotated[
        str, typer.Option(help=f"One of {', '.join(COMMAND_LINE_FLOWS)}.", rich_help_panel="Network and flow")
    ] = "adapted",
    tol: Annotated[
        float | None,
        typer.Option(
            help="Stop where the cost is this part of C(0); by default 1e-6 for digits and 1e-4 for a table.",
            rich_help_panel="Network and flow",
        ),
    ] = None,
    rtol: Annotated[
        float | None,
        typer.Option(
            help="Tolerance of an ODE step; by default 1e-5, in float32 1e-3.", rich_help_panel="Network and flow"
        ),
    ] = None,
    max_steps: Annotated[
        int, typer.Option(help="Give up after so many steps.", rich_help_panel="Network and flow")
    ] = 1000,
    precision: Annotated[str, typer.Option(help="float64 or float32.", rich_help_panel="Run")] = "float64",
    seed: Annotated[int, typer.Option(help="Of the split and of the initial weights.", rich_help_panel="Run")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the run; by default runs/NAME, or runs/NAME-2, … if in use.", rich_help_panel="Run"
        ),
    ] = None,
) -> None:
    """Train a network, and write a report, the figures, the metrics and the network into a folder.

    Examples: [b]jaxgeo train digits[/b], and [b]jaxgeo train table.csv --target price[/b].
    """
    options = Options(
        problem, target, task, tuple(drop or ()), samples, test_fraction, hidden, flow, tol, rtol, max_steps, precision,
        seed, out,
    )  # fmt: skip
    interruptible = Interruptible(
        lambda: error_console.print("\nfinishing the steps at hand; press Ctrl-C again to leave at once")
    )
    code = train_command(options, Console(), interruptible)
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
    commands = ("train",)
    if arguments and not arguments[0].startswith("-") and arguments[0] not in commands:
        hint = f" Did you mean: jaxgeo train {arguments[0]}?" if arguments[0] in PROBLEMS else ""
        return _fail(f"no command {arguments[0]!r}{did_you_mean(arguments[0], commands)}{hint} See jaxgeo --help.")
    try:
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


def _fail(message: str, code: int = 2) -> int:
    error_console.print("[bold red]error:[/] ", end="")
    error_console.print(" ".join(message.split()), markup=False, highlight=False, soft_wrap=True)
    return code
