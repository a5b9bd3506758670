"""A run on a table by networks that the evidence weighs, from beginning to end, kept in its folder."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxgeo.app.data import Kind, Task
from jaxgeo.app.runs.config import Config
from jaxgeo.app.runs.folder import RunFolder
from jaxgeo.app.runs.networks import NAME, Progress, read_progress, to_bytes
from jaxgeo.app.runs.table_summary import row_of, scores_of, summary_of_table
from jaxgeo.fitting.interrupt import Interruptible
from jaxgeo.fitting.keeper import read_rows
from jaxgeo.fitting.tasks import fingerprint_of
from jaxgeo.linalg.memory import total_memory
from jaxgeo.optim.endings import Outcome
from jaxgeo.tabular import Ensemble, TableModel

# Matrices of the size of DᵀD that an update needs.
MATRICES = 4


@dataclass(frozen=True)
class TableSetup:
    """What is known before a run on a table: its data and settings, and the networks before their first update."""

    task: Task
    config: Config
    model: TableModel


def prepare_table(task: Task, config: Config) -> TableSetup:
    """The networks before their first update, the same as those of the estimators with this seed.

    **Raises:** `ValueError` if they need more memory than there is.
    """
    columns, classes = task.train_inputs.shape[1], task.train_targets.shape[1]
    size = (columns + 1) * (1 if classes == 2 else classes)
    if 8 * MATRICES * size**2 > total_memory():
        raise ValueError(
            f"{columns} inputs and {classes} outputs make {size} parameters of a linear path alone, whose DᵀD takes "
            f"{8 * size**2 / 2**30:.3g} GiB; leave columns out with --drop, or use --optimizer adam."
        )
    model = TableModel.start(
        task.train_inputs,
        task.raw_targets,
        task.counts,
        are_classes=task.kind is Kind.CLASSIFICATION,
        random=np.random.RandomState(config.seed % 2**32),
    )
    return TableSetup(task, config, model)


def train_table(
    setup: TableSetup,
    folder: RunFolder,
    *,
    progress: Callable[[dict[str, Any]], None],
    interruptible: Interruptible,
    resume: bool = False,
) -> dict[str, Any]:
    """Train, and keep the run in `folder`, with all that `load` needs to read it back after the first round.

    Ctrl-C ends the run after the round at hand. A run that is resumed ends with the same networks as one that was never
    interrupted.

    **Arguments:**

    - `progress`: called with the row of metrics of each round.
    - `resume`: resume the run that is saved in `folder`.

    **Returns:** the summary, which is in the folder as `summary.json` as well.
    """
    task, config = setup.task, setup.config
    data = fingerprint_of(task.train_inputs, task.raw_targets, task.counts, task.test_inputs, task.test_targets)
    notes, rows, now = list(task.notes), [], Progress(setup.model, data, config.tol)
    if resume and folder.has_begun:
        notes = folder.read_summary()["notes"]
        if NAME in folder.files.names:
            rows, now = _read(task, folder, now)
    else:
        folder.save_config(config)
        folder.save_table(task)
        folder.save_metrics([])
        folder.save_summary(summary_of_table(task, notes, None, now, []))
    began, last = time.monotonic() - now.seconds, -np.inf

    def keep(ensemble: Ensemble) -> None:
        now.seconds = time.monotonic() - began
        # The rows first, so that those of the networks always exist.
        folder.save_metrics(rows)
        kept = dataclasses.replace(now, model=dataclasses.replace(now.model, ensemble=ensemble))
        folder.files.write(NAME, to_bytes(kept))

    def after_round(ensemble: Ensemble) -> bool:
        nonlocal last
        now.rounds += 1
        rows.append(row_of(task, now))
        progress(rows[-1])
        if time.monotonic() - last >= config.keep_every:
            keep(ensemble.snapshot())
            last = time.monotonic()
        return not interruptible.interrupted

    now.model.train(
        task.train_inputs,
        task.raw_targets,
        task.counts,
        rounds=max(config.max_steps - now.rounds, 0),
        tol=config.tol,
        progress=after_round,
    )
    outcome = Outcome.CONVERGED if now.model.ensemble.stopped == "converged" else Outcome.MAX_STEPS
    if outcome is Outcome.MAX_STEPS and now.rounds < config.max_steps:
        outcome = Outcome.INTERRUPTED
    if rows:
        # Those of the rounds before are of the best network alone.
        rows[-1] = {**rows[-1], **scores_of(task, now.model.predict)}
    keep(now.model.ensemble)
    summary = summary_of_table(task, notes, outcome, now, rows)
    folder.save_summary(summary)
    return summary


def _read(task: Task, folder: RunFolder, start: Progress) -> tuple[list[dict[str, Any]], Progress]:
    """The rows and the networks as they were last saved; `ValueError` if they are of other data."""
    classes = len(task.outputs.names) if task.kind is Kind.CLASSIFICATION else None
    found = read_progress(folder.files, task.inputs.names, classes)
    if found.data != start.data:
        raise ValueError(
            f"the run in {folder.path} was started with other data: the samples or targets have changed. Use the same "
            "table, or train in another folder."
        )
    if start.tol < found.tol:
        for member in found.model.ensemble.members:
            member.still = 0
    rows, _ = read_rows(folder.files)
    rows = rows[: found.rounds]
    if rows:
        rows[-1] = row_of(task, found)
    return rows, dataclasses.replace(found, tol=start.tol)
