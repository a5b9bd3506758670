"""What `jaxgeo train` shows in the terminal."""

import math
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from jaxgeo.report.words import ENDINGS, pick
from jaxgeo.training import RunFolder, Setup


def show_setup(console: Console, setup: Setup) -> None:
    """What is known before training."""
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
    facts["flow"] = f"{setup.config.flow}, until the cost is {setup.config.tol:g} of C(0) = {setup.cost0:.4g}"
    if setup.stopping_time is None:
        facts["stop"] = "not known beforehand: " + (
            "this flow has no law" if setup.num_params >= setup.num_rows else "K < QN, underparametrized"
        )
    else:
        facts["stop"] = f"predicted at s = {setup.stopping_time:.6g}, s/N = {setup.stopping_time / count:.4g}"
    for name, value in facts.items():
        console.print(f"[bold]{name:>8}[/]  ", end="")
        console.print(value, markup=False, highlight=False)
    for note in task.notes:
        console.print(f"[yellow]    note[/]  {note}", highlight=False)


class LiveBar:
    """A progress bar that moves at each step, called from within the compiled integration.

    The bar is the part of the way that log C has come: along the adapted flow this is s over the stopping time.
    """

    def __init__(self, console: Console, setup: Setup):
        self.setup = setup
        self.progress = Progress(
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

    def step(self, s: float, cost: float) -> None:
        """Show flow time and cost."""
        setup, count = self.setup, self.setup.problem.num_samples
        law = setup.cost0 * math.exp(-2 * s / count)
        done = math.log(cost / setup.cost0) / math.log(setup.config.tol) if cost > 0 else 1.0
        facts = f"s/N {s / count:.3f}  cost {cost:.2e}"
        if setup.stopping_time is not None:
            facts += f"  off the law {cost / law - 1:+.0e}"
        self.progress.update(self.bar, description="training", completed=min(max(done, 0.0), 1.0), facts=facts)

    def __enter__(self) -> "LiveBar":
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()


def show_end(
    console: Console, folder: RunFolder, page: Path, summary: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    """The table of steps, the scores, and where all is kept."""
    if rows:
        table = Table("s/N", "cost", "law", "deviation", box=None, header_style="bold")
        for column in table.columns:
            column.justify = "right"
        for row in pick(rows):
            table.add_row(
                f"{row['s_over_N']:.3f}", f"{row['cost']:.4e}", f"{row['law']:.4e}", f"{row['deviation']:+.1e}"
            )
        console.print(table)
        last = rows[-1]
        if summary["kind"] == "classification":
            scores = f"train accuracy {last['train_accuracy']:.1%}, test accuracy {last['test_accuracy']:.1%}"
            console.print(f"{scores} (always the commonest class: {summary['baseline']:.1%})", highlight=False)
        else:
            scores = f"train error {last['train_rmse']:.4g}, test error {last['test_rmse']:.4g} (root mean square)"
            console.print(f"{scores}; always the mean: {summary['baseline']:.4g}", highlight=False)
    console.print(
        f"{ENDINGS[summary['outcome']]}, after {summary['steps']} steps and {summary['seconds']:.0f} s, at "
        f"s = {summary['stopping_time']:.6g}", highlight=False
    )  # fmt: skip
    for warning in summary["warnings"]:
        console.print("[yellow]note[/]  ", end="")
        console.print(warning, markup=False, highlight=False)
    console.print(f"[bold]report[/]  {page}", highlight=False, soft_wrap=True)
    console.print(f'[bold]load[/]    from jaxgeo.training import load; model = load("{folder.path}").model',
                  highlight=False, soft_wrap=True)  # fmt: skip
