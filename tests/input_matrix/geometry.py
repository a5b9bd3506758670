"""Rank, spectrum, metric, curvature, critical points."""

from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxgeo as jg
from input_matrix.cells import Entry, entry, only, refused, without, works
from input_matrix.values import (
    A_FUNCTION,
    BY_PARAMS,
    COUNT,
    FUNCTION,
    INDEX,
    PARAMS,
    POSITIVE,
    PROBLEM,
    SOLVERS,
    UNREAD,
    Y,
    fails,
    floats,
    number,
    params,
    tangent,
)
from jaxgeo import geometry as geo

VELOCITY = jnp.asarray(Y)
VECTORS = only(floats(Y), "NaN", "inf", "complex", "strings", "another length", "list", "None", "NumPy")
RANK = INDEX | works(NumPy_integer=np.int64(2)) | refused(too_large=99)
# What is called with θ or x and gives a velocity.
FIELDS = A_FUNCTION | refused(
    returns_None=lambda x: None,
    returns_a_number=lambda x: 1.0,
    returns_another_shape=lambda x: jnp.ones(7),
    raises=fails,
)


def geometry() -> list[Entry]:
    def on(function: Any, **good: Any) -> Any:
        """The function at `PROBLEM` and, unless they are given, `PARAMS`."""
        return lambda **a: function(PROBLEM, **({"params": PARAMS} | good | a))

    def recorded(params: Any) -> Any:
        return geo.trapping_record(0.0, params, PROBLEM)

    def intervals(**arguments: Any) -> Any:
        return [vars(found) for found in geo.trapped_intervals(**arguments)]

    def bracket(**arguments: Any) -> Any:
        same = {"first": lambda params: params, "second": lambda params: params, "params": PARAMS}
        return geo.lie_bracket(**(same | arguments))

    flat, rtol = np.ones(5), without(POSITIVE, "NumPy scalar", "JAX scalar")
    walk = {"direction": flat, "step": 0.1, "num_steps": 2, "rank": 2}
    round_trip = {"first": 1e-3 * VELOCITY, "second": 1e-3 * VELOCITY**2, "num_steps": 4}
    solution = jg.solve_flow(PROBLEM, jg.StandardFlow(), PARAMS, s1=1.0, record=geo.trapping_record)
    unrecorded = jg.solve_flow(PROBLEM, jg.StandardFlow(), PARAMS, s1=1.0)
    whole = {"named": BY_PARAMS, "params": params()}
    # Neither reads values, so that both can be traced: what the network makes of them is what one gets.
    read = {"named": BY_PARAMS, "params": UNREAD}
    return [
        entry("rank_report", on(jg.rank_report), **whole),
        entry("equilibrium", on(geo.equilibrium), rtol=POSITIVE, **whole),
        entry("nonintegrability", on(geo.nonintegrability), **whole),
        entry("find_escape", on(geo.find_escape), max_directions=COUNT, **whole),
        entry("escape", on(geo.escape), **whole),
        entry(
            "spectrum_estimate",
            on(geo.spectrum_estimate, num_steps=4, num_probes=2),
            num_steps=COUNT,
            num_probes=COUNT,
            **whole,
        ),
        entry("Problem.jacobian", lambda params: PROBLEM.jacobian(params).as_matrix(), **read),
        entry("Problem.gram", lambda params: PROBLEM.gram(params).as_matrix(), **read),
        entry("trapping_record", recorded, **read),
        entry(
            "trapped_intervals",
            intervals,
            {"solution": solution, "epsilon": 1.0},
            solution=refused(None_=None, params=PARAMS, without_a_record=unrecorded),
            epsilon=POSITIVE,
        ),
        entry(
            "partial_ranks",
            on(geo.partial_ranks),
            counts=works(zero=[0], empty=[]) | refused(negative=[-1], too_many=[99], fraction=[1.5], None_=None),
        ),
        entry("output_projection", on(geo.output_projection, velocity=VELOCITY), velocity=VECTORS, solver=SOLVERS),
        entry(
            "horizontal_projection", on(geo.horizontal_projection, velocity=PARAMS), velocity=tangent(), solver=SOLVERS
        ),
        entry("pullback_metric", on(geo.pullback_metric, second=PARAMS), first=tangent()),
        entry(
            "pullback_gradient",
            on(geo.pullback_gradient),
            function=FUNCTION
            | works(None_=None)
            | refused(returns_None=lambda params: None, returns_a_vector=lambda params: params["w"][0], raises=fails),
            solver=SOLVERS,
        ),
        entry("curvature", on(geo.curvature, first=VELOCITY, second=VELOCITY**2), first=VECTORS, solver=SOLVERS),
        entry("holonomy", on(geo.holonomy, **round_trip), first=VECTORS, num_steps=COUNT),
        entry("nearest_critical", on(geo.nearest_critical, rank=2, num_steps=2), rank=RANK, num_steps=COUNT),
        entry("critical_manifold", on(geo.critical_manifold, rtol=10.0), rtol=rtol),
        entry(
            "walk_critical",
            on(geo.walk_critical, **walk),
            named=BY_PARAMS,
            params=without(params(), "unused leaf", "zero-size leaf"),
            direction=without(floats(flat), "bool", "integers"),
            step=number(zero=True, negative=True),
            num_steps=COUNT,
            rank=RANK,
        ),
        entry(
            "lie_bracket",
            bracket,
            first=FIELDS,
            second=FIELDS,
            params=only(params(), "None", "no arrays", "text", "integers", "NumPy leaves"),
        ),
        *along(on(geo.lift_path, path=geo.Segment(VELOCITY), num_steps=2)),
    ]


def along(lifted: Any) -> list[Entry]:
    """Paths and fields."""

    def field(**a: Any) -> Any:
        return geo.HorizontalField(PROBLEM, **({"field": geo.ConstantField(VELOCITY)} | a))(PARAMS)

    named = {
        "velocity": ("`velocity", "`path"),
        "first": ("`first", "`path"),
        "value": ("`value", "`velocity"),
        "field": ("`field", "`velocity"),
    }
    segment, ellipse = geo.Segment, geo.Ellipse
    return [
        entry("lift_path", lifted, path=FIELDS, num_steps=COUNT, solver=SOLVERS),
        entry("Segment", lambda velocity: lifted(path=segment(velocity)), named=named, velocity=VECTORS),
        entry("Ellipse", lambda first: lifted(path=ellipse(first, VELOCITY)), named=named, first=VECTORS),
        entry("ConstantField", lambda value: field(field=geo.ConstantField(value)), named=named, value=VECTORS),
        entry("HorizontalField", field, named=named, field=FIELDS, solver=SOLVERS),
    ]
