"""Phrases and choices that the page and the terminal share."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from jaxgeo.app.runs.monitor import kept_row, plain

Item = TypeVar("Item")

ENDINGS = {
    "reached": "the cost reached the tolerance",
    "converged": "there is no lower cost nearby",
    "stalled": "the cost stopped falling before it reached the tolerance",
    "max_steps": "all allowed steps were used up before the cost reached the tolerance",
    "max_seconds": "the allowed time was used up before the cost reached the tolerance",
    "failed": "the integration failed",
    "interrupted": "the run was interrupted",
    "early": "the validation cost stopped improving",
    "stopped": "the run was stopped",
}

# Of networks that the evidence weighs.
EVIDENCE_ENDINGS = {
    "converged": "the evidence stopped growing",
    "max_steps": "all allowed updates were made",
    "interrupted": "the run was interrupted",
}


def ending(summary: dict[str, Any]) -> str:
    """How a run ended."""
    found = ENDINGS[summary["outcome"]]
    return found if summary["evidence"] is None else EVIDENCE_ENDINGS.get(summary["outcome"], found)


# Predictions that ignore the inputs.
BASELINES = {"classification": "always the most common class", "regression": "always the mean"}


def axis(rows: list[dict[str, Any]]) -> tuple[str, str]:
    """The axis of a run, as its name in the rows and a label: the time of a flow, or the updates."""
    return ("s_over_N", "s/N") if rows and "s_over_N" in rows[0] else ("step", "update")


def step_table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The header and the cells of a table of about 16 rows; it includes the row of the network that is saved."""
    name, label = axis(rows)
    kept = kept_row(rows) if rows else {}
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        label: (lambda row: str(row[name])) if name == "step" else (lambda row: f"{row[name]:.3f}"),
        "cost": lambda row: f"{row['cost']:.4e}",
    }
    if rows and "log_evidence" in rows[0]:
        # It is not known before the precisions follow.
        columns["log evidence"] = lambda row: f"{row['log_evidence']:.1f}" if math.isfinite(row["log_evidence"]) else ""
    if any("validation_cost" in row for row in rows):
        columns["validation cost"] = lambda row: f"{row['validation_cost']:.4e}" if "validation_cost" in row else ""
    if name != "step":
        columns |= {"law": lambda row: f"{row['law']:.4e}", "deviation": lambda row: f"{row['deviation']:+.1e}"}
    if "test_accuracy" in kept:
        columns["held-out accuracy"] = lambda row: f"{row['test_accuracy']:.1%}"
    if "test_rmse" in kept:
        columns["held-out error"] = lambda row: plain(row["test_rmse"])
    if rows and kept is not rows[-1]:
        columns[""] = lambda row: "saved" if row is kept else ""
    return [*columns], [[cell(row) for cell in columns.values()] for row in pick_rows(rows)]


def pick_rows(rows: list[dict[str, Any]], most: int = 16) -> list[dict[str, Any]]:
    """At most `most` rows, evenly spread, and the row of the network that is saved."""
    chosen = pick(rows, most)
    if not rows or any(row is kept_row(rows) for row in chosen):
        return chosen
    along = axis(rows)[0]
    return sorted([*chosen, kept_row(rows)], key=lambda row: row[along])


def pick(rows: Sequence[Item], most: int = 16) -> list[Item]:
    """At most `most` rows, evenly spread, with the first and the last."""
    if len(rows) <= most:
        return list(rows)
    return [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, most).round().astype(int))]
