"""What a run on a table by networks that the evidence weighs has found, in numbers and in words."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxgeo.app.data import Kind, Task
from jaxgeo.app.runs.held_out import MOST_POINTS, held_out_of, nothing_held_out
from jaxgeo.app.runs.networks import Progress
from jaxgeo.app.runs.summary import environment, worse_than_simple
from jaxgeo.optim.endings import Outcome

# The probability of the intervals whose coverage is counted.
LEVEL = 0.9
# Held-out rows of which there must be so many for a score that is more than a rough estimate.
FEW_ROWS = 30

Rows = Float[np.ndarray, "rows _"]


def scores_of(task: Task, predict: Callable[[Rows], Rows]) -> dict[str, float]:
    """Accuracies, or root mean square errors in the unit of the target, on the training and the held-out rows."""
    found = {}
    for name, inputs in (("train", task.train_inputs), ("test", task.test_inputs)):
        outputs, held_out = predict(inputs), name == "test"
        if task.kind is Kind.CLASSIFICATION:
            found[f"{name}_accuracy"] = task.accuracy(outputs.argmax(axis=1), held_out=held_out)
        else:
            found[f"{name}_rmse"] = task.error(task.outputs.apply(outputs), held_out=held_out)
    return found


def row_of(task: Task, now: Progress) -> dict[str, Any]:
    """The metrics after a round: of the network with the largest evidence."""
    ensemble = now.model.ensemble
    log_evidence = max(member.log_evidence for member in ensemble.members)
    return {
        "step": now.rounds,
        "cost": ensemble.losses[-1],
        "log_evidence": float(log_evidence),
        **scores_of(task, now.model.predict_by_best),
    }


def summary_of_table(
    task: Task, notes: Sequence[str], outcome: Outcome | None, now: Progress, rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """The fields of `summary.json`; before the run has ended, what there is if it never does."""
    members = now.model.ensemble.members
    evidences = now.model.ensemble.evidences
    best = members[0] if not evidences else members[int(now.model.ensemble.log_evidences.argmax())]
    return {
        "name": task.name,
        "source": task.source,
        "kind": task.kind.value,
        "outcome": (outcome or Outcome.INTERRUPTED).value,
        "message": "",
        "N": len(task.train_inputs),
        "QN": len(task.train_inputs) * best.shape.outputs,
        "K": best.shape.size,
        "test_rows": len(task.test_inputs),
        **dict.fromkeys(("rank", "condition", "spectrum_start", "spectrum_end")),
        "cost0": rows[0]["cost"] if rows else 0.0,
        "cost": rows[-1]["cost"] if rows else 0.0,
        **dict.fromkeys(("predicted_stopping_time", "stopping_time")),
        "largest_deviation": 0.0,
        "steps": now.rounds,
        "seconds": now.seconds,
        "baseline": task.baseline,
        "linear": task.linear_score,
        "notes": list(notes),
        "warnings": [*worse_than_simple(task, rows), *notes, *(_warnings(task, outcome, now) if outcome else [])],
        "environment": environment(),
        **(nothing_held_out() if outcome is None else _held_out(task, now)),
        "evidence": None if outcome is None else _evidence(task, now),
    }


def _held_out(task: Task, now: Progress) -> dict[str, Any]:
    model = now.model
    if task.kind is Kind.CLASSIFICATION:
        return held_out_of(task, model.predict(task.test_inputs))
    shown = task.test_inputs[:MOST_POINTS]
    deviation = model.deviation(shown)
    # That of a logarithm may be larger than numbers are.
    return held_out_of(task, model.predict(shown), deviation if np.isfinite(deviation).all() else None)


def _evidence(task: Task, now: Progress) -> dict[str, float]:
    """What only such networks have; `coverage` and `noise` for numbers alone."""
    model = now.model
    found = {
        "networks": float(np.sum(model.ensemble.weights > 0)),
        "log_evidence": model.log_evidence,
        "effective": model.num_effective,
        "boosting": task.boosting_score,
    }
    if model.noise is None:
        return found
    true = task.outputs.invert(task.test_targets)
    low, high = model.interval(task.test_inputs, LEVEL)
    inside = ((low <= true) & (true <= high))[:, 0]
    return found | {
        "coverage": float(np.average(inside, weights=task.test_weights)),
        "level": LEVEL,
        "noise": float(model.noise[0]),
        "takes_logs": float(model.takes_logs),
    }


def _warnings(task: Task, outcome: Outcome, now: Progress) -> list[str]:
    """What the reader of the report should know, in words."""
    found = []
    if outcome is Outcome.INTERRUPTED:
        found.append("The run was interrupted. Its state after the last finished update is saved.")
    elif outcome is Outcome.MAX_STEPS and not now.model.ensemble.has_settled(task.counts.sum()):
        found.append(f"After {now.rounds} updates the evidence still grew; --max-steps allows more.")
    if now.model.takes_logs:
        found.append("The networks learnt the logarithm of the target, which a linear model finds more probable.")
    if len(task.test_inputs) < FEW_ROWS:
        found.append(f"Only {len(task.test_inputs)} rows are held out: their score is a rough estimate.")
    return found
