"""What happens to whatever a user may pass: every public entry point × every kind of bad or unusual argument.

Run as `python input_matrix.py GROUP`, without the checks of types that the tests switch on, since users have none of
them. Prints one line of JSON for each cell. A cell is sound if the call works and gives no NaN, or if it is refused
with a ValueError or TypeError that names the argument; where nothing sensible can come of it, it has to be refused.
"""

import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import jaxgeo as jg
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
from jaxgeo.linalg import CG, LSMR, SVD, Auto, GramCholesky, HardCutoff, NormalCholesky, Nystrom, SmoothCutoff
from jaxgeo.problems import Network, Scaling, choose_hidden, digits, poisson_2d, read_table, table_task

# Before arrays are made of what follows.
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_disable_most_optimizations", True)

X = np.array([[0.5, -1.0], [1.5, 0.3], [-0.7, 0.8], [0.2, 0.1]])
Y = np.array([[0.3], [-0.2], [0.5], [0.1]])
LABELS = np.array([0, 1, 2, 1])
ONE_HOT = np.eye(3)[LABELS]
SEVERAL = np.hstack([Y, -Y])
PARAMS = {"w": jnp.array([[0.3, -0.5]]), "v": jnp.array([[0.2, 0.4]]), "b": jnp.array([0.1])}


def apply(params: Any, x: Any) -> Any:
    return jnp.tanh(params["w"] @ x) + params["v"] @ x**2 + params["b"]


PROBLEM = jg.Problem(apply, X, jg.L2(Y))
MODEL = eqx.nn.MLP(2, 1, 3, 1, activation=jnp.tanh, key=jax.random.key(0), dtype=jnp.float64)


class Case(NamedTuple):
    """`value` in place of an argument; `refused`: whether working with it would be wrong."""

    value: Any
    refused: bool


def holed(value: Any, hole: Any) -> np.ndarray:
    array = np.array(value, object if isinstance(hole, str | None) else np.asarray(value).dtype)
    array.reshape(-1)[1 % array.size] = hole
    return array


def floats(good: np.ndarray, *, fixed_length: bool = True) -> dict[str, Case]:
    """In place of an array of real numbers, samples first."""
    found = {
        "NaN": Case(holed(good, np.nan), True),
        "inf": Case(holed(good, np.inf), True),
        "minus inf": Case(holed(good, -np.inf), True),
        "NumPy": Case(np.array(good), False),
        "JAX": Case(jnp.asarray(good), False),
        "list": Case(good.tolist(), False),
        "float32": Case(good.astype(np.float32), False),
        "read-only": Case(read_only(good), False),
        "Fortran order": Case(np.asfortranarray(good), False),
        "integers": Case(np.round(good).astype(int), False),
        "bool": Case(good > 0, False),
        "complex": Case(good + 1j, True),
        "strings": Case(good.astype(str), True),
        "text": Case("data.csv", True),
        "object": Case(holed(good, None), True),
        "object text": Case(holed(good, "n/a"), True),
        "dates": Case(np.full(good.shape, np.datetime64("2026-01-01")), True),
        "ragged": Case([[1.0], [1.0, 2.0]], True),
        "None": Case(None, True),
        "function": Case(len, True),
        "empty": Case(good[:0], True),
        "empty list": Case([], True),
        "scalar": Case(1.0, True),
        "more axes": Case(np.broadcast_to(good[..., None, None], (*good.shape, 2, 3)), True),
        "one sample": Case(good[:1], fixed_length),
    }
    if fixed_length:
        found["another length"] = Case(np.concatenate([good, good]), True)
    try:
        import torch
    except ImportError:
        return found
    return found | {
        "torch": Case(torch.tensor(good), False),
        "torch grad": Case(torch.tensor(good).requires_grad_(), False),
    }


def read_only(good: np.ndarray) -> np.ndarray:
    array = np.array(good)
    array.setflags(write=False)
    return array


def labels(good: np.ndarray) -> dict[str, Case]:
    return {
        "float": Case(good.astype(float), True),
        "NaN": Case(holed(good.astype(float), np.nan), True),
        "negative": Case(good - 1, True),
        "huge": Case(holed(good, 10**6), False),
        "list": Case(good.tolist(), False),
        "int8": Case(good.astype(np.int8), False),
        "uint8": Case(good.astype(np.uint8), False),
        "bool": Case(good > 0, True),
        "strings": Case(good.astype(str), True),
        "object": Case(holed(good, None), True),
        "empty": Case(good[:0], True),
        "scalar": Case(1, True),
        "matrix": Case(good[None], True),
        "one sample": Case(good[:1], False),
        "None": Case(None, True),
    }


def number(*, zero: bool = False, negative: bool = False, infinite: bool = False) -> dict[str, Case]:
    """In place of a real number: which of the special ones make sense."""
    return {
        "NaN": Case(float("nan"), True),
        "inf": Case(float("inf"), not infinite),
        "zero": Case(0.0, not zero),
        "negative": Case(-1.0, not negative),
        "tiny negative": Case(-1e-300, not negative),
        "NumPy scalar": Case(np.float64(0.5), False),
        "JAX scalar": Case(jnp.asarray(0.5), False),
        "text": Case("0.5", True),
        "vector": Case(np.array([0.5, 0.5]), True),
        "list": Case([0.5], True),
        "complex": Case(0.5j, True),
        "function": Case(np.array, True),
    }


def count(*, least: int = 1) -> dict[str, Case]:
    return {
        "zero": Case(0, least > 0),
        "negative": Case(-1, True),
        "fraction": Case(1.5, True),
        "NaN": Case(float("nan"), True),
        "text": Case("3", True),
        "NumPy integer": Case(np.int64(12), False),
        "vector": Case(np.array([1, 2]), True),
        "None": Case(None, True),
    }


def optional(cases: dict[str, Case]) -> dict[str, Case]:
    return {name: case for name, case in cases.items() if name != "None"}


def callable_rate(cases: dict[str, Case]) -> dict[str, Case]:
    return {name: case for name, case in cases.items() if name != "function"}


def params() -> dict[str, Case]:
    """In place of the parameters of `apply`."""
    return {
        "NaN": Case(PARAMS | {"b": jnp.array([jnp.nan])}, True),
        "inf": Case(PARAMS | {"w": jnp.array([[jnp.inf, 0.0]])}, True),
        "integers": Case(jax.tree.map(lambda leaf: leaf.astype(int), PARAMS), True),
        "complex": Case(jax.tree.map(lambda leaf: leaf + 1j, PARAMS), True),
        "no arrays": Case({}, True),
        "None": Case(None, True),
        "text": Case("params", True),
        "text leaf": Case(PARAMS | {"b": "b"}, True),
        "zero-size leaf": Case(PARAMS | {"empty": jnp.zeros((0, 3))}, False),
        "unused leaf": Case(PARAMS | {"unused": jnp.ones(2)}, False),
        "NumPy leaves": Case(jax.tree.map(np.asarray, PARAMS), False),
        "float32": Case(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), PARAMS), False),
        "wrong shape": Case(PARAMS | {"w": jnp.ones((1, 5))}, True),
    }


class Entry(NamedTuple):
    """`call(**arguments)` with one of the arguments replaced by each of its cases in turn.

    `names`: what a refusal may call the argument, where that is not its own name.
    """

    name: str
    call: Callable[..., Any]
    arguments: Mapping[str, Any]
    cases: Mapping[str, Mapping[str, Case]]
    names: Mapping[str, tuple[str, ...]] = {}


class Unusual(Exception):
    """Raised by a model of the user's."""


def raising(params: Any, x: Any) -> Any:
    raise Unusual("my network")


SEEN: list[Any] = []


def remembering(params: Any, x: Any) -> Any:
    SEEN.append(x.shape)
    return apply(params, x)


def printing(params: Any, x: Any) -> Any:
    jax.debug.callback(lambda value: SEEN.append(value), x[0])
    return apply(params, x)


def counting(params: Any, x: Any) -> Any:
    SEEN[:] = [len(SEEN)]
    return apply(params, x) * 1.0


def networks() -> dict[str, Case]:
    """In place of `apply`."""
    return {
        "raises": Case(raising, True),
        "keeps what it sees": Case(remembering, False),
        "calls back": Case(printing, False),
        "changes a global": Case(counting, False),
        "returns None": Case(lambda params, x: None, True),
        "returns a list": Case(lambda params, x: [apply(params, x)], True),
        "returns integers": Case(lambda params, x: apply(params, x).astype(int), True),
        "returns complex": Case(lambda params, x: apply(params, x) + 1j, True),
        "returns a Python number": Case(lambda params, x: 1.0, True),
        "returns nothing": Case(lambda params, x: jnp.zeros(0), True),
        "another number of outputs": Case(lambda params, x: jnp.tile(apply(params, x), 3), True),
        "ignores its parameters": Case(lambda params, x: x[:1] * 1.0, False),
        "takes one argument": Case(lambda params: params, True),
        "branches on values": Case(lambda params, x: apply(params, x) if x[0] > 0 else x[:1], True),
        "None": Case(None, True),
        "text": Case("network", True),
    }


def evaluated(cost: Any) -> Any:
    targets = cost.targets if isinstance(cost, jg.L2) else cost.squares.targets
    return cost(jnp.ones_like(targets))


def costs() -> list[Entry]:
    vector, matrix = floats(Y[:, 0], fixed_length=False), floats(Y, fixed_length=False)
    fits = {name: case for name, case in matrix.items() if name != "more axes"}
    wider = {"more axes": Case(np.ones((4, 2, 3)), False)}
    weights = np.array([1.0, 2.0, 0.5, 1.5])
    outputs = jnp.asarray(Y) + 1

    weighted = floats(weights)
    weighted |= {
        "negative": Case(-weights, True),
        "all zero": Case(0 * weights, True),
        "some zero": Case(np.array([0.0, 1, 1, 1]), False),
    }
    return [
        Entry("L2", lambda targets: evaluated(jg.L2(targets)), {"targets": Y}, {"targets": fits}),
        Entry(
            "L2 of a vector",
            lambda targets: jg.L2(targets).targets,
            {"targets": Y[:, 0]},
            {"targets": vector | wider},
        ),
        Entry(
            "L2.from_labels",
            lambda **arguments: jg.L2.from_labels(**arguments).targets,
            {"labels": LABELS, "class_vectors": np.eye(3)},
            {
                "labels": labels(LABELS) | {"huge": Case(holed(LABELS, 10**6), True)},
                "class_vectors": optional(floats(np.eye(3), fixed_length=False))
                | {"one sample": Case(np.eye(3)[:1], True)},
            },
            {"class_vectors": ("class_vectors", "labels")},
        ),
        Entry(
            "L2.from_labels by number",
            lambda **arguments: jg.L2.from_labels(**arguments).targets,
            {"labels": LABELS, "num_classes": 3},
            {"num_classes": optional(count()) | {"zero": Case(0, True)}},
            {"num_classes": ("num_classes", "labels")},
        ),
        Entry(
            "SoftmaxCrossEntropy",
            lambda targets: evaluated(jg.SoftmaxCrossEntropy(targets)),
            {"targets": ONE_HOT},
            {
                "targets": floats(ONE_HOT, fixed_length=False)
                | {
                    "one class": Case(np.ones((4, 1)), True),
                    "no probabilities": Case(ONE_HOT + 0.1, True),
                    "negative": Case(ONE_HOT * 2 - 1 / 3, True),
                    "integers": Case(ONE_HOT.astype(int), False),
                }
            },
        ),
        Entry(
            "SoftmaxCrossEntropy.from_labels",
            lambda **arguments: jg.SoftmaxCrossEntropy.from_labels(**arguments).targets,
            {"labels": LABELS, "smoothing": 0.1, "num_classes": 3},
            {
                "labels": labels(LABELS) | {"huge": Case(holed(LABELS, 10**6), True)},
                "smoothing": number(zero=True),
                "num_classes": optional(count()) | {"zero": Case(0, True)},
            },
            {"num_classes": ("num_classes", "labels")},
        ),
        Entry(
            "Huber",
            lambda **arguments: evaluated(jg.Huber(**arguments)),
            {"targets": Y, "threshold": 1.0},
            {"targets": fits, "threshold": number(infinite=True)},
        ),
        Entry(
            "WeightedL2",
            lambda **arguments: evaluated(jg.WeightedL2(**arguments)),
            {"targets": Y, "weights": weights},
            {
                "weights": weighted | {"one sample": Case(weights[:1], False)},
                "targets": floats(Y) | wider,
            },
            {"targets": ("targets", "weights")},
        ),
        Entry(
            "SampleWeighted",
            lambda weights: jg.SampleWeighted(jg.L2(Y), weights)(outputs),
            {"weights": weights},
            {"weights": weighted},
        ),
        Entry(
            "SampleWeighted of a cost",
            lambda cost: jg.SampleWeighted(cost, weights)(outputs),
            {"cost": jg.L2(Y)},
            {"cost": {"None": Case(None, True), "array": Case(Y, True), "class": Case(jg.L2, True)}},
        ),
        Entry(
            "SumOfSquares",
            lambda num_samples: jg.SumOfSquares(num_samples)(outputs),
            {"num_samples": 4},
            {"num_samples": count()},
        ),
        Entry(
            "metrics.Weighted",
            lambda weights: jg.metrics.Weighted(weights).weights,
            {"weights": np.ones(2)},
            {
                "weights": floats(np.ones(2), fixed_length=False)
                | {"negative": Case(-np.ones(2), True), "zero": Case(np.zeros(2), True)}
            },
        ),
        Entry(
            "metrics.MatrixMetric",
            lambda matrix: jg.metrics.MatrixMetric(matrix).upper,
            {"matrix": np.eye(2)},
            {
                "matrix": floats(np.eye(2))
                | {
                    "indefinite": Case(-np.eye(2), True),
                    "asymmetric": Case(np.array([[1.0, 0.5], [0.0, 1.0]]), True),
                    "bool": Case(np.eye(2) > 0, False),
                    "another length": Case(np.ones((4, 2)), True),
                }
            },
        ),
    ]


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


def algebra() -> list[Entry]:
    velocity = floats(Y)
    solver = {"None": Case(None, False), "class": Case(GramCholesky, True), "text": Case("cholesky", True)}
    some = number()

    def solve(solver: Any) -> Any:
        return jg.lift(PROBLEM, PARAMS, jnp.asarray(Y), solver)

    return [
        Entry(
            "lift",
            lambda **a: jg.lift(PROBLEM, **a),
            {"params": PARAMS, "velocity": Y},
            {"params": params(), "velocity": velocity, "damping": number(zero=True), "solver": solver},
            {"params": ("params", "apply", "dot_general")},
        ),
        Entry("CG", lambda **a: solve(CG(**a)), {"rtol": 1e-6, "max_steps": 50}, {"rtol": some, "max_steps": count()}),
        Entry(
            "LSMR",
            lambda **a: solve(LSMR(**a)),
            {"rtol": 1e-6, "max_steps": 50},
            {"rtol": some, "max_steps": optional(count())},
        ),
        Entry("Nystrom", Nystrom, {"rank": 2, "batch_size": 4}, {"rank": count(), "batch_size": count()}),
        Entry("HardCutoff", lambda rcond: solve(SVD(HardCutoff(rcond))), {"rcond": 1e-8}, {"rcond": some}),
        Entry(
            "SmoothCutoff",
            lambda **a: solve(SVD(SmoothCutoff(**a))),
            {"rcond": 1e-8, "width": 4.0},
            {"rcond": some, "width": some},
        ),
        Entry(
            "Auto",
            Auto,
            {"memory": 10**9, "max_entries": 1000},
            {"memory": optional(count()), "max_entries": count(least=0)},
        ),
        Entry("NormalCholesky", NormalCholesky, {"chunk_size": 2}, {"chunk_size": count()}),
        Entry("GramCholesky", GramCholesky, {"refinements": 2}, {"refinements": count(least=0)}),
    ]


def optimizers() -> list[Entry]:
    grads = jax.tree.map(jnp.zeros_like, PARAMS)
    transformations = {
        "adapted_levenberg_marquardt": jg.optim.adapted_levenberg_marquardt(apply),
        "linear_interpolation": jg.optim.linear_interpolation(apply=apply),
        "adapted_momentum": jg.optim.adapted_momentum(0.5, apply),
        "adapted_gradient_descent": jg.optim.adapted_gradient_descent(0.5, apply),
        "scale_by_adapted_metric": jg.optim.scale_by_adapted_metric(apply),
    }
    entries = []
    for name, tx in transformations.items():
        state = tx.init(PARAMS)

        def update(tx: Any = tx, state: Any = state, **arguments: Any) -> Any:
            updates, _ = tx.update(grads, state, arguments.pop("params"), **arguments)
            return updates

        unusual = {key: params()[key] for key in ("None", "text", "no arrays", "integers")}
        fed = {"params": PARAMS, "inputs": X, "targets": Y}
        cases: dict[str, Any] = {
            "params": unusual,
            "inputs": {k: v for k, v in floats(X).items() if k not in ("float32", "integers", "bool", "read-only")},
            "targets": {k: v for k, v in floats(Y).items() if k not in ("float32", "bool")},
            "weights": optional(floats(np.ones(4))),
        }
        entries.append(
            Entry(
                f"{name}.update",
                update,
                fed,
                cases,
                {"inputs": ("inputs", "targets", "apply"), "params": ("params", "inputs")},
            )
        )
        entries.append(
            Entry(
                f"{name}.init",
                lambda params, tx=tx: tx.init(params),
                {"params": PARAMS},
                {
                    "params": {
                        k: v
                        for k, v in params().items()
                        if k not in ("wrong shape", "NaN", "inf", "complex", "text leaf")
                    }
                },
            )
        )
    rate = callable_rate(number())

    def step(apply: Any) -> Any:
        tx = jg.optim.adapted_levenberg_marquardt(apply)
        return tx.update(grads, tx.init(PARAMS), PARAMS, inputs=X, targets=Y)[0]

    # A function that cannot be called as it should has Python's own error here, which names the function.
    called = {k: v for k, v in networks().items() if k not in ("takes one argument", "branches on values")}
    entries += [
        Entry("a network in update", step, {"apply": apply}, {"apply": called}, {"apply": ("apply", "targets")}),
        Entry(
            "adapted_gradient_descent",
            lambda **a: jg.optim.adapted_gradient_descent(apply=apply, **a),
            {"learning_rate": 0.5},
            {
                "learning_rate": rate | {"zero": Case(0.0, False)},
                "damping": callable_rate(number(zero=True)),
                "max_growth": number(infinite=True),
                "apply": {},
            },
        ),
        Entry(
            "adapted_momentum",
            lambda **a: jg.optim.adapted_momentum(apply=apply, **a),
            {"learning_rate": 0.5},
            {
                "learning_rate": rate | {"zero": Case(0.0, False)},
                "momentum": callable_rate(number(zero=True)),
                "damping": callable_rate(number(zero=True)),
                "norm_cap": number(infinite=True),
                "max_growth": number(infinite=True),
            },
        ),
        Entry(
            "scale_by_adapted_metric",
            lambda **a: jg.optim.scale_by_adapted_metric(apply, **a),
            {},
            {"damping": callable_rate(number(zero=True))},
        ),
        Entry(
            "adapted_levenberg_marquardt",
            lambda **a: jg.optim.adapted_levenberg_marquardt(apply, **a),
            {},
            {"acceleration": optional(number(zero=True)), "corrections": count(least=0)},
        ),
        Entry(
            "linear_interpolation",
            lambda **a: jg.optim.linear_interpolation(apply=apply, **a),
            {},
            {"num_steps": count(), "max_growth": number(infinite=True), "corrections": count(least=0)},
        ),
        Entry(
            "GainRatioDamping",
            jg.optim.GainRatioDamping,
            {},
            {name: number() for name in ("initial", "error", "decrease", "increase", "minimum", "maximum")},
        ),
        Entry("TrustRegion", jg.optim.TrustRegion, {}, {"factor": number()}),
        Entry("ColumnScaling", jg.optim.ColumnScaling, {}, {"max_params": count(least=0)}),
        Entry("RankCutoff", jg.optim.RankCutoff, {}, {"initial": number()}),
    ]
    return entries


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
    tangent = {
        "NaN": Case(jax.tree.map(lambda leaf: leaf * jnp.nan, PARAMS), True),
        "another tree": Case({"w": jnp.ones((1, 2))}, True),
        "None": Case(None, True),
        "wrong shape": Case(PARAMS | {"b": jnp.ones(3)}, True),
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
            {"velocity": tangent},
        ),
        Entry(
            "pullback_metric",
            lambda first: pullback_metric(PROBLEM, PARAMS, first, PARAMS),
            {"first": PARAMS},
            {"first": tangent},
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


def theory() -> list[Entry]:
    cost = number(zero=True)
    samples = count()
    good = {"s": 1.0, "cost0": 2.0, "num_samples": 3}
    rows = {
        k: v
        for k, v in floats(Y).items()
        if k in ("NaN", "inf", "strings", "another length", "list", "None", "NumPy", "integers", "text", "object")
    }
    time = number(zero=True, negative=True, infinite=True) | {
        "vector": Case(np.array([0.0, 1.0]), False),
        "list": Case([0.5], False),
    }
    return [
        Entry("theory.cost_at", jg.theory.cost_at, good, {"s": time, "cost0": cost, "num_samples": samples}),
        Entry(
            "theory.outputs_at",
            jg.theory.outputs_at,
            {"s": 1.0, "outputs0": Y, "targets": Y, "num_samples": 4},
            {
                "s": time
                | {
                    "vector": Case(np.array([0.0, 1.0]), True),
                    "list": Case([0.5, 1.0], True),
                    "inf": Case(np.inf, False),
                    "negative": Case(-1.0, False),
                },
                "outputs0": rows,
                "targets": rows,
                "num_samples": samples,
            },
            {"outputs0": ("outputs0", "targets"), "targets": ("targets", "outputs0")},
        ),
        Entry(
            "theory.stopping_time",
            jg.theory.stopping_time,
            {"cost0": 1.0, "tol": 0.1, "num_samples": 3},
            {"cost0": cost, "tol": number(), "num_samples": samples},
        ),
        Entry(
            "theory.critical_cost",
            jg.theory.critical_cost,
            {"orthogonal_gradient": Y, "num_samples": 4},
            {"orthogonal_gradient": {k: v for k, v in rows.items() if k != "another length"}, "num_samples": samples},
        ),
        Entry(
            "theory.num_steps",
            jg.theory.num_steps,
            {"cost0": 1.0, "tol": 0.1, "learning_rate": 0.5},
            {"cost0": cost, "tol": number(), "learning_rate": number()},
        ),
    ]


def ready() -> list[Entry]:
    folder = Path(tempfile.mkdtemp())

    def table(text: Any) -> Any:
        path = folder / "table.csv"
        path.write_bytes(text if isinstance(text, bytes) else str(text).encode())
        return table_task(read_table(path), "y").train_inputs

    rows = "".join(f"{i},{i * i % 7},{np.sin(i)}\n" for i in range(12))
    texts = {
        "empty": Case("", True),
        "only a header": Case("a,b,y\n", True),
        "NaN": Case("a,b,y\n" + rows + "nan,1,1.5\n", True),
        "inf": Case("a,b,y\n" + rows + "inf,1,1.5\n", True),
        "text": Case("a,b,y\n" + rows + "=A1+1,1,1.5\n", True),
        "ragged": Case("a,b,y\n" + rows + "1,1.5\n", True),
        "no target": Case("a,b,c\n" + rows, True),
        "binary": Case(b"\xff\xfe\x00a,b,y\n", True),
        "NUL": Case("a,b,y\n" + rows + "1\x00,2,3.5\n", True),
        "windows": Case("\ufeffa,b,y\r\n" + rows.replace("\n", "\r\n"), False),
        "huge field": Case("a,b,y\n" + rows + "1" * 200_000 + ",1,1.5\n", True),
    }
    widths = {
        "zero": Case((2, 0, 1), True),
        "negative": Case((2, -3, 1), True),
        "one": Case((2,), True),
        "empty": Case((), True),
        "fraction": Case((2, 1.5, 1), True),
        "text": Case("2-3-1", True),
        "None": Case(None, True),
        "list": Case([2, 3, 1], False),
    }
    scaling = Scaling.fit(("a", "b"), X)
    named = {"text": ("table.csv", "CSV", "column", "csv")}
    return [
        Entry("read_table", table, {"text": "a,b,y\n" + rows}, {"text": texts}, named),
        Entry(
            "read_table of a path",
            read_table,
            {"path": __file__},
            {
                "path": {
                    "missing": Case(folder / "none.csv", True),
                    "folder": Case(folder, True),
                    "None": Case(None, True),
                    "number": Case(1, True),
                }
            },
            {"path": ("none.csv", folder.name, "path")},
        ),
        Entry(
            "table_task",
            lambda **a: (
                table(a and "a,b,y\n" + rows) is not None
                and table_task(read_table(folder / "table.csv"), "y", **a).train_inputs
            ),
            {"num_samples": 5, "test_fraction": 0.2},
            {"num_samples": optional(count()), "test_fraction": {k: v for k, v in number().items() if k != "function"}},
            {"num_samples": ("num_samples", "train", "samples")},
        ),
        Entry(
            "digits",
            lambda num_samples: digits(num_samples).train_inputs,
            {"num_samples": 20},
            {"num_samples": count() | {"NumPy integer": Case(np.int64(20), False)}},
            {"num_samples": ("num_samples", "number of samples")},
        ),
        Entry(
            "Network",
            lambda sizes: Network(sizes, jnp.float64, key=jax.random.key(0))(jnp.ones(2)),
            {"sizes": (2, 3, 1)},
            {"sizes": widths},
        ),
        Entry(
            "choose_hidden",
            choose_hidden,
            {"num_inputs": 2, "num_outputs": 1, "num_rows": 5},
            {name: count() for name in ("num_inputs", "num_outputs", "num_rows")},
        ),
        Entry(
            "Scaling.fit",
            lambda values: Scaling.fit(("a", "b"), values).apply(X),
            {"values": X},
            {"values": {k: v for k, v in floats(X, fixed_length=False).items() if k not in ("more axes",)}},
        ),
        Entry(
            "Scaling.apply",
            scaling.apply,
            {"values": X},
            {
                "values": {
                    k: v for k, v in floats(X, fixed_length=False).items() if k not in ("more axes", "empty", "scalar")
                }
                | {"other columns": Case(np.ones((2, 3)), True)}
            },
        ),
        Entry(
            "poisson_2d",
            lambda widths: poisson_2d(widths).init(jax.random.key(0)),
            {"widths": (4,)},
            {
                "widths": {
                    "zero": Case((0,), True),
                    "negative": Case((-1,), True),
                    "text": Case("64", True),
                    "fraction": Case((1.5,), True),
                    "number": Case(64, True),
                }
            },
            {"widths": ("widths", "sizes")},
        ),
        Entry(
            "Equation.points",
            lambda counts: poisson_2d((4,)).points(jax.random.key(0), counts),
            {"counts": (9, 8)},
            {
                "counts": {
                    "zero": Case((0, 0), True),
                    "negative": Case((-1, 4), True),
                    "number": Case(9, True),
                    "fraction": Case((9.5, 8), True),
                }
            },
        ),
    ]


def estimators() -> list[Entry]:
    from jaxgeo.estimators import JaxgeoClassifier, JaxgeoRegressor

    small: dict[str, Any] = {"hidden_layer_sizes": (2,), "max_iter": 2, "random_state": 0}
    fitted = JaxgeoRegressor(**small).fit(X, Y[:, 0])
    # scikit-learn reads text that spells numbers, and dates as numbers.
    reads = {"dates": Case(np.full(X.shape, np.datetime64("2026-01-01")), False)}
    targets = {k: v for k, v in floats(Y[:, 0]).items() if k not in ("strings", "dates")}
    rows = floats(X) | reads | {"strings of text": Case(np.full(X.shape, "a"), True)}
    del rows["strings"]
    more = {"more axes": Case(np.ones((4, 2, 3)), True)}
    predicted = {k: v for k, v in rows.items() if k not in ("another length",)} | {
        "one sample": Case(X[:1], False),
        "other columns": Case(np.ones((2, 3)), True),
    }
    classes = {
        "strings": Case(np.array(["a", "b", "a", "b"]), False),
        "bool": Case(np.array([True, False, True, False]), False),
        "floats": Case(np.array([0.0, 1.0, 0.0, 1.0]), False),
        "continuous": Case(Y[:, 0], True),
        "NaN": Case(np.array([0.0, 1.0, np.nan, 1.0]), True),
        "one class": Case(np.ones(4), True),
        "None": Case(None, True),
        "object": Case(np.array([0, "a", None, 1], object), True),
        "another length": Case(np.arange(5) % 2, True),
        "one-hot": Case(np.eye(4), True),
        "list": Case([0, 1, 0, 1], False),
    }
    options = {
        "hidden_layer_sizes": {
            "zero": Case((0,), True),
            "number": Case(3, True),
            "text": Case("3", True),
            "None": Case(None, True),
            "empty": Case((), False),
            "list": Case([2], False),
        },
        "damping": number(),
        "max_iter": count(),
        "tol": number(),
        "validation_fraction": {k: v for k, v in number().items() if k != "inf"},
        "n_iter_no_change": count(),
        "early_stopping": {"None": Case(None, True), "text": Case("yes", True)},
        "precision": {"None": Case(None, True), "float16": Case("float16", True), "vector": Case(np.ones(2), True)},
        "random_state": {
            "text": Case("seed", True),
            "negative": Case(-1, True),
            "None": Case(None, False),
            "RandomState": Case(np.random.RandomState(0), False),
        },
    }
    # What scikit-learn and NumPy say of data that are no real numbers, without a name.
    conversion = ("Complex data not supported", "could not convert string to float", "a real number")
    says = {
        "X": ("X", "array", "features", "samples", *conversion),
        "y": ("y", "label", "samples", "target", *conversion),
        "random_state": ("random_state", "seed", "Seed"),
    }
    return [
        Entry(
            "JaxgeoRegressor.fit",
            lambda X, y: JaxgeoRegressor(**small).fit(X, y).predict(np.ones((1, 2))),
            {"X": X, "y": Y[:, 0]},
            {"X": rows | more, "y": targets | more},
            says,
        ),
        Entry("JaxgeoRegressor.predict", fitted.predict, {"X": X}, {"X": predicted | more}, says),
        Entry(
            "JaxgeoClassifier.fit",
            lambda y: JaxgeoClassifier(**small).fit(X, y).predict_proba(X),
            {"y": LABELS},
            {"y": classes},
            says,
        ),
        Entry(
            "JaxgeoRegressor", lambda **a: JaxgeoRegressor(**(small | a)).fit(X, Y[:, 0]).predict(X), {}, options, says
        ),
        Entry(
            "JaxgeoClassifier",
            lambda **a: JaxgeoClassifier(**(small | a)).fit(X, LABELS).predict(X),
            {},
            {"loss": {"None": Case(None, True), "text": Case("hinge", True), "vector": Case(np.ones(2), True)}},
            says,
        ),
    ]


GROUPS = {
    each.__name__: each
    for each in (costs, problems, integrators, algebra, optimizers, geometry, theory, ready, estimators)
}


class Cell(NamedTuple):
    name: str
    call: Callable[[], Any]
    refused: bool
    names: tuple[str, ...]


def cells(group: str) -> Iterator[Cell]:
    for entry in GROUPS[group]():
        for argument, cases in entry.cases.items():
            for kind, case in cases.items():
                arguments = {**entry.arguments, argument: case.value}

                def call(entry: Entry = entry, arguments: dict[str, Any] = arguments) -> Any:
                    return entry.call(**arguments)

                yield Cell(
                    f"{entry.name}({argument}: {kind})", call, case.refused, entry.names.get(argument, (argument,))
                )


def has_nan(result: Any) -> bool:
    leaves = jax.tree.leaves(result)
    return any(
        np.isnan(np.asarray(leaf, np.complex128)).any() for leaf in leaves if eqx.is_inexact_array_like(leaf)
    ) or any(has_nan(vars(leaf)) for leaf in leaves if type(leaf).__module__.startswith("jaxgeo"))


def judge(cell: Cell) -> tuple[str, str]:
    """The verdict, "works", "refused" or "wrong", and what was seen."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = jax.block_until_ready(cell.call())
    except Unusual as error:
        return "refused", f"the network's own error: {error}"
    except (ValueError, TypeError) as error:
        text = str(error)
        named = any(name in text for name in cell.names)
        return ("refused" if named else "wrong"), f"{type(error).__name__}: {text[:300]}"
    except Exception as error:
        return "wrong", f"{type(error).__name__}: {str(error)[:300]}"
    if has_nan(result):
        return "wrong", "gave NaN"
    return ("wrong", "worked, though nothing sensible can come of it") if cell.refused else ("works", "")


def main(group: str) -> None:
    for cell in cells(group):
        verdict, detail = judge(cell)
        print(json.dumps({"cell": cell.name, "verdict": verdict, "detail": detail}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
