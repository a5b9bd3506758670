"""The estimators of scikit-learn."""

from typing import Any

import numpy as np

from input_matrix.cells import Entry, entry, refused, without, works
from input_matrix.values import COUNT, LABELS, POSITIVE, X, Y, floats


def estimators() -> list[Entry]:
    from jaxgeo.estimators import JaxgeoClassifier, JaxgeoRegressor

    small: dict[str, Any] = {"hidden_layer_sizes": (2,), "max_iter": 2, "random_state": 0}
    y = Y[:, 0]
    # What scikit-learn and NumPy say of data that are no real numbers, without a name.
    conversion = ("Complex data not supported", "could not convert string to float", "a real number")
    says = {
        "X": ("X", "array", "features", "samples", *conversion),
        "y": ("y", "label", "samples", "target", *conversion),
        "random_state": ("random_state", "seed", "Seed"),
    }
    # scikit-learn reads text that spells numbers, and dates as numbers.
    rows = without(floats(X), "strings") | works(dates=np.full(X.shape, np.datetime64("2026-01-01")))
    rows |= refused(strings_of_text=np.full(X.shape, "a"), more_axes=np.ones((4, 2, 3)))
    other = works(one_sample=X[:1]) | refused(other_columns=np.ones((2, 3)))
    classes = works(
        strings=np.array(["a", "b", "a", "b"]),
        bool=np.array([True, False, True, False]),
        floats=np.array([0.0, 1.0, 0.0, 1.0]),
        list=[0, 1, 0, 1],
    ) | refused(
        continuous=y,
        NaN=np.array([0.0, 1.0, np.nan, 1.0]),
        one_class=np.ones(4),
        None_=None,
        object=np.array([0, "a", None, 1], object),
        another_length=np.arange(5) % 2,
    )
    classes |= {"one-hot": refused(x=np.eye(4))["x"]}

    def regress(X: Any = X, y: Any = y, at: Any = X, **options: Any) -> Any:
        return JaxgeoRegressor(**(small | options)).fit(X, y).predict(at)

    def classify(y: Any = LABELS, **options: Any) -> Any:
        return JaxgeoClassifier(**(small | options)).fit(X, y).predict_proba(X)

    return [
        entry(
            "JaxgeoRegressor.fit",
            regress,
            {"at": np.ones((1, 2))},
            named=says,
            X=rows,
            y=without(floats(y), "strings", "dates") | refused(more_axes=np.ones((4, 2, 3))),
        ),
        entry(
            "JaxgeoRegressor.predict",
            JaxgeoRegressor(**small).fit(X, y).predict,
            named=says,
            X=without(rows, "another length") | other,
        ),
        entry("JaxgeoClassifier.fit", classify, named=says, y=classes),
        entry(
            "JaxgeoRegressor",
            regress,
            named=says,
            hidden_layer_sizes=refused(zero=(0,), text="3") | works(empty=(), list=[2], number=3, None_=None),
            n_starts=COUNT,
            max_iter=COUNT,
            tol=POSITIVE,
            max_time=without(POSITIVE, "inf", "None"),
            warm_start=refused(None_=None, text="yes"),
            random_state=refused(text="seed", negative=-1) | works(None_=None, RandomState=np.random.RandomState(0)),
        ),
    ]
