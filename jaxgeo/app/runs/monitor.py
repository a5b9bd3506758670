"""The scores that a run of the command line records at each step."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo.app.data import Kind, Task
from jaxgeo.equations import Network
from jaxgeo.outputs import Params
from jaxgeo.problem import Problem


class Monitor(eqx.Module):
    """Scores on the training and the held-out rows, as `record=` of `jaxgeo.fit`.

    Accuracies for classification; root mean square errors in the unit of the target for regression.

    **Arguments:**

    - `task`, `network`: the data, and the network that learns them.
    """

    static: PyTree
    train_targets: Float[Array, "N Q"]
    test_inputs: Float[Array, "M features"]
    test_targets: Float[Array, "M Q"]
    unit: Float[Array, ""]
    classify: bool = eqx.field(static=True)

    def __init__(self, task: Task, network: Network):
        dtype = network.layers[0].weight.dtype
        _, self.static = eqx.partition(network, eqx.is_array)
        self.train_targets = jnp.asarray(task.train_targets, dtype)
        self.test_inputs = jnp.asarray(task.test_inputs, dtype)
        self.test_targets = jnp.asarray(task.test_targets, dtype)
        self.unit = jnp.asarray(task.outputs.scale[0], dtype)
        self.classify = task.kind is Kind.CLASSIFICATION

    def __call__(self, s: Float[Array, ""], params: Params, problem: Problem) -> dict[str, Float[Array, ""]]:
        """The scores of the network with these parameters."""
        outputs = jax.vmap(eqx.combine(params, self.static))(self.test_inputs)
        pairs = {"train": (problem.outputs(params), self.train_targets), "test": (outputs, self.test_targets)}
        if self.classify:
            return {f"{name}_accuracy": self._accuracy(x, y) for name, (x, y) in pairs.items()}
        return {f"{name}_rmse": jnp.sqrt(jnp.mean((x - y) ** 2)) * self.unit for name, (x, y) in pairs.items()}

    def _accuracy(self, x: Float[Array, "N Q"], y: Float[Array, "N Q"]) -> Float[Array, ""]:
        return jnp.mean(jnp.argmax(x, axis=1) == jnp.argmax(y, axis=1), dtype=x.dtype)


def check_rows(rows: list[dict[str, Any]], kind: Kind) -> None:
    """Raise `ValueError` unless each row has the entries that `jaxgeo.fit` and `Monitor` record."""
    score = "accuracy" if kind is Kind.CLASSIFICATION else "rmse"
    along = ("s", "s_over_N", "law", "deviation") if rows and "s_over_N" in rows[0] else ("step",)
    for number, row in enumerate(rows, 1):
        if missing := [name for name in (*along, "cost", f"train_{score}", f"test_{score}") if name not in row]:
            raise ValueError(f"line {number} of metrics.jsonl has no {missing[0]}")


def kept_row(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The row of the network that is saved: with patience that of the least validation cost, otherwise the last."""
    judged = [row for row in rows if "validation_cost" in row]
    if not judged:
        return rows[-1]
    finite = [row for row in judged if math.isfinite(row["validation_cost"])]
    return min(finite, key=lambda row: row["validation_cost"], default=rows[0])


def moment(row: dict[str, Any]) -> str:
    """When a row was recorded, in words."""
    return f"s/N = {row['s_over_N']:.2f}" if "s_over_N" in row else f"update {row['step']}"


def plain(value: float) -> str:
    """A number with four digits, or with all digits before the point if this avoids a power of ten."""
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.4g}"
