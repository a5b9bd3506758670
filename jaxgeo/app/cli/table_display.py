"""The terminal output of a run by networks that the evidence weighs, beside what `display` prints for any run."""

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress as Bar, TextColumn, TimeElapsedColumn

from jaxgeo.app.cli.display import RunningBar, show
from jaxgeo.app.report.tables import networks_words
from jaxgeo.app.runs.tables import TableSetup


def show_table_setup(console: Console, setup: TableSetup) -> None:
    """Print what is known before training."""
    task = setup.task
    facts = {
        "data": f"{task.source}; {len(task.train_inputs)} to train on, {len(task.test_inputs)} held out "
        f"({task.kind.value})",
        "inputs": f"{task.train_inputs.shape[1]} from the columns of the table",
        "networks": f"{networks_words(setup.model)}, weighted by their evidence",
        "updates": f"at most {setup.config.max_steps} of each",
    }
    for name, value in facts.items():
        show(console, name, value, 9)
    for note in task.notes:
        show(console, "note", note, 9, "yellow")


class TableBar(RunningBar):
    """A progress bar that moves at each round of updates."""

    def __init__(self, console: Console, setup: TableSetup):
        self.rounds = setup.config.max_steps
        self.progress = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.bar = self.progress.add_task("training", total=1.0, facts="")

    def show(self, row: dict[str, Any]) -> None:
        """Show where the run is."""
        facts = f"update {row['step']} of at most {self.rounds}  cost {row['cost']:.3g}"
        self.progress.update(self.bar, completed=row["step"] / self.rounds, facts=facts)

    def __enter__(self) -> "TableBar":
        self.progress.start()
        return self
