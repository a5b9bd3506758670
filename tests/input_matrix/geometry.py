"""Rank, spectrum, metric, curvature, critical points."""

import jax.numpy as jnp
import numpy as np

import jaxgeo as jg
from input_matrix.cells import Case, Entry
from input_matrix.values import PARAMS, PROBLEM, Y, called, count, fails, floats, number, params, solvers, tangent
from jaxgeo.geometry import (
    ConstantField,
    Ellipse,
    HorizontalField,
    Segment,
    critical_manifold,
    curvature,
    equilibrium,
    escape,
    find_escape,
    holonomy,
    horizontal_projection,
    lie_bracket,
    lift_path,
    nearest_critical,
    nonintegrability,
    output_projection,
    partial_ranks,
    pullback_gradient,
    pullback_metric,
    spectrum_estimate,
    trapped_intervals,
    trapping_record,
    walk_critical,
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
        *by_solvers(),
        *paths(vectors),
        *walks(),
    ]


def by_solvers() -> list[Entry]:
    velocity = jnp.asarray(Y)
    calls = {
        "output_projection": lambda solver: output_projection(PROBLEM, PARAMS, velocity, solver),
        "horizontal_projection": lambda solver: horizontal_projection(PROBLEM, PARAMS, PARAMS, solver),
        "curvature": lambda solver: curvature(PROBLEM, PARAMS, velocity, velocity**2, solver),
        "lift_path": lambda solver: lift_path(PROBLEM, PARAMS, Segment(velocity), num_steps=2, solver=solver),
        "pullback_gradient": lambda solver: pullback_gradient(PROBLEM, PARAMS, solver=solver),
        "HorizontalField": lambda solver: HorizontalField(PROBLEM, ConstantField(velocity), solver)(PARAMS),
    }
    return [Entry(f"{name} by", call, {}, {"solver": solvers()}) for name, call in calls.items()]


def paths(vectors: dict[str, Case]) -> list[Entry]:
    """Along paths and fields."""
    velocity = jnp.asarray(Y)
    functions = called() | {
        "None": Case(None, True),
        "returns None": Case(lambda x: None, True),
        "returns a number": Case(lambda x: 1.0, True),
        "returns another shape": Case(lambda x: jnp.ones(7), True),
        "raises": Case(fails, True),
    }
    return [
        Entry(
            "lift_path",
            lambda **a: lift_path(PROBLEM, PARAMS, **a),
            {"path": Segment(velocity), "num_steps": 2},
            {"path": functions, "num_steps": count()},
        ),
        Entry(
            "Segment",
            lambda velocity: lift_path(PROBLEM, PARAMS, Segment(velocity), num_steps=2),
            {},
            {"velocity": vectors},
            {"velocity": ("`velocity", "`path")},
        ),
        Entry(
            "Ellipse",
            lambda first: lift_path(PROBLEM, PARAMS, Ellipse(first, velocity), num_steps=2),
            {},
            {"first": vectors},
            {"first": ("`first", "`path")},
        ),
        Entry(
            "ConstantField",
            lambda value: HorizontalField(PROBLEM, ConstantField(value))(PARAMS),
            {},
            {"value": vectors},
            {"value": ("`value", "`velocity")},
        ),
        Entry(
            "HorizontalField",
            lambda field: HorizontalField(PROBLEM, field)(PARAMS),
            {},
            {"field": functions},
            {"field": ("`field", "`velocity")},
        ),
        Entry(
            "lie_bracket",
            lambda **a: lie_bracket(**a),
            {"first": lambda params: params, "second": lambda params: params, "params": PARAMS},
            {
                "first": functions,
                "second": functions,
                "params": {k: params()[k] for k in ("None", "no arrays", "text", "integers", "NumPy leaves")},
            },
        ),
        Entry(
            "pullback_gradient",
            lambda function: pullback_gradient(PROBLEM, PARAMS, function),
            {},
            {
                "function": called()
                | {
                    "None": Case(None, False),
                    "returns None": Case(lambda params: None, True),
                    "returns a vector": Case(lambda params: params["w"][0], True),
                    "raises": Case(fails, True),
                }
            },
        ),
    ]


def walks() -> list[Entry]:
    """Near critical points, and out of them."""
    by_params = {"params": ("`params", "`apply", "dot_general")}
    unread = {k: v for k, v in params().items() if k not in ("NaN", "inf", "text leaf")}
    record = {"s1": 1.0, "record": trapping_record}
    solution = jg.solve_flow(PROBLEM, jg.StandardFlow(), PARAMS, **record)
    flat = np.ones(5)
    return [
        Entry("escape", lambda params: escape(PROBLEM, params), {}, {"params": params()}, by_params),
        Entry(
            "find_escape of directions",
            lambda max_directions: find_escape(PROBLEM, PARAMS, max_directions=max_directions),
            {},
            {"max_directions": count()},
        ),
        Entry(
            "walk_critical",
            lambda **a: walk_critical(PROBLEM, **a),
            {"params": PARAMS, "direction": flat, "step": 0.1, "num_steps": 2, "rank": 2},
            {
                "params": {k: v for k, v in params().items() if k not in ("unused leaf", "zero-size leaf")},
                "direction": {k: v for k, v in floats(flat).items() if k not in ("bool", "integers")},
                "step": number(zero=True, negative=True),
                "num_steps": count(),
                "rank": count(least=0) | {"NumPy integer": Case(np.int64(2), False), "too large": Case(99, True)},
            },
            by_params,
        ),
        Entry(
            "trapping_record",
            lambda params: trapping_record(0.0, params, PROBLEM),
            {},
            {"params": unread},
            by_params,
        ),
        Entry(
            "trapped_intervals",
            lambda **a: [vars(found) for found in trapped_intervals(**a)],
            {"solution": solution, "epsilon": 1.0},
            {
                "solution": {
                    "None": Case(None, True),
                    "params": Case(PARAMS, True),
                    "without a record": Case(jg.solve_flow(PROBLEM, jg.StandardFlow(), PARAMS, s1=1.0), True),
                },
                "epsilon": number(),
            },
        ),
    ]
