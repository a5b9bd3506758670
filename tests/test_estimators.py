"""The scikit-learn estimators keep scikit-learn's contract, and learn."""

import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits, load_iris, load_linnerud
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from jaxgeo.estimators import JaxgeoClassifier, JaxgeoRegressor

SMALL = {"hidden_layer_sizes": (4,), "max_iter": 20, "random_state": 0}
X = np.linspace(-1, 1, 30)[:, None]
Y = np.sin(3 * X[:, 0])


# Each of these fits data of shapes of its own, with programs of their own.
SLOW = set(
    """
    check_fit_score_takes_y check_estimators_overwrite_params check_dont_overwrite_parameters
    check_n_features_in_after_fitting check_positive_only_tag_during_fit check_estimators_dtypes check_dtype_object
    check_estimators_nan_inf check_regressors_train check_regressors_no_decision_function check_regressors_int
    check_fit2d_1sample check_fit2d_1feature check_fit_idempotent check_fit_check_is_fitted
    check_f_contiguous_array_estimator check_regressor_data_not_an_array check_pipeline_consistency
    check_regressor_multioutput check_methods_sample_order_invariance check_non_transformer_estimators_n_iter
    check_n_features_in check_estimators_pickle
    """.split()  # noqa: SIM905 - a line for each would be a page
)


def contract(estimator):
    names, checks = (mark := parametrize_with_checks([estimator])).args
    pairs = [pytest.param(*pair, marks=[pytest.mark.slow] * (pair[1].func.__name__ in SLOW)) for pair in checks]
    return pytest.mark.parametrize(names, pairs, **mark.kwargs)


@contract(JaxgeoRegressor(**SMALL))
def test_contract_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(
    [JaxgeoClassifier(**SMALL), JaxgeoClassifier(loss="l2", **SMALL), JaxgeoRegressor(precision="float32", **SMALL)]
)
def test_contract_of_scikit_learn_with_other_options(estimator, check):
    check(estimator)


@pytest.mark.slow
def test_diabetes_about_as_well_as_the_linear_model_and_far_better_than_the_mean():
    # Nothing beats the linear model by much here; a network trained to the end scores below zero.
    inputs, targets = load_diabetes(return_X_y=True)
    found = {"early": [], "exact": [], "linear": []}
    for seed in range(3):
        x, x_test, y, y_test = train_test_split(inputs, targets, test_size=0.25, random_state=seed)
        found["early"].append(JaxgeoRegressor(random_state=seed).fit(x, y).score(x_test, y_test))
        exact = JaxgeoRegressor(early_stopping=False, random_state=seed)
        found["exact"].append(exact.fit(x, y).score(x_test, y_test))
        assert exact.score(x, y) > 0.999
        found["linear"].append(LinearRegression().fit(x, y).score(x_test, y_test))
    early, exact, linear = (np.mean(found[name]) for name in ("early", "exact", "linear"))
    assert early > linear - 0.06
    assert early > 0.35 > exact


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["cross_entropy", "l2"])
def test_iris_as_well_as_the_linear_model(loss):
    x, x_test, y, y_test = train_test_split(*load_iris(return_X_y=True), test_size=0.4, random_state=0)
    model = JaxgeoClassifier((16,), loss=loss, random_state=0).fit(x, y)
    linear = make_pipeline(StandardScaler(), LogisticRegression(solver="newton-cg")).fit(x, y)
    assert model.score(x_test, y_test) >= linear.score(x_test, y_test) - 0.04
    probabilities = model.predict_proba(x_test)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)
    assert (probabilities >= 0).all()
    np.testing.assert_array_equal(probabilities.argmax(axis=1), model.predict(x_test))


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "behind"), [("cross_entropy", 0.03), ("l2", 0.07)])
def test_digits_about_as_well_as_the_linear_model_from_two_hundred_rows(loss, behind):
    x, x_test, y, y_test = train_test_split(*load_digits(return_X_y=True), train_size=200, random_state=0)
    model = JaxgeoClassifier((32,), loss=loss, max_iter=30, random_state=0).fit(x, y)
    linear = make_pipeline(StandardScaler(), LogisticRegression(solver="newton-cg", max_iter=1000)).fit(x, y)
    assert model.score(x_test, y_test) > linear.score(x_test, y_test) - behind


@pytest.mark.slow
def test_several_targets():
    x, y = load_linnerud(return_X_y=True)
    model = JaxgeoRegressor((8,), early_stopping=False, random_state=0).fit(x, y)
    assert model.predict(x[:5]).shape == (5, 3)
    assert model.score(x, y) > 0.95
    assert JaxgeoRegressor(**SMALL).fit(x, y[:, :1]).predict(x).shape == (20, 1)


@pytest.mark.slow
def test_a_function_to_the_tolerance():
    x = np.random.default_rng(0).normal(size=(30, 3))
    y = np.sin(x[:, 0]) * x[:, 1] + x[:, 2]
    model = JaxgeoRegressor((16,), early_stopping=False, tol=1e-12, random_state=0).fit(x, y)
    assert model.stopped_ == "tol"
    assert model.loss_curve_[-1] <= 1e-12 * model.loss_curve_[0]
    assert len(model.loss_curve_) == model.n_iter_ + 1 < 101
    assert np.abs(model.predict(x) - y).max() < 1e-5


def test_the_parameters_of_the_lowest_validation_cost_are_kept():
    noisy = Y + np.random.default_rng(0).normal(size=30)
    model = JaxgeoRegressor((16,), validation_fraction=0.4, random_state=0).fit(X, noisy)
    curve = np.array(model.validation_curve_)
    assert model.stopped_ == "no_change"
    assert curve.argmin() <= model.n_iter_ - 10
    again = clone(model).set_params(max_iter=max(int(curve.argmin()), 1)).fit(X, noisy)
    np.testing.assert_array_equal(again.predict(X), model.predict(X))


def test_the_same_seed_gives_the_same_network_and_a_copy_predicts_the_same():
    first = JaxgeoRegressor(**SMALL).fit(X, Y)
    second = clone(first).fit(X, Y)
    other = clone(first).set_params(random_state=1).fit(X, Y)
    np.testing.assert_array_equal(first.predict(X), second.predict(X))
    assert not np.array_equal(first.predict(X), other.predict(X))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(first)).predict(X), first.predict(X))


@pytest.mark.slow
def test_in_a_pipeline_and_a_grid_search():
    search = GridSearchCV(
        make_pipeline(StandardScaler(), JaxgeoRegressor(**SMALL)), {"jaxgeoregressor__damping": [0.1, 10.0]}, cv=2
    )
    order = np.random.default_rng(0).permutation(30)
    assert search.fit(X[order], Y[order]).best_score_ > 0.9


@pytest.mark.slow
def test_float64_where_x64_is_off_and_left_off():
    script = """
import pickle
import numpy as np, jax, jax.numpy as jnp
from jaxgeo.estimators import JaxgeoClassifier, JaxgeoRegressor
x = np.random.default_rng(0).normal(size=(30, 3))
y = np.sin(x[:, 0]) * x[:, 1] + x[:, 2]
model = JaxgeoRegressor((16,), early_stopping=False, tol=1e-20, random_state=0).fit(x, y)
model = pickle.loads(pickle.dumps(model))
assert np.abs(model.predict(x) - y).max() < 1e-9, np.abs(model.predict(x) - y).max()
assert model.network_.layers[0].weight.dtype == np.float64
single = JaxgeoRegressor((16,), early_stopping=False, precision="float32", random_state=0).fit(x, y)
assert single.network_.layers[0].weight.dtype == np.float32
assert 1e-9 < np.abs(single.predict(x) - y).max() < 1e-2
JaxgeoClassifier((4,), random_state=0).fit(x, y > 0).predict_proba(x)
assert jnp.ones(1).dtype == jnp.float32 and not jax.config.jax_enable_x64
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_layer_sizes": (4, 0)}, "`hidden_layer_sizes`.*(4, 0)"),
        ({"hidden_layer_sizes": 4}, "`hidden_layer_sizes`.*4"),
        ({"damping": 0.0}, "`damping`.*0.0"),
        ({"max_iter": 1.5}, "`max_iter`.*1.5"),
        ({"tol": -1.0}, "`tol`.*-1.0"),
        ({"tol": "small"}, "`tol`.*'small'"),
        ({"early_stopping": "yes"}, "`early_stopping`.*'yes'"),
        ({"validation_fraction": 1.0}, "`validation_fraction`.*1.0"),
        ({"n_iter_no_change": 0}, "`n_iter_no_change`.*0"),
        ({"precision": "float16"}, "`precision`.*'float16'"),
        ({"random_state": "x"}, "seed"),
    ],
)
def test_parameters_that_are_refused(options, message):
    for estimator, targets in ((JaxgeoRegressor(), Y), (JaxgeoClassifier(), Y > 0)):
        with pytest.raises(ValueError, match=message):
            clone(estimator).set_params(**options).fit(X, targets)


def test_data_that_are_refused():
    with pytest.raises(ValueError, match="`loss` must be.*'hinge'"):
        JaxgeoClassifier(loss="hinge").fit(X, Y > 0)
    with pytest.raises(ValueError, match="`y` must have at least 2 classes; got one class"):
        JaxgeoClassifier().fit(X, np.ones(30))
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        JaxgeoClassifier().fit(X, Y)


@pytest.mark.parametrize("unit", [1e-300, 1e300])
def test_units_do_not_matter_however_large_or_small(unit):
    model = JaxgeoRegressor((4,), max_iter=3, random_state=0)
    expected = model.fit(X, Y).predict(X)
    np.testing.assert_allclose(model.fit(X * unit, Y * unit).predict(X * unit) / unit, expected, rtol=1e-9)


def test_fitting_leaves_the_settings_of_jax_alone():
    before = dict(jax.config.values)
    JaxgeoRegressor(**SMALL).fit(X, Y).predict(X)
    assert dict(jax.config.values) == before
