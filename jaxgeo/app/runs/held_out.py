"""The predictions for the held-out rows, one by one."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxgeo.app.data import Kind, Task
from jaxgeo.equations import Network

# Classes of which all pairs are counted, rows whose errors are shown, and wrong rows that are named.
MOST_CLASSES = 30
MOST_POINTS = 2000
MOST_NAMED = 10

FIELDS: dict[str, Any] = {
    "classes": tuple[str, ...],
    # Rows of each true class, taken for each class: row-major.
    "confusion": tuple[int, ...],
    # Columns of one length: `row`, `true`, `predicted` and, for classes, the `lead` of the answer over the truth, or
    # for numbers, where it is known, the `deviation` of a new value.
    "held_out": dict[str, tuple[float, ...]],
}


def nothing_held_out() -> dict[str, Any]:
    """The fields of a run that has not ended."""
    return {"classes": [], "confusion": [], "held_out": {}}


def held_out(task: Task, network: Network) -> dict[str, Any]:
    """The fields `classes`, `confusion` and `held_out` of a summary.

    For classification the answers are counted, and the surest of the wrong ones are named; for regression true and
    predicted values stand side by side, in the unit of the target.
    """
    outputs = np.asarray(_outputs(network, jnp.asarray(task.test_inputs, network.layers[0].weight.dtype)), np.float64)
    return held_out_of(task, outputs if task.kind is Kind.CLASSIFICATION else task.outputs.invert(outputs))


def held_out_of(
    task: Task, outputs: Float[np.ndarray, "M Q"], deviation: Float[np.ndarray, "M 1"] | None = None
) -> dict[str, Any]:
    """`held_out` of outputs for classes, or of numbers in the unit of the target, with their standard deviations."""
    rows = np.asarray(task.test_rows)
    if task.kind is Kind.REGRESSION:
        shown = slice(MOST_POINTS)
        columns = {"row": rows, "true": task.outputs.invert(task.test_targets)[:, 0], "predicted": outputs[:, 0]}
        columns |= {} if deviation is None else {"deviation": deviation[:, 0]}
        return nothing_held_out() | {"held_out": {name: column[shown].tolist() for name, column in columns.items()}}
    true, predicted = task.test_targets.argmax(axis=1), outputs.argmax(axis=1)
    lead = outputs.max(axis=1) - outputs[np.arange(len(true)), true]
    surest = np.argsort(-lead, kind="stable")[: min(MOST_NAMED, int(np.sum(true != predicted)))]
    columns = {"row": rows, "true": true, "predicted": predicted, "lead": lead}
    classes = task.outputs.names
    counted = len(classes) <= MOST_CLASSES
    pairs = np.bincount(true * len(classes) + predicted, minlength=len(classes) ** 2) if counted else np.zeros(0, int)
    return {
        "classes": list(classes),
        "confusion": pairs.tolist(),
        "held_out": {name: column[surest].tolist() for name, column in columns.items()},
    }


@eqx.filter_jit
def _outputs(network: Network, inputs: Float[jax.Array, "M features"]) -> Float[jax.Array, "M Q"]:
    return jax.vmap(network)(inputs)


def check_held_out(found: dict[str, Any]) -> None:
    """`ValueError` unless the fields are as `held_out` makes them, for a summary of its kind."""
    columns, classes, pairs = found["held_out"], found["classes"], found["confusion"]
    if classes and found["kind"] != Kind.CLASSIFICATION.value:
        raise ValueError("`classes` are for a classification")
    wanted = {"row", "true", "predicted", "lead"} if classes else {"row", "true", "predicted"}
    if columns and set(columns) != wanted and (classes or set(columns) != wanted | {"deviation"}):
        raise ValueError(f"`held_out` must have the columns {', '.join(sorted(wanted))}; got {str(list(columns))[:80]}")
    lengths, most = {len(column) for column in columns.values()}, MOST_NAMED if classes else MOST_POINTS
    if len(lengths) > 1 or max(lengths, default=0) > most:
        raise ValueError(f"the columns of `held_out` must have one length, of at most {most}")
    if not all(math.isfinite(value) and abs(value) < 2**1000 for column in columns.values() for value in column):
        raise ValueError("`held_out` must hold finite numbers")
    if pairs and (len(pairs) != len(classes) ** 2 or len(classes) > MOST_CLASSES):
        raise ValueError(
            f"`confusion` must hold {len(classes) ** 2} numbers for {len(classes)} classes; got {len(pairs)}"
        )
    if not all(0 <= pair < 2**63 for pair in pairs):
        raise ValueError("`confusion` must hold counts")
    named = (*columns.get("true", ()), *columns.get("predicted", ())) if classes else ()
    if any(not (0 <= index < len(classes) and index == int(index)) for index in named):
        raise ValueError("`held_out` names a class that is not in `classes`")
