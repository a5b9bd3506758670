"""Flows as ODEs."""

import tempfile
from pathlib import Path
from typing import Any

import diffrax as dfx
import jax.numpy as jnp
import numpy as np

import jaxgeo as jg
from input_matrix.cells import Case, Entry
from input_matrix.values import (
    PARAMS,
    PROBLEM,
    X,
    Y,
    apply,
    called,
    count,
    floats,
    networks,
    number,
    params,
    solvers,
    switch,
)
from jaxgeo.integrate import LineDeviation, explain_defect, load_point, save_point, spectrum_record


def integrators() -> list[Entry]:
    def flow(**arguments: Any) -> Any:
        solution = jg.solve_flow(**arguments)
        return solution.params, solution.s, solution.costs

    start = {"problem": PROBLEM, "flow": jg.AdaptedFlow(), "params": PARAMS, "s1": 1.0}
    by_params = {"params": ("params", "apply", "dot_general")}
    times = {
        "decreasing": Case(np.array([0.5, 0.2]), True),
        "beyond": Case(np.array([0.5, 2.0]), True),
        "NaN": Case(np.array([0.5, np.nan]), True),
        "negative": Case(np.array([-0.5, 0.2]), True),
        "empty": Case(np.array([]), True),
        "matrix": Case(np.ones((2, 2)), True),
        "scalar": Case(0.5, True),
        "list": Case([0.5, 0.7], False),
        "integers": Case(np.array([0, 1]), False),
        "text": Case("0.5", True),
        "strings": Case(np.array(["0.1", "0.5"]), True),
    }
    some = {name: case for name, case in number().items() if name not in ("NumPy scalar",)}
    return [
        Entry(
            "solve_flow",
            flow,
            start,
            {
                "params": params(),
                "s1": some,
                "dt0": some | {"inf": Case(float("inf"), True)},
                "save_at": times,
                "rtol": some,
                "max_steps": count(),
            },
            by_params,
        ),
        Entry(
            "solve_flow of a network",
            lambda apply: flow(**(start | {"problem": jg.Problem(apply, X, jg.L2(Y)), "flow": jg.StandardFlow()})),
            {"apply": apply},
            {"apply": networks()},
            {"apply": ("apply", "targets")},
        ),
        Entry(
            "solve_flow to a cost",
            flow,
            {"problem": PROBLEM, "flow": jg.AdaptedFlow(), "params": PARAMS, "cost_tol": 1e-2},
            {"cost_tol": some, "s0": number(zero=True)},
        ),
        Entry("solve_flow with atol", flow, start, {"atol": number(zero=True)}),
        Entry(
            "solve_flow of a flow",
            flow,
            start,
            {
                "flow": {"None": Case(None, True), "class": Case(jg.AdaptedFlow, True), "text": Case("adapted", True)},
                "problem": {"None": Case(None, True), "function": Case(apply, True)},
                "events": {"number": Case([1.0], True), "None": Case(None, True), "not a list": Case(1.0, True)},
            },
        ),
        Entry(
            "solve_interpolation",
            lambda **a: jg.solve_interpolation(PROBLEM, **a).costs,
            {"params": PARAMS, "num_steps": 2, "end_steps": 1},
            {"params": params(), "num_steps": count(), "end_steps": count()},
            by_params,
        ),
        Entry(
            "solve_output_flow",
            lambda **a: jg.solve_output_flow(PROBLEM, **a),
            {"params": PARAMS, "save_at": np.array([0.5, 1.0])},
            {
                "params": params(),
                "save_at": times | {"beyond": Case(np.array([0.5, 2.0]), False)},
                "rtol": some,
                "atol": some | {"zero": Case(0.0, False)},
                "max_steps": count(),
            },
            by_params,
        ),
        Entry(
            "HomotopyFlow",
            lambda alpha: jg.HomotopyFlow(alpha)(0.0, PARAMS, PROBLEM),
            {"alpha": 0.5},
            {"alpha": number(zero=True)},
        ),
        Entry("GradientBelow", jg.GradientBelow, {"tol": 1e-3}, {"tol": some}),
        Entry("TrappingBelow", jg.TrappingBelow, {"ratio": 1e-3}, {"ratio": some}),
        Entry("ConditionAbove", jg.ConditionAbove, {"limit": 1e3}, {"limit": some}),
        Entry("RankBelow", jg.RankBelow, {"rank": 2}, {"rank": count()}),
        Entry(
            "OutputController",
            jg.OutputController,
            {"rtol": 1e-3, "atol": 1e-6},
            {"rtol": some, "atol": number(zero=True)},
        ),
        Entry(
            "solve_flow otherwise",
            flow,
            start,
            {
                "solver": {"None": Case(None, False), "class": Case(dfx.Tsit5, True), "text": Case("Tsit5", True)},
                "record": called() | {"None": Case(None, False)},
                "restart": called() | {"None": Case(None, False)},
                "max_restarts": count(least=0),
                "path_lengths": switch(),
                "rank_check": switch(),
                "throw": switch(),
            },
        ),
        Entry(
            "solve_flow by diffrax",
            flow,
            start,
            {
                name: {"text": Case("diffrax", True), "number": Case(1.0, True), "class": Case(kind, True)}
                for name, kind in {
                    "stepsize_controller": dfx.ConstantStepSize,
                    "adjoint": dfx.ForwardMode,
                    "progress_meter": dfx.NoProgressMeter,
                }.items()
            },
        ),
        Entry(
            "solve_interpolation otherwise",
            lambda **a: jg.solve_interpolation(PROBLEM, PARAMS, num_steps=2, end_steps=1, **a).costs,
            {},
            {
                "solver": {"None": Case(None, False), "class": Case(dfx.Euler, True), "text": Case("Euler", True)},
                "lift_solver": solvers(),
                "open_loop": switch(),
                "rank_check": switch(),
                "throw": switch(),
            },
        ),
        Entry(
            "solve_output_flow otherwise",
            lambda metric: jg.solve_output_flow(PROBLEM, PARAMS, np.array([0.5]), metric=metric),
            {},
            {"metric": {"None": Case(None, False), "class": Case(jg.metrics.CostHessian, True), "1": Case(1, True)}},
        ),
        *fields(),
        *reports(),
    ]


def fields() -> list[Entry]:
    """Of flows."""
    metrics = {
        "class": Case(jg.metrics.CostHessian, True),
        "None": Case(None, True),
        "matrix": Case(np.eye(1), True),
        "text": Case("euclidean", True),
        "of other outputs": Case(jg.metrics.Weighted(np.ones(2)), True),
        "weighted": Case(jg.metrics.Weighted(np.ones(1)), False),
    }
    solver = solvers()
    lift_solver = solvers() | {"None": Case(None, True)}
    longer = jg.Problem(apply, np.vstack([X, -X]), jg.L2(np.vstack([Y, Y])))
    kinds = {
        "AdaptedFlow": (jg.AdaptedFlow, PROBLEM),
        "OverparametrizedFlow": (jg.OverparametrizedFlow, PROBLEM),
        "UnderparametrizedFlow": (jg.UnderparametrizedFlow, longer),
        "RankAdaptiveFlow": (jg.RankAdaptiveFlow, PROBLEM),
    }
    entries = [
        Entry(
            name,
            lambda kind=kind, problem=problem, **a: kind(**a)(0.0, PARAMS, problem),
            {},
            {"solver": solver, "metric": metrics, "damping": number(zero=True)},
            {"metric": ("`metric", "the metric")},
        )
        for name, (kind, problem) in kinds.items()
    ]
    starts = {k: v for k, v in floats(Y).items() if k in ("NaN", "inf", "complex", "strings", "another length", "JAX")}
    return [
        *entries,
        Entry(
            "HomotopyFlow by", lambda solver: jg.HomotopyFlow(0.5, solver)(0.0, PARAMS, PROBLEM), {}, {"solver": solver}
        ),
        Entry(
            "InterpolationFlow",
            lambda **a: jg.InterpolationFlow(**a)(0.5, PARAMS, PROBLEM),
            {},
            {"initial_deviation": starts, "solver": solver},
        ),
        Entry(
            "OutputFlow",
            lambda metric: jg.OutputFlow(metric)(0.0, jnp.asarray(Y), PROBLEM),
            {},
            {"metric": metrics},
            {"metric": ("`metric", "the metric")},
        ),
        Entry(
            "OrbitCorrector",
            lambda **a: jg.OrbitCorrector(**a),
            {"solver": dfx.Tsit5()},
            {
                "solver": {"class": Case(dfx.Tsit5, True), "None": Case(None, True), "text": Case("Tsit5", True)},
                "lift_solver": lift_solver,
            },
        ),
    ]


def reports() -> list[Entry]:
    """What is said of an orbit, and what is kept of it."""
    place = Path(tempfile.mkdtemp())
    save_point(place / "point.eqx", jnp.array(1.0), PARAMS)
    (place / "text.eqx").write_text("no point")
    (place / "short.eqx").write_bytes((place / "point.eqx").read_bytes()[:-20])
    (place / "folder.eqx").mkdir()
    unread = {k: v for k, v in params().items() if k not in ("NaN", "inf", "text leaf")}
    by_network = {"params": ("`params", "`apply", "dot_general")}
    paths = {"None": Case(None, True), "number": Case(1.5, True), "folder": Case(place / "folder.eqx", True)}
    starts = {k: v for k, v in floats(Y).items() if k in ("NaN", "inf", "complex", "strings", "another length", "JAX")}
    return [
        Entry(
            "explain_defect",
            lambda **a: explain_defect(PROBLEM, **a).total,
            {"flow": jg.AdaptedFlow(), "params": PARAMS, "s1": 1.0, "num_times": 2},
            {
                "flow": {"None": Case(None, True), "class": Case(jg.AdaptedFlow, True)},
                "params": {k: v for k, v in params().items() if k in ("NaN", "None", "no arrays", "wrong shape")},
                "s1": {k: v for k, v in number().items() if "scalar" not in k},
                "num_times": count(least=2) | {"one": Case(1, True), "NumPy integer": Case(np.int64(2), False)},
                "tolerance": number(zero=True, infinite=True),
            },
            by_network,
        ),
        Entry(
            "spectrum_record",
            lambda params: spectrum_record(0.0, params, PROBLEM),
            {"params": PARAMS},
            {"params": unread},
            by_network,
        ),
        Entry(
            "LineDeviation",
            lambda initial_deviation: LineDeviation(initial_deviation)(0.0, PARAMS, PROBLEM),
            {"initial_deviation": jnp.asarray(Y)},
            {"initial_deviation": starts},
        ),
        Entry(
            "save_point",
            save_point,
            {"path": place / "new.eqx", "s": jnp.array(1.0), "params": PARAMS},
            {
                "path": paths | {"in no folder": Case(place / "none" / "new", True)},
                "s": {k: v for k, v in number(zero=True).items() if k not in ("negative", "tiny negative")},
            },
        ),
        Entry(
            "load_point",
            load_point,
            {"path": place / "point.eqx", "like": PARAMS},
            {
                "path": paths
                | {
                    "missing": Case(place / "none", True),
                    "text": Case(place / "text", True),
                    "cut short": Case(place / "short", True),
                },
                "like": {
                    "None": Case(None, True),
                    "float32": params()["float32"]._replace(refused=True),
                    "wrong shape": params()["wrong shape"],
                    "no arrays": Case({}, True),
                    "a leaf more": Case(PARAMS | {"z": jnp.ones(2)}, True),
                    "a leaf less": Case({"b": PARAMS["b"]}, True),
                },
            },
        ),
    ]
