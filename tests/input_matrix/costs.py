"""Costs and metrics."""

from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxgeo as jg
from input_matrix.cells import Case, Entry, entry, refused, without, works
from input_matrix.values import (
    COUNT,
    LABELS,
    NOT_NEGATIVE,
    ONE_HOT,
    OPTIONAL_COUNT,
    POSITIVE,
    Y,
    floats,
    holed,
    labels,
    number,
)

# In place of a label that is ignored; one that is never met ignores nothing.
IGNORED = works(negative=-1, a_class=1, NumPy_integer=np.int64(2)) | refused(
    huge=10**30, fraction=0.5, bool=True, text="-1", vector=np.array([-1, -2])
)
WEIGHTS = np.array([1.0, 2.0, 0.5, 1.5])


def evaluated(cost: Any) -> Any:
    targets = cost.targets if isinstance(cost, jg.L2) else cost.squares.targets
    return cost(jnp.ones_like(targets))


def targets(cost: Any) -> Any:
    return (cost.cost if isinstance(cost, jg.SampleWeighted) else cost).targets


def costs() -> list[Entry]:
    vector, matrix = floats(Y[:, 0], fixed_length=False), floats(Y, fixed_length=False)
    fits, wider = without(matrix, "more axes"), works(more_axes=np.ones((4, 2, 3)))
    outputs = jnp.asarray(Y) + 1
    weights = floats(WEIGHTS) | refused(negative=-WEIGHTS, all_zero=0 * WEIGHTS)
    weights |= works(some_zero=np.array([0.0, 1, 1, 1]))
    classes = {"labels": labels(LABELS) | refused(huge=holed(LABELS, 10**6))}
    num_classes = OPTIONAL_COUNT | refused(zero=0)
    vectors = without(floats(np.eye(3), fixed_length=False), "None") | refused(one_sample=np.eye(3)[:1])
    by_number = {"labels": LABELS, "num_classes": 3}
    named = {"class_vectors": ("class_vectors", "labels"), "num_classes": ("num_classes", "labels")}
    some_cost = refused(None_=None, array=Y) | {"class": Case(jg.L2, True)}
    indefinite = refused(indefinite=-np.eye(2), asymmetric=np.array([[1.0, 0.5], [0.0, 1.0]]))
    probabilities = refused(one_class=np.ones((4, 1)), no_probabilities=ONE_HOT + 0.1, negative=ONE_HOT * 2 - 1 / 3)
    probabilities |= works(integers=ONE_HOT.astype(int))

    def crossed(**arguments: Any) -> Any:
        return targets(jg.SoftmaxCrossEntropy.from_labels(**(by_number | {"smoothing": 0.1} | arguments)))

    return [
        entry("L2", lambda targets: evaluated(jg.L2(targets)), targets=fits),
        entry("L2 of a vector", lambda targets: jg.L2(targets).targets, targets=vector | wider),
        entry(
            "L2.from_labels",
            lambda **a: jg.L2.from_labels(**a).targets,
            {"labels": LABELS, "class_vectors": np.eye(3)},
            named=named,
            class_vectors=vectors,
            **classes,
        ),
        entry(
            "L2.from_labels by number",
            lambda **a: targets(jg.L2.from_labels(**a)),
            by_number,
            named=named,
            num_classes=num_classes,
            ignore_label=IGNORED,
        ),
        entry(
            "SoftmaxCrossEntropy",
            lambda targets: evaluated(jg.SoftmaxCrossEntropy(targets)),
            targets=floats(ONE_HOT, fixed_length=False) | probabilities,
        ),
        entry(
            "SoftmaxCrossEntropy.from_labels",
            crossed,
            named=named,
            smoothing=NOT_NEGATIVE,
            num_classes=num_classes,
            ignore_label=IGNORED,
            **classes,
        ),
        entry(
            "Huber",
            lambda **a: evaluated(jg.Huber(**a)),
            {"targets": Y, "threshold": 1.0},
            targets=fits,
            threshold=number(infinite=True),
        ),
        *(
            entry(
                cost.__name__,
                lambda cost=cost, **a: evaluated(cost(**a)),
                {"targets": Y, "scale": 1.0},
                targets=fits,
                scale=POSITIVE,
            )
            for cost in (jg.SoftL1, jg.Cauchy, jg.Arctan)
        ),
        entry(
            "WeightedL2",
            lambda **a: evaluated(jg.WeightedL2(**a)),
            {"targets": Y, "weights": WEIGHTS},
            named={"targets": ("targets", "weights")},
            weights=weights | works(one_sample=WEIGHTS[:1]),
            targets=floats(Y) | wider,
        ),
        entry("SampleWeighted", lambda weights: jg.SampleWeighted(jg.L2(Y), weights)(outputs), weights=weights),
        entry("SampleWeighted of a cost", lambda cost: jg.SampleWeighted(cost, WEIGHTS)(outputs), cost=some_cost),
        entry("SumOfSquares", lambda num_samples: jg.SumOfSquares(num_samples)(outputs), num_samples=COUNT),
        entry(
            "metrics.Weighted",
            lambda weights: jg.metrics.Weighted(weights).weights,
            weights=floats(np.ones(2), fixed_length=False) | refused(negative=-np.ones(2), zero=np.zeros(2)),
        ),
        entry(
            "metrics.MatrixMetric",
            lambda matrix: jg.metrics.MatrixMetric(matrix).upper,
            matrix=floats(np.eye(2)) | indefinite | works(bool=np.eye(2) > 0) | refused(another_length=np.ones((4, 2))),
        ),
    ]
