"""Flows as ODEs."""

from typing import Any

import numpy as np

import jaxgeo as jg
from input_matrix.cells import Case, Entry
from input_matrix.values import PARAMS, PROBLEM, X, Y, apply, count, networks, number, params


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
    ]
