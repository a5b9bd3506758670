"""The linear model that networks are compared with, and the digits, against scikit-learn."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge

from jaxgeo.app.data import digits
from jaxgeo.app.data.linear import PENALTIES, predict_linearly


def predict_by_leaving_out(inputs, targets, weights, new):
    """Fit once without each row for each penalty."""
    weights = np.ones(len(inputs)) if weights is None else weights

    def error(penalty):
        total = 0.0
        for i in range(len(inputs)):
            others = np.arange(len(inputs)) != i
            model = Ridge(penalty).fit(inputs[others], targets[others], weights[others])
            total += weights[i] * np.sum((model.predict(inputs[i : i + 1]) - targets[i]) ** 2)
        return total

    return Ridge(min(PENALTIES, key=error)).fit(inputs, targets, weights).predict(new)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("rows", "columns", "noise"), [(40, 5, 0.01), (40, 5, 3.0), (12, 30, 0.3), (1, 2, 0.0)])
def test_the_linear_model_has_the_best_penalty(rows, columns, noise, weighted):
    rng = np.random.default_rng(rows + columns)
    inputs, new = rng.standard_normal((rows, columns)) + 2, rng.standard_normal((7, columns))
    # A constant column, as in the digits.
    inputs[:, 0] = 1.5
    targets = inputs @ rng.standard_normal((columns, 3)) + noise * rng.standard_normal((rows, 3)) - 1
    weights = rng.integers(1, 5, rows).astype(float) if weighted else None
    found = predict_linearly(inputs, targets, weights, new)
    expected = targets[[0] * 7] if rows == 1 else predict_by_leaving_out(inputs, targets, weights, new)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("where", ["file", "package"])
def test_the_digits_are_those_of_scikit_learn(where, monkeypatch):
    if where == "package":
        monkeypatch.setattr("pathlib.Path.is_file", lambda path: False)
    task, data = digits(10), load_digits()
    order = np.random.default_rng(0).permutation(len(data.data))
    np.testing.assert_array_equal(np.concatenate([task.train_inputs, task.test_inputs]), data.data[order] / 16)
    np.testing.assert_array_equal(
        np.concatenate([task.train_targets, task.test_targets]).argmax(axis=1), data.target[order]
    )
