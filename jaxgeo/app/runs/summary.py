"""The results of a run, in numbers and in words."""

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxgeo.app.data import Kind, Task
from jaxgeo.app.runs.config import LEAST_TOL
from jaxgeo.app.runs.fields import read_fields
from jaxgeo.app.runs.held_out import FIELDS as HELD_OUT, check_held_out, held_out, nothing_held_out
from jaxgeo.app.runs.monitor import kept_row, moment, plain
from jaxgeo.app.runs.setup import Setup
from jaxgeo.fitting.files import read_json
from jaxgeo.fitting.loop import Fit
from jaxgeo.flows import AbstractFlow
from jaxgeo.geometry import RankReport
from jaxgeo.optim.endings import Outcome

FIELDS: dict[str, Any] = {
    **dict.fromkeys(("name", "source", "kind", "outcome", "message"), str),
    **dict.fromkeys(("N", "QN", "K", "test_rows", "steps"), int),
    **dict.fromkeys(("cost0", "cost", "largest_deviation", "seconds", "baseline", "linear"), float),
    **dict.fromkeys(("condition", "predicted_stopping_time", "stopping_time"), float | None),
    **dict.fromkeys(("spectrum_start", "spectrum_end"), tuple[float, ...] | None),
    **dict.fromkeys(("notes", "warnings"), tuple[str, ...]),
    "rank": int | None,
    # Of networks that the evidence weighs; see `table_summary`.
    "evidence": dict[str, float] | None,
    "environment": dict[str, str],
    **HELD_OUT,
}


def read_summary(content: bytes) -> dict[str, Any]:
    """What `summary_of` found, back from JSON; `ValueError` if it is not that."""
    found = read_fields(read_json(content), FIELDS)
    for name, kinds in (("outcome", Outcome), ("kind", Kind)):
        kinds(found[name])
    counts = [found["N"], found["QN"], found["K"], found["steps"] + 1, found["test_rows"] + 1, (found["rank"] or 0) + 1]
    if not all(1 <= count < 2**63 for count in counts):
        raise ValueError("its counts must be positive, and below 2**63")
    check_held_out(found)
    return found


def summary_of(
    setup: Setup, notes: Sequence[str], found: Fit | None, rows: list[dict[str, Any]], end: RankReport | None
) -> dict[str, Any]:
    """The results of a run; before its end, those in case that it never ends properly."""
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
        "cost": kept_row(rows)["cost"] if rows else setup.cost0,
        "predicted_stopping_time": setup.stopping_time,
        "stopping_time": 0.0 if found is None else found.s,
        "largest_deviation": max((abs(row["deviation"]) for row in rows if "deviation" in row), default=0.0),
        "steps": 0 if found is None else found.steps,
        "seconds": 0.0 if found is None else found.seconds,
        "baseline": task.baseline,
        "linear": task.linear_score,
        "notes": list(notes),
        "warnings": [*worse_than_simple(task, rows), *notes, *_warnings(setup, outcome, message, rows)],
        "environment": environment(),
        **(nothing_held_out() if found is None else held_out(task, found.model)),
        "evidence": None,
    }


def _warnings(setup: Setup, outcome: Outcome, message: str, rows: list[dict[str, Any]]) -> list[str]:
    """Sentences that the reader of the report should know."""
    found = []
    eps, flows = float(np.finfo(setup.config.precision).eps), isinstance(setup.method, AbstractFlow)
    if outcome is Outcome.INTERRUPTED:
        found.append("The run was interrupted. Its state after the last finished part is saved.")
    if outcome is Outcome.MAX_STEPS:
        found.append(f"Stopped after {setup.config.max_steps} steps, before the tolerance; --max-steps allows more.")
    if outcome is Outcome.STALLED and not message:
        found.append("The cost stopped falling above the tolerance, near a critical point. A larger network may help.")
    if outcome is Outcome.FAILED:
        found.append(f"The training failed: {message}")
    elif message:
        found.append(message)
    if outcome is Outcome.EARLY:
        found.append(f"Stopped after {setup.config.patience} parts without a new minimum of the validation cost.")
    found += (diverged := _diverged(setup, rows))
    if rows and kept_row(rows) is not rows[-1]:
        found.append(
            f"The network that is saved and scored is the one at {moment(kept_row(rows))}, where the validation cost "
            "was smallest."
        )
    if setup.num_params < setup.num_rows and setup.validation is None:
        found.append(
            f"Underparametrized: K={setup.num_params} < QN={setup.num_rows}. The cost ends at a positive value, and "
            "the stopping time is not known in advance. A larger --hidden or fewer --samples changes that."
        )
    if setup.report is None and flows:
        found.append("D is too large here for its rank and spectrum to be computed.")
    elif setup.report is not None and setup.report.condition > 1e-2 / eps and not setup.has_slow_steps:
        close = f"cond(DDᵀ) = {setup.report.condition:.1e} is close to what {setup.config.precision} can resolve; "
        if flows:
            found.append(f"{close}fewer samples or --flow rank-adaptive help if steps become tiny.")
        elif setup.validation is None:
            found.append(f"{close}the cost may fall slowly at the end.")
    if setup.stopping_time is not None and rows:
        worst = max(abs(row["deviation"]) for row in rows)
        if worst > 0.01:
            found.append(f"The cost left its law by up to {worst:.1%}; a smaller --rtol keeps it closer.")
    score = [row["test_rmse"] for row in rows if "test_rmse" in row]
    if setup.validation is None and not diverged and score and score[-1] > 1.05 * min(score):
        best = rows[score.index(min(score))]
        tol = f"{best['cost'] / setup.cost0:.1g}"
        found.append(
            f"The held-out error was smallest, {plain(min(score))}, at {moment(best)}, and is "
            f"{plain(score[-1])} at the end: the network has begun to fit noise."
            # What cannot be asked for is not advised.
            + (f" --tol {tol} stops there." if LEAST_TOL <= float(tol) < 1 else "")
        )
    if len(setup.task.test_inputs) < 30:
        found.append(f"Only {len(setup.task.test_inputs)} rows are held out: their score is a rough estimate.")
    return found


def _diverged(setup: Setup, rows: list[dict[str, Any]]) -> list[str]:
    """That the cost rose instead of falling, so that nothing can be said of overfitting."""
    if not rows or not setup.config.optimizer or rows[-1]["cost"] <= setup.cost0:
        return []
    rate = setup.config.learning_rate
    slower = "a smaller --learning-rate" if rate is None else f"a --learning-rate well below {rate:g}"
    return [
        f"The training diverged: the cost rose from {plain(setup.cost0)} to {plain(rows[-1]['cost'])}. Choose "
        f"{slower}, or an optimizer that needs none, such as levenberg-marquardt."
    ]


def worse_than_simple(task: Task, rows: list[dict[str, Any]]) -> list[str]:
    """Said first: that a constant, or a linear model, predicts the held-out rows better."""
    if not rows:
        return []
    row, better = kept_row(rows), []
    for name, score in (("a constant", task.baseline), ("a linear model", task.linear_score)):
        if task.kind is Kind.CLASSIFICATION:
            better += [f"{name} ({score:.1%})"] if score > row["test_accuracy"] else []
        else:
            better += [f"{name} ({plain(score)})"] if not row["test_rmse"] <= score else []
    return [f"On the held-out rows the network predicts worse than {' and '.join(better)}."] if better else []


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
