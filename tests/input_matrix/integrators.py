"""Flows as ODEs."""

import tempfile
from pathlib import Path
from typing import Any

import diffrax as dfx
import jax.numpy as jnp
import numpy as np

import jaxgeo as jg
from input_matrix.cells import Case, Entry, entry, only, refused, without, works
from input_matrix.values import (
    BY_PARAMS,
    COUNT,
    INDEX,
    NOT_NEGATIVE,
    OPTIONAL_FUNCTION,
    PARAMS,
    POSITIVE,
    PROBLEM,
    SOLVERS,
    UNREAD,
    X,
    Y,
    apply,
    count,
    floats,
    networks,
    number,
    params,
)
from jaxgeo.integrate import LineDeviation, explain_defect, load_point, save_point, spectrum_record

TIMES = refused(
    decreasing=np.array([0.5, 0.2]),
    beyond=np.array([0.5, 2.0]),
    NaN=np.array([0.5, np.nan]),
    negative=np.array([-0.5, 0.2]),
    empty=np.array([]),
    matrix=np.ones((2, 2)),
    scalar=0.5,
    text="0.5",
    strings=np.array(["0.1", "0.5"]),
) | works(list=[0.5, 0.7], integers=np.array([0, 1]))
SOME = without(POSITIVE, "NumPy scalar")
DEVIATIONS = only(floats(Y), "NaN", "inf", "complex", "strings", "another length", "JAX")
METRICS = {"class": Case(jg.metrics.CostHessian, True)} | refused(
    None_=None, matrix=np.eye(1), text="euclidean", of_other_outputs=jg.metrics.Weighted(np.ones(2))
)
METRICS |= works(weighted=jg.metrics.Weighted(np.ones(1)))


def ode_solvers(kind: type) -> dict[str, Case]:
    """In place of a solver of diffrax."""
    return {"class": Case(kind, True)} | refused(text=kind.__name__) | works(None_=None)


def integrators() -> list[Entry]:
    def flow(**arguments: Any) -> Any:
        solution = jg.solve_flow(**arguments)
        return solution.params, solution.s, solution.costs

    def walk(**arguments: Any) -> Any:
        return jg.solve_interpolation(PROBLEM, **({"params": PARAMS, "num_steps": 2, "end_steps": 1} | arguments)).costs

    def compare(**arguments: Any) -> Any:
        return jg.solve_output_flow(PROBLEM, **({"params": PARAMS, "save_at": np.array([0.5, 1.0])} | arguments))

    def network(apply: Any) -> Any:
        return flow(problem=jg.Problem(apply, X, jg.L2(Y)), flow=jg.StandardFlow(), params=PARAMS, s1=1.0)

    start = {"problem": PROBLEM, "flow": jg.AdaptedFlow(), "params": PARAMS}
    to_time, to_cost = start | {"s1": 1.0}, start | {"cost_tol": 1e-2}
    by_diffrax = {
        "stepsize_controller": dfx.ConstantStepSize,
        "adjoint": dfx.ForwardMode,
        "progress_meter": dfx.NoProgressMeter,
    }
    return [
        entry(
            "solve_flow",
            flow,
            to_time,
            named=BY_PARAMS,
            problem=refused(None_=None, function=apply),
            flow=refused(None_=None, text="adapted") | {"class": Case(jg.AdaptedFlow, True)},
            params=params(),
            s1=SOME,
            dt0=SOME,
            save_at=TIMES,
            rtol=SOME,
            atol=NOT_NEGATIVE,
            events=refused(number=[1.0], None_=None, not_a_list=1.0),
            solver=ode_solvers(dfx.Tsit5),
            record=OPTIONAL_FUNCTION,
            restart=OPTIONAL_FUNCTION,
            max_steps=COUNT,
            max_restarts=INDEX,
            **{
                name: refused(text="diffrax", number=1.0) | {"class": Case(kind, True)}
                for name, kind in by_diffrax.items()
            },
        ),
        entry("solve_flow of a network", network, named={"apply": ("apply", "targets")}, apply=networks()),
        entry("solve_flow to a cost", flow, to_cost, cost_tol=SOME, s0=NOT_NEGATIVE),
        entry(
            "solve_interpolation",
            walk,
            named=BY_PARAMS,
            params=params(),
            num_steps=COUNT,
            end_steps=COUNT,
            solver=ode_solvers(dfx.Euler),
            lift_solver=SOLVERS,
        ),
        entry(
            "solve_output_flow",
            compare,
            named=BY_PARAMS,
            params=params(),
            save_at=TIMES | works(beyond=np.array([0.5, 2.0])),
            rtol=SOME,
            atol=SOME | works(zero=0.0),
            max_steps=COUNT,
            metric={"class": Case(jg.metrics.CostHessian, True), "1": Case(1, True)} | works(None_=None),
        ),
        entry("GradientBelow", jg.GradientBelow, tol=SOME),
        entry("TrappingBelow", jg.TrappingBelow, ratio=SOME),
        entry("ConditionAbove", jg.ConditionAbove, limit=SOME),
        entry("RankBelow", jg.RankBelow, rank=COUNT),
        entry("OutputController", jg.OutputController, {"rtol": 1e-3, "atol": 1e-6}, rtol=SOME, atol=NOT_NEGATIVE),
        entry(
            "OrbitCorrector",
            jg.OrbitCorrector,
            {"solver": dfx.Tsit5()},
            solver=ode_solvers(dfx.Tsit5) | refused(None_=None),
            lift_solver=SOLVERS | refused(None_=None),
        ),
        entry(
            "StraightLine",
            jg.integrate.StraightLine,
            {"solver": dfx.Tsit5()},
            solver=ode_solvers(dfx.Tsit5) | refused(None_=None, wrapped=jg.OrbitCorrector(dfx.Tsit5())),
            lift_solver=SOLVERS | refused(None_=None),
        ),
        *flows(),
        *reports(),
    ]


def flows() -> list[Entry]:
    longer = jg.Problem(apply, np.vstack([X, -X]), jg.L2(np.vstack([Y, Y])))
    kinds = [jg.AdaptedFlow, jg.OverparametrizedFlow, jg.UnderparametrizedFlow, jg.RankAdaptiveFlow]
    named = {"metric": ("`metric", "the metric")}

    def velocity(kind: Any, **fields: Any) -> Any:
        return kind(**fields)(0.0, PARAMS, longer if kind is jg.UnderparametrizedFlow else PROBLEM)

    def comparison(metric: Any) -> Any:
        return jg.OutputFlow(metric)(0.0, jnp.asarray(Y), PROBLEM)

    fields = {"solver": SOLVERS, "metric": METRICS, "damping": NOT_NEGATIVE}
    between = {"kind": jg.HomotopyFlow, "alpha": 0.5}
    return [
        *(entry(kind.__name__, velocity, {"kind": kind}, named=named, **fields) for kind in kinds),
        entry("HomotopyFlow", velocity, between, alpha=NOT_NEGATIVE, solver=SOLVERS),
        entry(
            "InterpolationFlow", velocity, {"kind": jg.InterpolationFlow}, initial_deviation=DEVIATIONS, solver=SOLVERS
        ),
        entry("OutputFlow", comparison, named=named, metric=METRICS),
    ]


def reports() -> list[Entry]:
    """What is said of an orbit, and what is kept of it."""
    place = Path(tempfile.mkdtemp())
    save_point(place / "point.eqx", jnp.array(1.0), PARAMS)
    (place / "text.eqx").write_text("no point")
    (place / "short.eqx").write_bytes((place / "point.eqx").read_bytes()[:-20])
    (place / "folder.eqx").mkdir()
    paths = refused(None_=None, number=1.5, folder=place / "folder.eqx")

    def explain(**arguments: Any) -> Any:
        start = {"flow": jg.AdaptedFlow(), "params": PARAMS, "s1": 1.0, "num_times": 2}
        return explain_defect(PROBLEM, **(start | arguments)).total

    def deviate(initial_deviation: Any) -> Any:
        return LineDeviation(initial_deviation)(0.0, PARAMS, PROBLEM)

    point = {"path": place / "new.eqx", "s": jnp.array(1.0), "params": PARAMS}
    return [
        entry(
            "explain_defect",
            explain,
            named=BY_PARAMS,
            flow=refused(None_=None) | {"class": Case(jg.AdaptedFlow, True)},
            params=only(params(), "NaN", "None", "no arrays", "wrong shape"),
            s1=without(POSITIVE, "NumPy scalar", "JAX scalar"),
            num_times=count(least=2) | refused(one=1) | works(NumPy_integer=np.int64(2)),
            tolerance=number(zero=True, infinite=True),
        ),
        entry("spectrum_record", lambda params: spectrum_record(0.0, params, PROBLEM), named=BY_PARAMS, params=UNREAD),
        entry("LineDeviation", deviate, initial_deviation=DEVIATIONS),
        entry(
            "save_point",
            save_point,
            point,
            path=paths | refused(in_no_folder=place / "none" / "new"),
            s=without(NOT_NEGATIVE, "negative", "tiny negative"),
        ),
        entry(
            "load_point",
            load_point,
            {"path": place / "point.eqx", "like": PARAMS},
            path=paths | refused(missing=place / "none", text=place / "text", cut_short=place / "short"),
            like=only(params(), "wrong shape")
            | refused(
                None_=None,
                float32=params()["float32"].value,
                no_arrays={},
                a_leaf_more=PARAMS | {"z": jnp.ones(2)},
                a_leaf_less={"b": PARAMS["b"]},
            ),
        ),
    ]
