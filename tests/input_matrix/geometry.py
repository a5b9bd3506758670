"""Rank, spectrum, metric, curvature, critical points."""

import jax.numpy as jnp
import numpy as np

import jaxgeo as jg
from input_matrix.cells import Case, Entry
from input_matrix.values import PARAMS, PROBLEM, Y, count, floats, number, params, tangent
from jaxgeo.geometry import (
    critical_manifold,
    curvature,
    equilibrium,
    find_escape,
    holonomy,
    horizontal_projection,
    nearest_critical,
    nonintegrability,
    output_projection,
    partial_ranks,
    pullback_metric,
    spectrum_estimate,
)


def geometry() -> list[Entry]:
    by_params = {"params": ("params", "apply", "dot_general")}
    of_params = {
        "rank_report": lambda params: jg.rank_report(PROBLEM, params),
        "equilibrium": lambda params: equilibrium(PROBLEM, params),
        "nonintegrability": lambda params: nonintegrability(PROBLEM, params),
        "find_escape": lambda params: find_escape(PROBLEM, params),
        "spectrum_estimate": lambda params: spectrum_estimate(PROBLEM, params, num_steps=4, num_probes=2),
    }
    # Neither reads values, so that both can be traced: what the network makes of them is what one gets.
    operators = {
        "Problem.jacobian": lambda params: PROBLEM.jacobian(params).as_matrix(),
        "Problem.gram": lambda params: PROBLEM.gram(params).as_matrix(),
    }
    unread = {k: v for k, v in params().items() if k not in ("NaN", "inf", "text leaf")}
    vectors = {
        k: v
        for k, v in floats(Y).items()
        if k in ("NaN", "inf", "complex", "strings", "another length", "list", "None", "NumPy")
    }
    return [
        *(Entry(name, call, {"params": PARAMS}, {"params": params()}, by_params) for name, call in of_params.items()),
        *(Entry(name, call, {"params": PARAMS}, {"params": unread}, by_params) for name, call in operators.items()),
        Entry(
            "partial_ranks",
            lambda counts: partial_ranks(PROBLEM, PARAMS, counts),
            {"counts": [1, 2]},
            {
                "counts": {
                    "zero": Case([0], False),
                    "negative": Case([-1], True),
                    "too many": Case([99], True),
                    "fraction": Case([1.5], True),
                    "empty": Case([], False),
                    "None": Case(None, True),
                }
            },
        ),
        Entry(
            "spectrum_estimate of counts",
            lambda **a: spectrum_estimate(PROBLEM, PARAMS, **a),
            {"num_steps": 3, "num_probes": 2},
            {"num_steps": count(), "num_probes": count()},
        ),
        Entry(
            "output_projection",
            lambda velocity: output_projection(PROBLEM, PARAMS, velocity),
            {"velocity": jnp.asarray(Y)},
            {"velocity": vectors},
        ),
        Entry(
            "horizontal_projection",
            lambda velocity: horizontal_projection(PROBLEM, PARAMS, velocity),
            {"velocity": PARAMS},
            {"velocity": tangent()},
        ),
        Entry(
            "pullback_metric",
            lambda first: pullback_metric(PROBLEM, PARAMS, first, PARAMS),
            {"first": PARAMS},
            {"first": tangent()},
        ),
        Entry(
            "curvature",
            lambda first: curvature(PROBLEM, PARAMS, first, jnp.asarray(Y)),
            {"first": jnp.asarray(Y)},
            {"first": vectors},
        ),
        Entry(
            "holonomy",
            lambda **a: holonomy(PROBLEM, PARAMS, second=1e-3 * jnp.asarray(Y) ** 2, **a),
            {"first": 1e-3 * jnp.asarray(Y), "num_steps": 4},
            {"first": vectors, "num_steps": count()},
        ),
        Entry(
            "equilibrium within", lambda rtol: equilibrium(PROBLEM, PARAMS, rtol), {"rtol": 1e-8}, {"rtol": number()}
        ),
        Entry(
            "nearest_critical",
            lambda **a: nearest_critical(PROBLEM, PARAMS, **a),
            {"rank": 2, "num_steps": 2},
            {
                "rank": count(least=0) | {"NumPy integer": Case(np.int64(2), False), "too large": Case(99, True)},
                "num_steps": count(),
            },
        ),
        Entry(
            "critical_manifold within",
            lambda rtol: critical_manifold(PROBLEM, PARAMS, rtol),
            {"rtol": 10.0},
            {"rtol": {k: v for k, v in number().items() if "scalar" not in k}},
        ),
    ]
