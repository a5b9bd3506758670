"""Train a run from beginning to end, and save it in its folder."""

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from jaxgeo.app.runs.folder import RunFolder
from jaxgeo.app.runs.monitor import Monitor
from jaxgeo.app.runs.setup import Setup
from jaxgeo.app.runs.summary import summary_of
from jaxgeo.equations import Network
from jaxgeo.fitting.call import fit
from jaxgeo.fitting.interrupt import Interruptible
from jaxgeo.fitting.loop import Progress
from jaxgeo.flows import AbstractFlow
from jaxgeo.geometry import rank_report
from jaxgeo.optim.endings import Outcome


def train(
    setup: Setup,
    folder: RunFolder,
    *,
    progress: Callable[[Progress], None],
    interruptible: Interruptible,
    resume: bool = False,
) -> dict[str, Any]:
    """Train by `jaxgeo.fit` and save the run in `folder`, so that `load` can read it at any time.

    Ctrl-C ends the run after the current part; a second one ends it at once, with the state before that part.

    **Arguments:**

    - `progress`: as for `jaxgeo.fit`.
    - `resume`: resume the run that is saved in `folder`.

    **Returns:** the summary, which is also saved as `summary.json`.
    """
    config, task = setup.config, setup.task
    # A resumed run has the notes of its beginning, which explain the choices in its settings.
    goes_on = resume and folder.has_begun
    before: Sequence[str] = ()
    if goes_on:
        summary = folder.read_summary()
        before = summary["notes"]
        if summary["outcome"] != Outcome.INTERRUPTED.value and not folder.has_checkpoints:
            raise ValueError(
                f"there is nothing in {folder.path} to resume from: the run has ended, and its checkpoints are gone. "
                "Train it again, with its config.toml and another --out."
            )
    notes = [*before, *(note for note in task.notes if note not in before)]
    if not goes_on:
        folder.save_settings(config, task, setup.network.sizes)
        folder.save_parameters(setup.network)
        folder.save_metrics([])
        folder.save_summary(summary_of(setup, notes, None, [], None))
    dtype = setup.network.layers[0].weight.dtype
    found = fit(
        setup.network,
        task.train_inputs,
        jnp.asarray(task.train_targets, dtype),
        method=setup.method,
        tol=config.tol,
        rtol=config.rtol if isinstance(setup.method, AbstractFlow) else None,
        max_steps=config.max_steps,
        batch_size=config.batch_size,
        record_every=config.record_every,
        seed=config.seed,
        validation=setup.validation,
        patience=config.patience,
        record=Monitor(task, setup.network),
        progress=progress,
        callbacks=[_KeepParameters(folder, config.keep_every)],
        folder=folder.path,
        resume=resume,
        keep_every=config.keep_every,
        rank_check=setup.report is None,
        interruptible=interruptible,
    )
    folder.save_parameters(found.model)
    end = None
    if setup.report is not None and not interruptible.interrupted:
        params, _ = setup.problem.partition(found.model)
        with contextlib.suppress(KeyboardInterrupt):
            end = interruptible.run(lambda: rank_report(setup.problem, params))
    summary = summary_of(setup, notes, found, found.rows, end)
    folder.save_summary(summary)
    return summary


class _KeepParameters:
    """Saves the network during the run, so that it can be loaded whatever happens."""

    def __init__(self, folder: RunFolder, every: float):
        self.folder, self.every, self.last = folder, every, -math.inf

    def __call__(self, progress: Progress, network: Network) -> None:
        if progress.seconds - self.last >= self.every:
            self.folder.save_parameters(network)
            self.last = progress.seconds
