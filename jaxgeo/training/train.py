"""A run from beginning to end: what is known beforehand, the integration, and what was found."""

import contextlib
import dataclasses
import importlib.metadata
import math
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgeo import RankReport, rank_report, supervised, theory
from jaxgeo.flows import AbstractFlow
from jaxgeo.outputs import Params
from jaxgeo.problem import Problem
from jaxgeo.problems import Network, Task
from jaxgeo.training.config import Config
from jaxgeo.training.drivers import Outcome
from jaxgeo.training.fitting import fit
from jaxgeo.training.folder import RunFolder
from jaxgeo.training.interrupt import Interruptible
from jaxgeo.training.loop import Fit, Progress
from jaxgeo.training.methods import Method, flow_named, optimizer_named
from jaxgeo.training.monitor import Monitor, kept_row, moment, plain

# Entries of D beyond which its singular values are not worth the wait.
MOST_ENTRIES = 30_000_000
# cond(DDᵀ) from which on, along the way, a Cholesky factor may not do.
SLOW_CONDITION = 1e-3 / float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Setup:
    """All that is known before a run begins.

    `stopping_time` is s_ε of (2.18), None where the cost does not follow the law; `report` is None where D is
    too large for its spectrum to be computed. `validation` is what patience judges by.
    """

    task: Task
    config: Config
    network: Network
    problem: Problem
    params: Params
    method: Method
    validation: tuple[np.ndarray, np.ndarray] | None
    num_rows: int
    num_params: int
    cost0: float
    stopping_time: float | None
    report: RankReport | None

    @property
    def has_slow_steps(self) -> bool:
        """Whether a flow has to go through a D that is too ill-conditioned for a Cholesky factor."""
        return isinstance(self.method, AbstractFlow) and bool(self.report and self.report.condition > SLOW_CONDITION)


def prepare(task: Task, config: Config) -> Setup:
    """Build network and problem, and find the rank of D and the stopping time.

    Paper: (2.1), (2.18)

    **Raises:** `ValueError` if the flow or optimizer has no such name, or takes no such option; if rank(D) is too small
    for the flow, or K does not suit it.
    """
    method = optimizer_named(config.optimizer, config.learning_rate) if config.optimizer else flow_named(config.flow)
    flow = method if isinstance(method, AbstractFlow) else None
    validation = None
    if config.patience is not None:
        task, validation = _split(task)
    dtype = jnp.float64 if config.precision == "float64" else jnp.float32
    sizes = (task.train_inputs.shape[1], *config.hidden, task.train_targets.shape[1])
    network = Network(sizes, dtype, key=jax.random.key(config.seed))
    problem, params = supervised(network, task.train_inputs, jnp.asarray(task.train_targets, dtype))
    rows, size = problem.num_rows(params), problem.num_params(params)
    required = None if flow is None else flow.required_rank(rows, size)
    cost0 = float(problem.cost(params))
    report = rank_report(problem, params) if rows * size <= MOST_ENTRIES else None
    if report is not None and required is not None and report.rank < required:
        doubled = len(task.train_inputs) - len(np.unique(task.train_inputs, axis=0))
        cause = f"; {doubled} of the training rows repeat the inputs of another" if doubled else ""
        raise ValueError(
            f"rank(D) is {report.rank}, but this flow needs {required} (QN={rows}, K={size}){cause}. "
            "Use `RankAdaptiveFlow`, remove repeated rows, or train on fewer samples."
        )
    follows = flow is not None and flow.follows_law(rows, size)
    stop = float(theory.stopping_time(cost0, config.tol * cost0, problem.num_samples)) if follows else None
    setup = Setup(task, config, network, problem, params, method, validation, rows, size, cost0, stop, report)
    if report is None or not setup.has_slow_steps:
        return setup
    note = (
        f"cond(DDᵀ) = {report.condition:.1e} is close to what float64 resolves: steps that go through the singular "
        "values of D instead are many times slower. Fewer --samples help, or --optimizer levenberg-marquardt."
    )
    return dataclasses.replace(setup, task=dataclasses.replace(task, notes=(*task.notes, note)))


def _split(task: Task) -> tuple[Task, tuple[np.ndarray, np.ndarray]]:
    """Half of the held-out rows to judge by when to stop, so that the score of the others stays an honest one."""
    half = len(task.test_inputs) // 2
    if half == 0:
        raise ValueError("--patience judges by half of the held-out rows, and there are fewer than 2; raise "
                         "--test-fraction.")  # fmt: skip
    note = f"Half of the held-out rows, {half}, were used to decide when to stop; the scores are those of the others."
    rest = dataclasses.replace(
        task, test_inputs=task.test_inputs[half:], test_targets=task.test_targets[half:], notes=(*task.notes, note)
    )
    return rest, (task.test_inputs[:half], task.test_targets[:half])


def train(
    setup: Setup,
    folder: RunFolder,
    *,
    progress: Callable[[Progress], None],
    interruptible: Interruptible,
    resume: bool = False,
) -> dict[str, Any]:
    """Train by `jaxgeo.fit` and keep the run in `folder`, with all that `load` needs to read it back at any time.

    Ctrl-C ends the run after the part at hand; a second one at once, with the state before that part.

    **Arguments:**

    - `progress`: as for `jaxgeo.fit`.
    - `resume`: go on with what is kept in `folder`.

    **Returns:** the summary, which is in the folder as `summary.json` as well.
    """
    config, task = setup.config, setup.task
    # The settings of a run that is gone on with hold what was chosen for it; why, was noted when it began.
    before: list[str] = folder.read_summary().get("notes", []) if resume else []
    notes = [*before, *(note for note in task.notes if note not in before)]
    if not (resume and (folder.path / "summary.json").exists()):
        folder.save_settings(config, task, setup.network.sizes)
        folder.save_parameters(setup.network)
        folder.save_metrics([])
        folder.save_summary(_summary(setup, notes, None, [], None))
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
    summary = _summary(setup, notes, found, found.rows, end)
    folder.save_summary(summary)
    return summary


class _KeepParameters:
    """Writes the network of a run that is going on, so that it can be loaded whatever happens."""

    def __init__(self, folder: RunFolder, every: float):
        self.folder, self.every, self.last = folder, every, -math.inf

    def __call__(self, progress: Progress, network: Network) -> None:
        if progress.seconds - self.last >= self.every:
            self.folder.save_parameters(network)
            self.last = progress.seconds


def _summary(
    setup: Setup, notes: Sequence[str], found: Fit | None, rows: list[dict[str, Any]], end: RankReport | None
) -> dict[str, Any]:
    """What a run found; before it has ended, what there is if it never does."""
    start, task = setup.report, setup.task
    outcome, message = (Outcome.INTERRUPTED, "") if found is None else (found.outcome, found.message)
    return {
        "name": task.name,
        "source": task.source,
        "kind": task.kind.value,
        "outcome": outcome.value,
        "message": message,
        "N": setup.problem.num_samples,
        "QN": setup.num_rows,
        "K": setup.num_params,
        "test_rows": len(task.test_inputs),
        "rank": None if start is None else start.rank,
        "condition": None if start is None else start.condition,
        "spectrum_start": None if start is None else start.eigenvalues.tolist(),
        "spectrum_end": None if end is None else end.eigenvalues.tolist(),
        "cost0": setup.cost0,
        "cost": rows[-1]["cost"] if rows else setup.cost0,
        "predicted_stopping_time": setup.stopping_time,
        "stopping_time": 0.0 if found is None else found.s,
        "largest_deviation": max((abs(row["deviation"]) for row in rows if "deviation" in row), default=0.0),
        "steps": 0 if found is None else found.steps,
        "seconds": 0.0 if found is None else found.seconds,
        "baseline": task.baseline,
        "notes": list(notes),
        "warnings": [*notes, *_warnings(setup, outcome, message, rows)],
        "environment": environment(),
    }


def _warnings(setup: Setup, outcome: Outcome, message: str, rows: list[dict[str, Any]]) -> list[str]:
    """What the reader of the report should know, in words."""
    found = []
    eps = float(np.finfo(setup.config.precision).eps)
    if outcome is Outcome.INTERRUPTED:
        found.append("The run was interrupted; what is kept is its state after the last finished part.")
    if outcome is Outcome.MAX_STEPS:
        found.append(f"Stopped after {setup.config.max_steps} steps, before the tolerance; --max-steps allows more.")
    if outcome is Outcome.STALLED and not message:
        found.append("The cost ceased to fall above the tolerance: a critical point. A larger network may go further.")
    if outcome is Outcome.FAILED:
        found.append(f"The training failed: {message}")
    elif message:
        found.append(message)
    if outcome is Outcome.EARLY:
        found.append(f"Stopped after {setup.config.patience} parts without a new minimum of the validation cost.")
    if rows and kept_row(rows) is not rows[-1]:
        found.append(
            f"The network that is kept, and scored, is that at {moment(kept_row(rows))}, where the validation cost was "
            "smallest."
        )
    if setup.num_params < setup.num_rows:
        found.append(
            f"Underparametrized: K={setup.num_params} < QN={setup.num_rows}. The cost ends at a positive value and the "
            "stopping time is not known beforehand; a larger --hidden or fewer --samples changes that."
        )
    if setup.report is None:
        found.append("D is too large here for its rank and spectrum to be computed.")
    elif setup.report.condition > 1e-2 / eps and not setup.has_slow_steps:
        found.append(
            f"cond(DDᵀ) = {setup.report.condition:.1e} is close to what {setup.config.precision} can resolve; "
            "fewer samples or --flow rank-adaptive help if steps become tiny."
        )
    if setup.stopping_time is not None and rows:
        worst = max(abs(row["deviation"]) for row in rows)
        if worst > 0.01:
            found.append(f"The cost left its law by up to {worst:.1%}; a smaller --rtol keeps it closer.")
    score = [row["test_rmse"] for row in rows if "test_rmse" in row]
    if setup.validation is None and score and score[-1] > 1.05 * min(score):
        best = rows[score.index(min(score))]
        found.append(
            f"The held-out error was smallest, {plain(min(score))}, at {moment(best)}, and is "
            f"{plain(score[-1])} at the end: the network has begun to fit noise. "
            f"--tol {best['cost'] / setup.cost0:.1g} stops there."
        )
    if len(setup.task.test_inputs) < 30:
        found.append(f"Only {len(setup.task.test_inputs)} rows are held out: their score is a rough estimate.")
    return found


def environment() -> dict[str, str]:
    """Versions and devices."""
    names = ("jaxgeo", "jax", "equinox", "diffrax", "lineax", "numpy")
    return {
        "Python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in names},
        "device": ", ".join(sorted({device.device_kind for device in jax.devices()})),
        "CPU cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
    }
