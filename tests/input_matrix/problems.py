"""Problems."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import jaxgeo as jg
from input_matrix.cells import Case, Entry
from input_matrix.values import MODEL, PARAMS, PROBLEM, X, Y, apply, floats, networks, number, params


def problems() -> list[Entry]:
    def supervised(**arguments: Any) -> Any:
        problem, params = jg.supervised(**arguments)
        return problem.cost(params)

    def problem(**arguments: Any) -> Any:
        problem = jg.Problem(**arguments)
        problem.check(PARAMS)
        return problem.cost(PARAMS)

    def blocks(**arguments: Any) -> Any:
        problem = jg.residual_problem([(apply, arguments["points"], arguments["weight"])])
        problem.check(PARAMS)
        return problem.cost(PARAMS)

    models = {
        "None": Case(None, True),
        "text": Case("model", True),
        "function": Case(jnp.tanh, True),
        "NaN": Case(eqx.tree_at(lambda m: m.layers[0].bias, MODEL, jnp.full(3, jnp.nan)), True),
        "integers": Case(jax.tree.map(lambda leaf: leaf.astype(int) if eqx.is_array(leaf) else leaf, MODEL), True),
        "frozen": Case(eqx.nn.Identity(), True),
        "other inputs": Case(eqx.nn.MLP(5, 1, 3, 1, key=jax.random.key(0)), True),
        "other outputs": Case(eqx.nn.MLP(2, 4, 3, 1, key=jax.random.key(0)), True),
        "zero width": Case(eqx.nn.MLP(2, 1, 0, 1, key=jax.random.key(0)), False),
        "float32": Case(eqx.nn.MLP(2, 1, 3, 1, dtype=jnp.float32, key=jax.random.key(0)), False),
    }
    no_network = {"model": ("model", "params", "apply")}
    both = {
        "inputs": ("inputs", "targets", "apply", "model"),
        "targets": ("targets", "inputs"),
        "apply": ("apply", "targets"),
        **no_network,
    }
    inputs = floats(X) | {"bool": Case(X > 0, True), "integers": Case(np.round(X).astype(int), False)}
    cost_cases = {
        "None": Case(None, True),
        "array": Case(Y, True),
        "class": Case(jg.L2, True),
        "text": Case("l2", True),
    }
    one = {"one sample": Case(X[:1], False)}
    return [
        Entry(
            "supervised",
            supervised,
            {"model": MODEL, "inputs": X, "targets": Y},
            {"model": models, "inputs": inputs | {"bool": Case(X > 0, False)}, "targets": floats(Y)},
            both | {"model": ("model", "params", "apply", "targets")},
        ),
        Entry(
            "supervised of one sample",
            supervised,
            {"model": MODEL, "inputs": X[:1], "targets": Y[:1]},
            {"targets": {"one output": Case(Y[0], False), "float32": Case(Y[:1].astype(np.float32), False)}},
        ),
        Entry(
            "supervised with trainable",
            supervised,
            {"model": MODEL, "inputs": X, "targets": Y, "trainable": eqx.is_inexact_array},
            {
                "trainable": {
                    "None": Case(None, True),
                    "False": Case(False, True),
                    "text": Case("all", True),
                    "number": Case(1.0, True),
                }
            },
            {"trainable": ("trainable", "params")},
        ),
        Entry(
            "Problem",
            problem,
            {"apply": apply, "inputs": X, "cost": jg.L2(Y)},
            {"apply": networks(), "inputs": inputs | {"bool": Case(X > 0, False)}, "cost": cost_cases},
            both,
        ),
        Entry(
            "residual_problem",
            blocks,
            {"points": X, "weight": 1.0},
            {
                "points": inputs
                | one
                | {"bool": Case(X > 0, False), "another length": Case(np.concatenate([X, X]), False)}
                | {"more axes": Case(np.ones((4, 2, 2, 3)), False)},
                "weight": number(),
            },
            {"points": ("points", "inputs", "apply"), "weight": ("blocks[0][2]",)},
        ),
        Entry(
            "residual_problem of blocks",
            jg.residual_problem,
            {"blocks": [(apply, X, 1.0)]},
            {
                "blocks": {
                    "none": Case([], True),
                    "None": Case(None, True),
                    "pairs": Case([(apply, X)], True),
                    "text": Case("blocks", True),
                    "no function": Case([(None, X, 1.0)], True),
                }
            },
        ),
        Entry(
            "Problem.check",
            PROBLEM.check,
            {"params": PARAMS},
            {"params": params()},
            {"params": ("params", "apply", "dot_general")},
        ),
    ]
