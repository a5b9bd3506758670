"""A run from beginning to end: what is known beforehand, the integration, and what was found."""

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, SupportsFloat

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxgeo import RankReport, rank_report, supervised, theory
from jaxgeo.flows import AbstractFlow
from jaxgeo.problem import Params, Problem
from jaxgeo.problems import Network, Task
from jaxgeo.training.config import Config
from jaxgeo.training.folder import RunFolder
from jaxgeo.training.interrupt import Interruptible
from jaxgeo.training.monitor import Monitor
from jaxgeo.training.parts import Outcome, integrate_in_parts

# Entries of D beyond which its singular values are not worth the wait.
MOST_ENTRIES = 30_000_000


@dataclass(frozen=True)
class Setup:
    """All that is known before a run begins.

    `stopping_time` is s_ε of (2.18), None where the cost does not follow the law; `report` is None where D is
    too large for its spectrum to be computed.
    """

    task: Task
    config: Config
    network: Network
    problem: Problem
    params: Params
    flow: AbstractFlow
    num_rows: int
    num_params: int
    cost0: float
    stopping_time: float | None
    report: RankReport | None


def prepare(task: Task, config: Config, flow: AbstractFlow) -> Setup:
    """Build network and problem, and find the rank of D and the stopping time.

    Paper: (2.12), (2.18)

    **Raises:** `ValueError` if rank(D) is too small for the flow, or K does not suit it.
    """
    dtype = jnp.float64 if config.precision == "float64" else jnp.float32
    sizes = (task.train_inputs.shape[1], *config.hidden, task.train_targets.shape[1])
    network = Network(sizes, dtype, key=jax.random.key(config.seed))
    problem, params = supervised(network, task.train_inputs, jnp.asarray(task.train_targets, dtype))
    rows, size = problem.num_rows(params), problem.num_params(params)
    required = flow.required_rank(rows, size)
    cost0 = float(problem.cost(params))
    report = rank_report(problem, params) if rows * size <= MOST_ENTRIES else None
    if report is not None and required is not None and report.rank < required:
        doubled = len(task.train_inputs) - len(np.unique(task.train_inputs, axis=0))
        cause = f"; {doubled} of the training rows repeat the inputs of another" if doubled else ""
        raise ValueError(
            f"rank(D) is {report.rank}, but this flow needs {required} (QN={rows}, K={size}){cause}. "
            "Use `RankAdaptiveFlow`, remove repeated rows, or train on fewer samples."
        )
    follows = flow.follows_law(rows, size)
    stop = float(theory.stopping_time(cost0, config.tol * cost0, problem.num_samples)) if follows else None
    return Setup(task, config, network, problem, params, flow, rows, size, cost0, stop, report)


def train(
    setup: Setup,
    folder: RunFolder,
    *,
    on_step: Callable[[float, float], None],
    interruptible: Interruptible,
) -> dict[str, Any]:
    """Integrate the flow and keep the run in `folder`, after each part of a few steps.

    Ctrl-C ends the run after the part at hand; a second one at once, with the state before that part.

    **Arguments:**

    - `on_step`: called as `on_step(s, cost)` at each step while the integration goes on.

    **Returns:** the summary, which is in the folder as `summary.json` as well.
    """
    config, problem = setup.config, setup.problem
    began, offset, steps = time.monotonic(), 0.0, 0
    rows: list[dict[str, Any]] = []
    outcome, message, params = Outcome.INTERRUPTED, "", setup.params
    folder.save_settings(config, setup.task, setup.network.sizes)
    folder.save_parameters(setup.network)
    folder.save_metrics(rows)

    def listen(s: SupportsFloat, cost: SupportsFloat, scores: dict[str, SupportsFloat]) -> None:
        on_step(offset + float(s), float(cost))

    monitor = Monitor(setup.task, setup.network, listen)
    parts = integrate_in_parts(
        problem,
        setup.flow,
        setup.params,
        monitor,
        cost_tol=config.tol * setup.cost0,
        rtol=config.rtol,
        max_steps=config.max_steps,
        rank_check=setup.report is None,
    )
    folder.save_summary(_summary(setup, outcome, message, rows, 0, 0.0, None))
    end, seconds = None, 0.0
    try:
        while not interruptible.interrupted:
            part = interruptible.run(lambda: next(parts))
            params, steps, offset = part.params, steps + part.steps, float(part.s[-1]) if len(part.s) else offset
            seconds = time.monotonic() - began
            rows += _rows(setup, part.s, part.costs, part.scores)
            folder.save_parameters(eqx.combine(params, setup.network))
            folder.save_metrics(rows)
            if part.outcome is not None:
                outcome, message = part.outcome, part.message
                break
        if setup.report is not None and not interruptible.interrupted:
            end = interruptible.run(lambda: rank_report(problem, params))
    except KeyboardInterrupt:
        interruptible.interrupted = True
    summary = _summary(setup, outcome, message, rows, steps, seconds, end)
    folder.save_summary(summary)
    return summary


def _rows(setup: Setup, s: np.ndarray, costs: np.ndarray, scores: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    count = setup.problem.num_samples
    laws = setup.cost0 * np.exp(-2 * s / count)
    return [
        {
            "s": float(s[i]),
            "s_over_N": float(s[i]) / count,
            "cost": float(costs[i]),
            "law": float(laws[i]),
            "deviation": float(costs[i] / laws[i] - 1),
            **{name: float(values[i]) for name, values in scores.items()},
        }
        for i in range(len(s))
    ]


def _summary(
    setup: Setup,
    outcome: Outcome,
    message: str,
    rows: list[dict[str, Any]],
    steps: int,
    seconds: float,
    end: RankReport | None,
) -> dict[str, Any]:
    start, task = setup.report, setup.task
    reached = rows[-1]["s"] if rows else 0.0
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
        "stopping_time": reached,
        "largest_deviation": max((abs(row["deviation"]) for row in rows), default=0.0),
        "steps": steps,
        "seconds": seconds,
        "baseline": task.baseline,
        "warnings": [*task.notes, *_warnings(setup, outcome, message, rows)],
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
    if outcome is Outcome.STALLED:
        found.append("The cost ceased to fall above the tolerance: a critical point. A larger network may go further.")
    if outcome is Outcome.FAILED:
        found.append(f"The integration failed: {message}")
    if setup.num_params < setup.num_rows:
        found.append(
            f"Underparametrized: K={setup.num_params} < QN={setup.num_rows}. The cost ends at a positive value and the "
            "stopping time is not known beforehand; a larger --hidden or fewer --samples changes that."
        )
    if setup.report is None:
        found.append("D is too large here for its rank and spectrum to be computed.")
    elif setup.report.condition > 1e-2 / eps:
        found.append(
            f"cond(DDᵀ) = {setup.report.condition:.1e} is close to what {setup.config.precision} can resolve; "
            "fewer samples or --flow rank-adaptive help if steps become tiny."
        )
    if setup.stopping_time is not None and rows:
        worst = max(abs(row["deviation"]) for row in rows)
        if worst > 0.01:
            found.append(f"The cost left its law by up to {worst:.1%}; a smaller --rtol keeps it closer.")
    score = [row["test_rmse"] for row in rows if "test_rmse" in row]
    if score and score[-1] > 1.05 * min(score):
        best = rows[score.index(min(score))]
        found.append(
            f"The held-out error was smallest, {min(score):.4g}, at s/N = {best['s_over_N']:.2f}, and is "
            f"{score[-1]:.4g} at the end: the network has begun to fit noise. "
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
