"""What `jaxgeo train` does: read, tell what is known, integrate, report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from jaxgeo import AdaptedFlow, OverparametrizedFlow, RankAdaptiveFlow, StandardFlow, UnderparametrizedFlow
from jaxgeo.cli.display import LiveBar, show_end, show_setup
from jaxgeo.problems import Task, choose_hidden, digits, read_table, table_task
from jaxgeo.problems.names import did_you_mean
from jaxgeo.problems.tabular import parse_kind
from jaxgeo.training import Config, Interruptible, RunFolder, Setup, load, prepare, train

COMMAND_LINE_FLOWS = {
    "adapted": AdaptedFlow,
    "overparametrized": OverparametrizedFlow,
    "underparametrized": UnderparametrizedFlow,
    "rank-adaptive": RankAdaptiveFlow,
    "standard": StandardFlow,
}
PROBLEMS = ("digits",)


@dataclass(frozen=True)
class Options:
    """The options of `jaxgeo train`, as they were typed."""

    problem: str
    target: str
    task: str
    drop: tuple[str, ...]
    samples: int | None
    test_fraction: float
    hidden: str
    flow: str
    tol: float | None
    rtol: float | None
    max_steps: int
    precision: str
    seed: int
    out: Path | None


def train_command(options: Options, console: Console, interruptible: Interruptible) -> int:
    """Train as asked; returns the exit code. `ValueError` on input to mend, before anything is written."""
    _check(options)
    task = _task(options)
    sizes = _parse_hidden(options.hidden) or choose_hidden(
        task.train_inputs.shape[1], task.train_targets.shape[1], task.num_rows
    )
    double = options.precision == "float64"
    if double:
        # This is a program of its own; the library leaves JAX's settings alone.
        jax.config.update("jax_enable_x64", True)
    config = Config(
        problem=options.problem,
        samples=len(task.train_inputs),
        hidden=sizes,
        flow=options.flow,
        tol=(1e-6 if options.problem in PROBLEMS else 1e-4) if options.tol is None else options.tol,
        rtol=(1e-5 if double else 1e-3) if options.rtol is None else options.rtol,
        max_steps=options.max_steps,
        seed=options.seed,
        precision=options.precision,
        target=options.target,
        task=task.kind.value,
        drop=options.drop,
        test_fraction=options.test_fraction,
    )
    with console.status("building the network and computing the rank of D"):
        setup = prepare(task, config, COMMAND_LINE_FLOWS[options.flow]())
    out = options.out
    folder = RunFolder.create(Path("runs") / task.name if out is None else out, fresh_name=out is None)
    show_setup(console, setup)
    summary = _integrate(setup, folder, console, interruptible)
    # matplotlib takes a while to load: not before it is needed.
    from jaxgeo.report.page import write_report

    page = write_report(folder.path)
    show_end(console, folder, page, summary, load(folder.path).metrics)
    if interruptible.interrupted:
        return 130
    return 1 if summary["outcome"] == "failed" else 0


def _integrate(setup: Setup, folder: RunFolder, console: Console, interruptible: Interruptible) -> dict[str, Any]:
    with LiveBar(console, setup) as bar:
        return train(setup, folder, on_step=bar.step, interruptible=interruptible)


def _check(options: Options) -> None:
    """`ValueError` on an option that cannot be meant."""
    if options.flow not in COMMAND_LINE_FLOWS:
        names = list(COMMAND_LINE_FLOWS)
        raise ValueError(f"no flow {options.flow!r}{did_you_mean(options.flow, names)} There are: {', '.join(names)}.")
    precisions = ("float64", "float32")
    if options.precision not in precisions:
        raise ValueError(f"no precision {options.precision!r}{did_you_mean(options.precision, precisions)} There are: "
                         f"{', '.join(precisions)}.")  # fmt: skip
    for name, value in (("tol", options.tol), ("rtol", options.rtol), ("test-fraction", options.test_fraction)):
        if value is not None and not 0 < value < 1:
            raise ValueError(f"--{name} must lie between 0 and 1; got {value}.")
    if options.max_steps < 1:
        raise ValueError(f"--max-steps must be positive; got {options.max_steps}.")
    if options.seed < 0:
        raise ValueError(f"--seed must not be negative; got {options.seed}.")


def _task(options: Options) -> Task:
    if options.problem in PROBLEMS:
        for name in ("target", "task", "drop"):
            if {"target": options.target, "task": options.task, "drop": options.drop}[name]:
                raise ValueError(f"--{name} is for CSV files; leave it out with {options.problem}.")
        return digits(100 if options.samples is None else options.samples, options.seed)
    path = Path(options.problem)
    if not path.exists() and not path.suffix and path.name == options.problem:
        hint = did_you_mean(options.problem, PROBLEMS)
        raise ValueError(f"no problem {options.problem!r}{hint} There is digits, or pass the path of a CSV file.")
    table = read_table(path)
    if not options.target:
        raise ValueError(f"say which column to predict with --target; {path.name} has: {', '.join(table.names[:12])}.")
    return table_task(
        table,
        options.target,
        kind=parse_kind(options.task) if options.task else None,
        drop=options.drop,
        num_samples=options.samples,
        test_fraction=options.test_fraction,
        seed=options.seed,
    )


def _parse_hidden(text: str) -> tuple[int, ...]:
    if not text:
        return ()
    parts = text.replace(",", "-").split("-")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"--hidden takes positive widths such as 64-64; got {text!r}.")
    return tuple(int(part) for part in parts)
