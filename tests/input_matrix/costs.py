"""Costs and metrics."""

from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxgeo as jg
from input_matrix.cells import Case, Entry
from input_matrix.values import LABELS, ONE_HOT, Y, count, floats, holed, labels, number, optional


def evaluated(cost: Any) -> Any:
    targets = cost.targets if isinstance(cost, jg.L2) else cost.squares.targets
    return cost(jnp.ones_like(targets))


def targets(cost: Any) -> Any:
    return (cost.cost if isinstance(cost, jg.SampleWeighted) else cost).targets


# In place of a label that is ignored; one that is never met ignores nothing.
IGNORED = {
    "negative": Case(-1, False),
    "a class": Case(1, False),
    "huge": Case(10**30, True),
    "NumPy integer": Case(np.int64(2), False),
    "fraction": Case(0.5, True),
    "bool": Case(True, True),
    "text": Case("-1", True),
    "vector": Case(np.array([-1, -2]), True),
}


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
            lambda **arguments: targets(jg.L2.from_labels(**arguments)),
            {"labels": LABELS, "num_classes": 3},
            {"num_classes": optional(count()) | {"zero": Case(0, True)}, "ignore_label": IGNORED},
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
            lambda **arguments: targets(jg.SoftmaxCrossEntropy.from_labels(**arguments)),
            {"labels": LABELS, "smoothing": 0.1, "num_classes": 3},
            {
                "labels": labels(LABELS) | {"huge": Case(holed(LABELS, 10**6), True)},
                "smoothing": number(zero=True),
                "num_classes": optional(count()) | {"zero": Case(0, True)},
                "ignore_label": IGNORED,
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
