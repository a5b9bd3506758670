"""The estimators of scikit-learn."""

from typing import Any

import numpy as np

from input_matrix.cells import Case, Entry
from input_matrix.values import LABELS, X, Y, count, floats, number


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
