"""The commands of `jaxgeo`, and their error messages."""

import contextlib
import re
import shlex
import tempfile
import traceback
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from jaxgeo._names import did_you_mean
from jaxgeo._signals import SIGNALS
from jaxgeo.app.cli.cache import keep_programs
from jaxgeo.app.cli.compare import compare_command
from jaxgeo.app.cli.display import make_console, say
from jaxgeo.app.cli.options import PROBLEMS, STEP_TOLERANCE, parse_hidden
from jaxgeo.app.cli.streams import Streams
from jaxgeo.app.cli.tools import bench_command, info_command, predict_command, rank_command
from jaxgeo.app.cli.work import resume_command, train_command
from jaxgeo.app.runs.config import EVIDENCE
from jaxgeo.fitting import Interruptible
from jaxgeo.fitting.methods import FLOWS, OPTIMIZERS

# The error for a mistyped option. Use a common ancestor: typer brings its own click or uses the installed one.
USAGE_ERROR: Any = typer.BadParameter.__bases__[0]

DECIMAL_COMMA = re.compile(r"\d+,\d+")

COMMANDS = ("train", "resume", "compare", "rank", "predict", "bench", "info")

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode="rich")


def _show_version(asked: bool) -> bool:
    if asked:
        print(f"jaxgeo {version('jaxgeo')}")
        raise typer.Exit
    return asked


@app.callback()
def top(
    show_version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
    cache: Annotated[
        bool,
        typer.Option(
            "--cache/--no-cache",
            help="Save compiled programs in the user's cache folder, so that the next command starts sooner.",
        ),
    ] = True,
) -> None:
    """Train networks along the geometrically adapted gradient flow.

    The cost falls as e^(-2s/N), and the time at which it reaches a tolerance is known before training starts.
    """
    if cache:
        keep_programs()


DATA, NETWORK, RUN = "Data", "Network and method", "Run"
FOLDER = typer.Argument(help="The folder of a run, such as runs/digits.", metavar="RUN")


Problem = Annotated[
    str | None,
    typer.Argument(
        help="[b]digits[/b], or the path of a table: CSV, JSON lines, Parquet, Excel or NPZ.", metavar="PROBLEM"
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        help="TOML file of settings, such as the config.toml of a run; options on the command line override it."
    ),
]
Target = Annotated[str | None, typer.Option(help="Column of the table to predict.", rich_help_panel=DATA)]
TaskKind = Annotated[
    str | None,
    typer.Option(
        "--task", help="classification or regression; by default inferred from the target.", rich_help_panel=DATA
    ),
]
Drop = Annotated[list[str] | None, typer.Option(help="Column to leave out; can be repeated.", rich_help_panel=DATA)]
Weights = Annotated[
    str | None, typer.Option(help="Column of the table that says how often each row counts.", rich_help_panel=DATA)
]
Samples = Annotated[
    int | None,
    typer.Option(
        help="N, the number of rows to train on; the others are held out. The default is 100 for digits; for a table, "
        "all rows that are not held out, along a flow up to 1000 outputs.",
        rich_help_panel=DATA,
    ),
]
TestFraction = Annotated[
    float | None, typer.Option(help="Fraction of a table that is held out; 0.2 by default.", rich_help_panel=DATA)
]
Hidden = Annotated[
    str | None,
    typer.Option(
        "--hidden",
        "--model",
        help="Train a single network with hidden layers of these widths, such as 64-64; with a method by default 32-32 "
        "for a table, and wide enough for K ≥ 4 QN along a flow.",
        rich_help_panel=NETWORK,
    ),
]
Flow = Annotated[
    str | None, typer.Option(help=f"One of {', '.join(FLOWS)}; by default adapted for digits.", rich_help_panel=NETWORK)
]
Tol = Annotated[
    float | None,
    typer.Option(
        help="Stop when the cost reaches this fraction of C(0); by default 1e-6 for digits.",
        rich_help_panel=NETWORK,
    ),
]
Rtol = Annotated[
    float | None,
    typer.Option(help=STEP_TOLERANCE, rich_help_panel=NETWORK),
]
Precision = Annotated[str | None, typer.Option(help="float64 (default) or float32.", rich_help_panel=RUN)]
Seed = Annotated[
    int | None, typer.Option(help="Seed of the split, the initial weights and the batches.", rich_help_panel=RUN)
]
Out = Annotated[
    Path | None,
    typer.Option(help="Folder to write; by default runs/NAME, or runs/NAME-2, … if it exists.", rich_help_panel=RUN),
]


@app.command()
def train(
    problem: Problem = None,
    config: ConfigFile = None,
    target: Target = None,
    task: TaskKind = None,
    drop: Drop = None,
    weights: Weights = None,
    samples: Samples = None,
    test_fraction: TestFraction = None,
    hidden: Hidden = None,
    flow: Flow = None,
    optimizer: Annotated[
        str | None,
        typer.Option(
            help=f"Use an optimizer instead of a flow; one of {', '.join(OPTIMIZERS)}. The default for a table is "
            f"{EVIDENCE}: several small networks, weighted by their evidence.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Learning rate of the optimizer, if it takes one.", rich_help_panel=NETWORK)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Samples for each update; all by default.", rich_help_panel=NETWORK)
    ] = None,
    tol: Tol = None,
    rtol: Rtol = None,
    max_steps: Annotated[
        int | None,
        typer.Option(
            help="Give up after this number of steps or updates; 1000 by default, and 60 with evidence.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            help="Stop when the cost on a held-out fifth of the training rows has not improved for this number of "
            "parts (6 steps of a flow, or an epoch); 10 by default for a single network on a table.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    record_every: Annotated[
        int | None, typer.Option(help="Number of updates between rows of the metrics.", rich_help_panel=RUN)
    ] = None,
    precision: Precision = None,
    seed: Seed = None,
    keep_every: Annotated[
        float | None,
        typer.Option(help="Seconds between checkpoints; 5 by default.", rich_help_panel=RUN),
    ] = None,
    out: Out = None,
) -> None:
    """Train a network, and save a report, its figures, the metrics and the network in a folder.

    Examples: [b]jaxgeo train digits[/b], and [b]jaxgeo train table.csv --target price[/b].
    """
    given = _given(
        problem=problem,
        target=target,
        task=task,
        drop=drop,
        weights=weights,
        samples=samples,
        test_fraction=test_fraction,
        hidden=hidden,
        flow=flow,
        optimizer=optimizer,
        learning_rate=learning_rate,
        batch_size=batch_size,
        tol=tol,
        rtol=rtol,
        max_steps=max_steps,
        patience=patience,
        record_every=record_every,
        precision=precision,
        seed=seed,
        keep_every=keep_every,
    )
    _finish(lambda interruptible: train_command(given, config, out, make_console(), interruptible))


@app.command()
def resume(
    run: Annotated[Path, FOLDER],
    tol: Annotated[float | None, typer.Option(help="New tolerance; by default that of the run.")] = None,
    max_steps: Annotated[
        int | None, typer.Option(help="New maximum number of steps; by default that of the run.")
    ] = None,
) -> None:
    """Resume a run that was interrupted or killed; the result is the same as without the interruption."""
    changes = _given(tol=tol, max_steps=max_steps)
    _finish(lambda interruptible: resume_command(run, changes, make_console(), interruptible))


@app.command()
def compare(
    problem: Problem = None,
    config: ConfigFile = None,
    target: Target = None,
    task: TaskKind = None,
    drop: Drop = None,
    samples: Samples = None,
    test_fraction: TestFraction = None,
    hidden: Hidden = None,
    flow: Flow = None,
    tol: Tol = None,
    rtol: Rtol = None,
    precision: Precision = None,
    seed: Seed = None,
    seconds: Annotated[
        float, typer.Option(help="Time for each method; a method may finish its current part.", rich_help_panel=RUN)
    ] = 30.0,
    out: Out = None,
) -> None:
    """Train with the adapted flow, Levenberg-Marquardt, Adam, L-BFGS and the standard flow, and plot a comparison."""
    given = _given(
        problem=problem,
        target=target,
        task=task,
        drop=drop,
        samples=samples,
        test_fraction=test_fraction,
        hidden=hidden,
        flow=flow,
        tol=tol,
        rtol=rtol,
        precision=precision,
        seed=seed,
    )
    _finish(lambda interruptible: compare_command(given, config, seconds, out, make_console(), interruptible))


@app.command()
def rank(run: Annotated[Path, FOLDER]) -> None:
    """Print the rank and the spectrum of D at the start and at the end of a run."""
    rank_command(run, make_console())


@app.command()
def predict(
    run: Annotated[Path, FOLDER],
    rows: Annotated[
        Path, typer.Argument(help="A table with the same columns that the run was trained on.", metavar="ROWS")
    ],
    interval: Annotated[
        float | None,
        typer.Option(
            help="Add columns for the standard deviation of a new value, and the ends of the interval that contains it "
            "with this probability, such as 0.9.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="CSV file to write; by default standard output.")] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            help="Column of ROWS to repeat beside the predictions; can be repeated. By default an id or index, or else "
            "the number of the row."
        ),
    ] = None,
) -> None:
    """Predict the target for new rows, in their order."""
    predict_command(run, rows, out, make_console(), keep or (), interval)


@app.command()
def bench(
    modules: Annotated[
        list[str] | None,
        typer.Argument(help="Benchmarks to run, such as optimizers; all by default.", metavar="MODULE"),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Use small sizes, which take minutes instead of hours.")
    ] = False,
) -> None:
    """Run the benchmarks again, in a copy of the repository, and render their tables."""
    raise typer.Exit(bench_command(modules or [], quick))


@app.command()
def info() -> None:
    """Print versions, devices, precision and optional packages."""
    info_command(make_console())


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given, converted to the types of the settings."""
    given = {name: value for name, value in options.items() if value is not None}
    if "hidden" in given:
        given["hidden"] = parse_hidden(given["hidden"])
    if "drop" in given:
        given["drop"] = tuple(given["drop"])
    return given


def _finish(command: Callable[[Interruptible], int]) -> None:
    raise typer.Exit(command(Interruptible(lambda: None)))


def run(arguments: list[str]) -> int:
    """Run the command line; returns the exit code. Every error is reported here, in one line."""
    with Streams() as streams, warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            code = _run(arguments)
        except BaseException as error:  # noqa: B036 - one door, whose exit code is the answer
            code = _answer(error, arguments)
        if streams.error is not None:
            code = _fail(f"cannot write to standard output ({streams.error.strerror})", code or 1)
        return code


def _run(arguments: list[str]) -> int:
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        if arguments[0] in PROBLEMS or Path(arguments[0]).suffix:
            hint = f"; did you mean: jaxgeo train {shlex.join(arguments)}?"
        else:
            hint = did_you_mean(arguments[0], (*COMMANDS, "--version"))
        raise ValueError(f"no command {arguments[0]!r}{hint} See jaxgeo --help.")
    return app(arguments or ["--help"], prog_name="jaxgeo", standalone_mode=False) or 0


def _answer(error: BaseException, arguments: list[str]) -> int:
    """Report in one line what ended the command; returns the exit code."""
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return _fail(f"interrupted; {SIGNALS.advice}", 130)
    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, USAGE_ERROR):
        command = f"jaxgeo {arguments[0]}" if arguments and arguments[0] in COMMANDS else "jaxgeo"
        said = error.format_message().rstrip(".")  # pyright: ignore
        about_numbers = any(word in said for word in ("number", "float", "integer"))
        if about_numbers and any(DECIMAL_COMMA.fullmatch(each.partition("=")[2] or each) for each in arguments):
            said = f"{said}; write numbers with a decimal point, such as 0.001"
        return _fail(f"{said}. See {command} --help.")
    if isinstance(error, OSError):
        return _fail(
            f"{error.filename or 'a file'}: {error.strerror or error}; choose another path, or free space there."
        )
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return _fail("this needs more memory than this machine has; use fewer --samples, or a smaller --hidden.", 1)
    if isinstance(error, ValueError | ModuleNotFoundError):
        return _fail(str(error).replace("`RankAdaptiveFlow`", "--flow rank-adaptive"))
    with contextlib.suppress(OSError):
        descriptor, name = tempfile.mkstemp(prefix="jaxgeo-", suffix=".txt")
        with open(descriptor, "w", encoding="utf-8", errors="replace") as file:
            file.write(f"jaxgeo {version('jaxgeo')}: {shlex.join(arguments)}\n")
            traceback.print_exception(error, file=file)
        said = f"{type(error).__name__}: {error}".strip()[:200]
        return _fail(f"internal error of jaxgeo ({said}); please report it, and attach {name}", 1)
    return _fail(f"internal error of jaxgeo ({type(error).__name__}: {error}); please report it.", 1)


def _show_warning(message: Warning | str, *rest: Any) -> None:
    say(make_console(stderr=True), "note:", str(message), "yellow")


def _fail(message: str, code: int = 2) -> int:
    say(make_console(stderr=True), "error:", message, "bold red")
    return code
