"""Problems."""

from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.sharding import AxisType

import jaxgeo as jg
from input_matrix.cells import Case, Entry
from input_matrix.values import (
    MODEL,
    PARAMS,
    PROBLEM,
    X,
    Y,
    apply,
    count,
    floats,
    models,
    networks,
    number,
    optional,
    params,
    switch,
)


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
            {"model": models(), "inputs": inputs | {"bool": Case(X > 0, False)}, "targets": floats(Y)},
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
        *(
            Entry(
                f"{name} with per_sample",
                call,
                arguments,
                {"per_sample": switch()},
                {"per_sample": ("per_sample", "apply")},
            )
            for name, call, arguments in (
                ("supervised", supervised, {"model": MODEL, "inputs": X, "targets": Y}),
                ("Problem", problem, {"apply": apply, "inputs": X, "cost": jg.L2(Y)}),
            )
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
        Entry(
            "Problem.plan",
            lambda **a: PROBLEM.plan(**a).choice.reason,
            {"params": PARAMS},
            {
                "params": {k: v for k, v in params().items() if k not in ("NaN", "inf")},
                "damping": number(zero=True),
                "memory": optional(count()),
            },
            {"params": ("`params", "`apply")},
        ),
        *sharding(),
    ]


def sharding() -> list[Entry]:
    def mesh(kind: AxisType, *names: str) -> Any:
        return jax.make_mesh((1,) * len(names), names, axis_types=(kind,) * len(names))

    coupled = jg.Problem(lambda params, x: x @ params, X, jg.L2(Y[:, 0]), per_sample=False)
    return [
        Entry(
            "shard_samples",
            lambda **a: jg.shard_samples(**a).cost(PARAMS),
            {"problem": PROBLEM, "mesh": mesh(AxisType.Auto, "samples")},
            {
                "problem": {
                    "None": Case(None, True),
                    "function": Case(apply, True),
                    "coupled": Case(coupled, True),
                    "sharded": Case(jg.shard_samples(PROBLEM, mesh(AxisType.Auto, "samples")), False),
                },
                "mesh": {
                    "two axes": Case(mesh(AxisType.Auto, "wide", "samples"), False),
                    "no such axis": Case(mesh(AxisType.Auto, "wide"), True),
                    "explicit": Case(mesh(AxisType.Explicit, "samples"), True),
                    "None": Case(None, True),
                    "devices": Case(jax.devices(), True),
                    "number": Case(1, True),
                    "text": Case("samples", True),
                },
                "axis": {
                    "unknown": Case("wide", True),
                    "None": Case(None, True),
                    "number": Case(0, True),
                    "list": Case(["samples"], True),
                },
            },
            {"problem": ("`problem", "per_sample"), "mesh": ("`mesh`", "`axis`")},
        )
    ]
