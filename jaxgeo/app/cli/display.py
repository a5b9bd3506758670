"""The terminal output of `jaxgeo train`."""

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress as Bar, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from jaxgeo.app.cli.streams import visible
from jaxgeo.app.data.table import shorten
from jaxgeo.app.report.tables import found_words
from jaxgeo.app.report.words import BASELINES, ending, step_table
from jaxgeo.app.runs.folder import RunFolder
from jaxgeo.app.runs.monitor import kept_row, plain
from jaxgeo.app.runs.setup import Setup
from jaxgeo.fitting import Progress

# Terminal columns that fit any table here, and characters of a text. To wrap them takes the square of their number.
WIDE, MOST_SHOWN = 100, 10_000


def show_setup(console: Console, setup: Setup) -> None:
    """Print what is known before training."""
    task, count = setup.task, setup.problem.num_samples
    sizes = "-".join(map(str, setup.network.sizes))
    facts = {
        "data": f"{task.source}; {count} to train on, {len(task.test_inputs)} held out ({task.kind.value})",
        "network": f"{sizes} tanh, {setup.config.precision}",
        "size": f"QN = {setup.num_rows} outputs, K = {setup.num_params} parameters",
    }
    if setup.report is not None:
        facts["D"] = (
            f"rank {setup.report.rank} of {min(setup.num_rows, setup.num_params)}, "
            f"cond(DDᵀ) = {setup.report.condition:.3g}"
        )
    aim = f"until the cost is {setup.config.tol:g} times C(0) = {setup.cost0:.4g}"
    if setup.config.optimizer:
        batches = f", batches of {setup.config.batch_size}" if setup.config.batch_size else ""
        facts["optimizer"] = f"{setup.config.optimizer}{batches}, {aim}, for at most {setup.config.max_steps} updates"
    else:
        facts["flow"] = f"{setup.config.flow}, {aim}"
        if setup.stopping_time is None:
            facts["stop"] = "not known in advance: " + (
                "this flow has no law" if setup.num_params >= setup.num_rows else "K < QN, underparametrized"
            )
        else:
            facts["stop"] = f"predicted at s = {setup.stopping_time:.6g}, s/N = {setup.stopping_time / count:.4g}"
    for name, value in facts.items():
        show(console, name, value, 9)
    for note in task.notes:
        show(console, "note", note, 9, "yellow")


def make_console(*, stderr: bool = False) -> Console:
    """The terminal, at its own width, but at least wide enough for a label and a few words."""
    console = Console(stderr=stderr)
    console.width = max(console.width, 40)
    return console


def say(console: Console, label: str, text: str, style: str = "bold") -> None:
    """Print a label and a literal text: no markup, no emoji, and control characters written out."""
    parts = [(label, style), f" {_literal(text)}"] if label else [_literal(text)]
    console.print(Text.assemble(*parts), highlight=False, soft_wrap=True)


def _literal(text: str) -> str:
    """What a terminal shows of a text, which may hold names of any length."""
    return visible(shorten(text, MOST_SHOWN))


def print_table(console: Console, table: Table) -> None:
    """Print a table with all its digits, even if the terminal is too narrow for it."""
    width, console.width = console.width, max(console.width, WIDE)
    console.print(table, crop=False)
    console.width = width


def show(console: Console, label: str, text: str, indent: int, style: str = "bold") -> None:
    """Print a text next to its label, and align further lines below the first."""
    first, *rest = textwrap.wrap(_literal(text), max(40, console.width - indent - 2)) or [""]
    lines = "\n".join([first, *(" " * (indent + 2) + line for line in rest)])
    console.print(Text.assemble((f"{label:>{indent}}", style), f"  {lines}"), highlight=False, soft_wrap=True)


class RunningBar:
    """A progress bar that stops when it is left."""

    progress: Bar

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()


class LiveBar(RunningBar):
    """A progress bar that moves at each step, even from within a compiled integration.

    Along the adapted flow it shows s relative to the stopping time.
    """

    def __init__(self, console: Console, setup: Setup):
        self.setup = setup
        self.progress = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.bar = self.progress.add_task("compiling", total=1.0, facts="")

    def show(self, progress: Progress) -> None:
        """Show where the run is."""
        count = self.setup.problem.num_samples
        where = f"update {progress.step}" if progress.s is None else f"s/N {progress.s / count:.3f}"
        facts = [where, f"cost {progress.cost:.2e}"]
        if progress.law is not None:
            facts.append(f"off the law {progress.cost / progress.law - 1:+.0e}")
        if "damping" in progress.row:
            facts.append(f"damping {progress.row['damping']:.0e}")
        rank = progress.row.get("rank", None if self.setup.report is None else self.setup.report.rank)
        if rank is not None:
            facts.append(f"rank {rank} of {self.setup.num_rows}")
        self.progress.update(self.bar, description="training", completed=progress.fraction, facts="  ".join(facts))

    def __enter__(self) -> "LiveBar":
        if self.progress.disable:
            self.progress.console.print("compiling …")
        self.progress.start()
        return self


def show_end(
    console: Console,
    folder: RunFolder,
    page: Path,
    summary: dict[str, Any],
    rows: list[dict[str, Any]],
    told: Sequence[str] = (),
) -> None:
    """Print the table of steps, the scores, the notes not yet `told`, and where everything is saved."""
    if rows:
        header, cells = step_table(rows)
        table = Table(*header, box=None, pad_edge=False, header_style="bold")
        for column in table.columns:
            column.justify = "right"
        for row in cells:
            table.add_row(*row)
        print_table(console, table)
        last = kept_row(rows)
        if summary["kind"] == "classification":
            scores = (
                f"training accuracy {last['train_accuracy']:.1%}, held-out accuracy {last['test_accuracy']:.1%} "
                f"({BASELINES['classification']}: {summary['baseline']:.1%}, a linear model: {summary['linear']:.1%})"
            )
        else:
            scores = (
                f"training error {plain(last['train_rmse'])}, held-out error {plain(last['test_rmse'])} (root mean "
                f"square); {BASELINES['regression']}: {plain(summary['baseline'])}, a linear model: "
                f"{plain(summary['linear'])}"
            )
        console.print(scores, highlight=False)
    where = "" if summary["stopping_time"] is None else f", at s = {summary['stopping_time']:.6g}"
    if summary["evidence"] is not None:
        console.print("; ".join(f"{name}: {value}" for name, value in found_words(summary).items()), highlight=False)
    console.print(
        f"{ending(summary)}, after {summary['steps']} steps and {summary['seconds']:.0f} s{where}",
        highlight=False,
    )
    for note in summary["warnings"]:
        if note not in told:
            show(console, "note", note, 4, "yellow")
    say(console, "report ", str(page))
    name = json.dumps(str(folder.path), ensure_ascii=False)
    say(console, "load   ", f"import jaxgeo as jg; model = jg.load({name}).model")
