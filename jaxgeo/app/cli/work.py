"""What `jaxgeo train` and `jaxgeo resume` do: tell what is known, train, report."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from jaxgeo.app.cli.display import LiveBar, show_end, show_setup
from jaxgeo.app.cli.options import read_task, resolve
from jaxgeo.app.data import Task
from jaxgeo.app.runs import Config, load
from jaxgeo.app.runs.folder import RunFolder
from jaxgeo.app.runs.setup import prepare
from jaxgeo.app.runs.training import train
from jaxgeo.fitting import Interruptible


def train_command(
    given: dict[str, Any], file: Path | None, out: Path | None, console: Console, interruptible: Interruptible
) -> int:
    """Train as asked; returns the exit code. `ValueError` on input to mend, before anything is written."""
    config, task = resolve(given, file)

    def make() -> RunFolder:
        return RunFolder.create(Path("runs") / task.name if out is None else out, fresh_name=out is None)

    return _run(config, task, make, console, interruptible, resume=False)


def resume_command(path: Path, console: Console, interruptible: Interruptible) -> int:
    """Go on with the run in `path`; returns the exit code."""
    config = read_config(path)
    return _run(
        config, read_task(dataclasses.asdict(config)), lambda: RunFolder(path), console, interruptible, resume=True
    )


def read_config(path: Path) -> Config:
    """The settings of the run in `path`; `ValueError` if it is none."""
    try:
        return Config.from_toml((path / "config.toml").read_text(encoding="utf-8"))
    except OSError:
        raise ValueError(
            f"{path} is not the folder of a run: there is no config.toml in it. Pass one, such as runs/digits."
        ) from None
    except ValueError as error:
        raise ValueError(f"{path / 'config.toml'} is damaged: {error}") from None


def use_precision(config: Config) -> None:
    """Switch x64 on if the run is in float64: this is a program of its own; the library leaves JAX's settings alone."""
    if config.precision == "float64":
        jax.config.update("jax_enable_x64", True)


def _run(
    config: Config,
    task: Task,
    make: Callable[[], RunFolder],
    console: Console,
    interruptible: Interruptible,
    *,
    resume: bool,
) -> int:
    use_precision(config)
    with console.status("building the network and computing the rank of D"):
        setup = prepare(task, config)
    folder = make()
    before = folder.read_summary() if resume else {}
    ended = before.get("outcome", "interrupted") not in ("interrupted", "stopped")
    show_setup(console, setup)
    with LiveBar(console, setup) as bar:
        summary = train(setup, folder, progress=bar.show, interruptible=interruptible, resume=resume)
    # matplotlib takes a while to load: not before it is needed.
    from jaxgeo.app.report.page import write_report

    page = write_report(folder.path)
    show_end(console, folder, page, summary, load(folder.path).metrics, setup.task.notes)
    if ended and summary["steps"] == before["steps"]:
        console.print(
            "[yellow]note[/]  This run had ended already. To train it further lower tol, or raise max_steps, in "
            f"{folder.path / 'config.toml'}, and resume it again.",
            highlight=False,
            soft_wrap=True,
        )
    # Ctrl-C between two computations is not heard by `interruptible`.
    if interruptible.interrupted or summary["outcome"] == "interrupted":
        console.print(f"[bold]go on[/]   jaxgeo resume {folder.path}", highlight=False, soft_wrap=True)
        return 130
    return 1 if summary["outcome"] == "failed" else 0
