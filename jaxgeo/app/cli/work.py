"""`jaxgeo train` and `jaxgeo resume`: print what is known in advance, train, and write the report."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from jaxgeo._signals import SIGNALS
from jaxgeo.app.cli.display import LiveBar, say, show_end, show_setup
from jaxgeo.app.cli.options import read_task, refuse_endless, resolve
from jaxgeo.app.cli.table_display import TableBar, show_table_setup
from jaxgeo.app.data import Task
from jaxgeo.app.runs import Config, load
from jaxgeo.app.runs.config import EVIDENCE, check_settings
from jaxgeo.app.runs.folder import RunFolder
from jaxgeo.app.runs.setup import Setup, prepare
from jaxgeo.app.runs.tables import TableSetup, prepare_table, train_table
from jaxgeo.app.runs.training import train
from jaxgeo.fitting import Interruptible


def train_command(
    given: dict[str, Any], file: Path | None, out: Path | None, console: Console, interruptible: Interruptible
) -> int:
    """Train; returns the exit code. Raises `ValueError` on wrong input, before anything is written."""
    config, task = resolve(given, file)
    setup = _prepare(config, task, console)
    place = default_place(task) if out is None else out
    with RunFolder.create(place, fresh_name=out is None) as folder:
        return _run(setup, folder, console, interruptible)


def resume_command(path: Path, changes: dict[str, Any], console: Console, interruptible: Interruptible) -> int:
    """Resume the run in `path`, with a new `tol` or `max_steps` from `changes`; returns the exit code."""
    with RunFolder.open(path) as folder:
        SIGNALS.folder = path
        config = dataclasses.replace(folder.read_config(), **changes)
        check_settings(dataclasses.asdict(config))
        refuse_endless(config.problem)
        setup = _prepare(config, read_task(dataclasses.asdict(config)), console)
        if changes:
            folder.save_config(config)
        return _run(setup, folder, console, interruptible, resume=True)


def _prepare(config: Config, task: Task, console: Console) -> Setup | TableSetup:
    if config.optimizer != EVIDENCE:
        return prepare_setup(config, task, console)
    use_precision(config)
    with console.status("standardising the rows"):
        return prepare_table(task, config)


def prepare_setup(config: Config, task: Task, console: Console) -> Setup:
    """Call `prepare` in the precision of the run."""
    use_precision(config)
    with console.status("building the network and computing the rank of D"):
        return prepare(task, config)


def default_place(task: Task) -> Path:
    """The default folder of a run."""
    return Path("runs") / (task.name.strip(".") or "table")


def use_precision(config: Config) -> None:
    """Switch x64 on if the run uses float64. A command may do so; the library never changes JAX's settings."""
    if config.precision == "float64":
        jax.config.update("jax_enable_x64", True)


def _run(
    setup: Setup | TableSetup,
    folder: RunFolder,
    console: Console,
    interruptible: Interruptible,
    *,
    resume: bool = False,
) -> int:
    SIGNALS.folder = folder.path
    before = folder.read_summary() if resume and folder.has_begun else None
    ended = before is not None and before["outcome"] not in ("interrupted", "stopped")
    if isinstance(setup, TableSetup):
        show_table_setup(console, setup)
        with TableBar(console, setup) as bar, SIGNALS.training(interruptible):
            summary = train_table(setup, folder, progress=bar.show, interruptible=interruptible, resume=resume)
    else:
        show_setup(console, setup)
        with LiveBar(console, setup) as bar, SIGNALS.training(interruptible):
            summary = train(setup, folder, progress=bar.show, interruptible=interruptible, resume=resume)
    # matplotlib loads slowly, so import it only when needed.
    from jaxgeo.app.report.page import write_report

    page = write_report(folder.path)
    show_end(console, folder, page, summary, load(folder.path).metrics, setup.task.notes)
    again = f"jaxgeo resume {shlex.quote(str(folder.path))}"
    if ended and before is not None and summary["steps"] == before["steps"]:
        further = f"To train it further, add a lower --tol or a higher --max-steps to: {again}"
        say(console, "note ", f"This run had already ended. {further}", "yellow")
    # `interruptible` does not notice Ctrl-C between two computations.
    if interruptible.interrupted or summary["outcome"] == "interrupted":
        say(console, "resume ", again)
        return SIGNALS.code or 130
    return 1 if summary["outcome"] == "failed" else 0
