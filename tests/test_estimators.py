"""The scikit-learn estimators keep scikit-learn's contract, and learn."""

import pickle
import subprocess
import sys
import warnings

import jax
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris, load_linnerud, make_friedman1, make_moons
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from jaxgeo.estimators import JaxgeoClassifier, JaxgeoRegressor

# A few updates are enough for most of what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
SMALL = {"hidden_layer_sizes": 4, "n_starts": 1, "max_iter": 20, "random_state": 0}
X = np.linspace(-1, 1, 40)[:, None]
Y = np.sin(3 * X[:, 0]) + 0.1 * np.random.default_rng(0).normal(size=40)


@parametrize_with_checks([JaxgeoRegressor(**SMALL), JaxgeoClassifier(**SMALL)])
def test_contract_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([JaxgeoRegressor(random_state=0), JaxgeoClassifier(random_state=0)])
def test_contract_of_scikit_learn_as_they_come(estimator, check):
    check(estimator)


def test_as_it_comes_beside_the_linear_model_where_that_is_right_and_where_it_is_not():
    for x, y, margin in (
        (*load_diabetes(return_X_y=True), -0.03),
        (*make_friedman1(442, noise=1.0, random_state=5), 0.15),
    ):
        x, x_test, y, y_test = train_test_split(x, y, test_size=0.3, random_state=0)
        linear = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 4, 15))).fit(x, y).score(x_test, y_test)
        model = JaxgeoRegressor(random_state=0).fit(x, y)
        assert model.score(x_test, y_test) > linear + margin
        low, high = model.predict_interval(x_test)
        assert 0.82 < np.mean((low <= y_test) & (y_test <= high)) < 0.97
        assert model.stopped_ in ("converged", "max_iter")
        assert 5 < model.num_effective_ < len(x) / 2


def test_the_noise_and_the_deviation_of_a_prediction_are_those_of_the_data():
    x, y = make_friedman1(500, 5, noise=1.0, random_state=0)
    model = JaxgeoRegressor(random_state=0).fit(x, y)
    np.testing.assert_allclose(model.noise_, [1.0], rtol=0.12)
    mean, deviation = model.predict(x, return_std=True)
    np.testing.assert_array_equal(mean, model.predict(x))
    assert (deviation > 0.95 * model.noise_).all()
    # Where there are no data the deviation grows.
    assert model.predict(5 * x, return_std=True)[1].mean() > 2 * deviation.mean()


def test_the_logarithm_of_a_target_is_learnt_where_that_is_more_probable():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 2))
    y = np.exp(5 + x[:, 0] + 0.4 * rng.normal(size=300))
    model = JaxgeoRegressor(random_state=0).fit(x, y)
    assert model.takes_logs_
    np.testing.assert_allclose(model.noise_, [0.4], rtol=0.1)
    # The mean, deviation and quantiles of a lognormal distribution.
    mean, deviation = model.predict([[0.0, 0.0]], return_std=True)
    np.testing.assert_allclose(mean, np.exp(5 + 0.08), rtol=0.08)
    np.testing.assert_allclose(deviation, np.exp(5 + 0.08) * np.sqrt(np.exp(0.16) - 1), rtol=0.15)
    np.testing.assert_allclose(model.predict_interval([[0.0, 0.0]], 0.9), np.exp([[5 - 0.658], [5 + 0.658]]), rtol=0.12)
    assert not JaxgeoRegressor(random_state=0).fit(x, y - y.min()).takes_logs_


@pytest.mark.parametrize("kind", [JaxgeoRegressor, JaxgeoClassifier])
def test_five_fits_of_one_update_are_one_of_five(kind):
    targets = Y if kind is JaxgeoRegressor else Y > 0
    once = kind(max_iter=5, random_state=0).fit(X, targets)
    often = kind(max_iter=1, warm_start=True, random_state=0)
    for _ in range(5):
        often.fit(X, targets)
    assert often.loss_curve_ == once.loss_curve_
    assert len(often.loss_curve_) == 5
    np.testing.assert_array_equal(often.predict(X), once.predict(X))


def test_rows_in_parts_tell_what_they_tell_at_once():
    # For the linear path alone the misfit is quadratic, so nothing is lost; the first rows set the scales.
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3))
    y = x @ [1.0, -2.0, 0.5] + 0.3 * rng.normal(size=400)
    parts = JaxgeoRegressor(hidden_layer_sizes=(), random_state=0)
    for i in range(0, 400, 100):
        parts.partial_fit(x[i : i + 100], y[i : i + 100])
    whole = JaxgeoRegressor(hidden_layer_sizes=(), random_state=0).fit(x, y)
    np.testing.assert_allclose(parts.predict(x), whole.predict(x), atol=0.02)
    np.testing.assert_allclose(parts.noise_, whole.noise_, rtol=5e-3)
    # The mean of all rows is not that of the first ones, so the constant is one parameter more.
    assert whole.num_effective_ == pytest.approx(3, abs=0.1)
    assert 3 < parts.num_effective_ < 4


def test_labels_in_parts():
    x, y = make_moons(400, noise=0.2, random_state=0)
    model = JaxgeoClassifier(random_state=0)
    for i in range(0, 400, 100):
        model.partial_fit(x[i : i + 100], y[i : i + 100], classes=[0, 1])
    assert model.score(*make_moons(400, noise=0.2, random_state=1)) > 0.93
    with pytest.raises(ValueError, match="`classes` must be passed on the first call to partial_fit"):
        JaxgeoClassifier().partial_fit(x, y)


def test_weights_of_classes_count_rows():
    x, y = make_moons(100, noise=0.4, random_state=0)
    weighted = JaxgeoClassifier(class_weight={0: 3.0, 1: 1.0}, **SMALL).fit(x, y)
    counted = JaxgeoClassifier(**SMALL).fit(x, y, sample_weight=np.where(y == 0, 3.0, 1.0))
    np.testing.assert_array_equal(weighted.predict_proba(x), counted.predict_proba(x))
    plain = JaxgeoClassifier(**SMALL).fit(x, y)
    assert weighted.predict_proba(x)[:, 0].mean() > plain.predict_proba(x)[:, 0].mean() + 0.05


@pytest.mark.parametrize("rounds", [1, 60])
def test_time_may_end_a_fit(rounds):
    model = JaxgeoRegressor(max_time=1e-9, max_iter=rounds, random_state=0).fit(X, Y)
    assert model.stopped_ == "max_time"
    assert model.n_iter_ == 1
    assert np.isfinite(model.predict(X)).all()


def test_a_fit_that_ends_while_the_evidence_grows_warns_and_others_do_not():
    with pytest.warns(ConvergenceWarning, match="`max_iter` = 2 updates the evidence still grew"):
        JaxgeoRegressor(max_iter=2, random_state=0).fit(X, Y)
    with pytest.warns(ConvergenceWarning, match="a larger `max_iter`"):
        JaxgeoClassifier(max_iter=2, random_state=0).fit(X, Y > 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        JaxgeoRegressor(random_state=0).fit(X, Y)
        JaxgeoClassifier(random_state=0).fit(X, Y > 0)


def test_iris_about_as_well_as_the_linear_model():
    x, x_test, y, y_test = train_test_split(*load_iris(return_X_y=True), test_size=0.4, random_state=0)
    model = JaxgeoClassifier(random_state=0).fit(x, y)
    linear = make_pipeline(StandardScaler(), LogisticRegression(solver="newton-cg")).fit(x, y)
    assert model.score(x_test, y_test) >= linear.score(x_test, y_test) - 0.04
    probabilities = model.predict_proba(x_test)
    assert log_loss(y_test, probabilities) < log_loss(y_test, linear.predict_proba(x_test)) + 0.05
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_array_equal(probabilities.argmax(axis=1), model.predict(x_test))


def test_several_targets_and_more_columns_than_rows():
    x, y = load_linnerud(return_X_y=True)
    model = JaxgeoRegressor(**SMALL).fit(x, y)
    assert model.predict(x[:5]).shape == (5, 3)
    assert model.noise_.shape == (3,)
    assert JaxgeoRegressor(**SMALL).fit(x, y[:, :1]).predict(x).shape == (20, 1)
    wide = np.random.default_rng(0).normal(size=(30, 2000))
    wide[:, 7] = Y[:30] * 100
    # Nothing is lost by the projection: a rotation of the columns does not matter.
    model = JaxgeoRegressor(**SMALL).fit(wide, Y[:30])
    assert model.model_.axes.shape == (2000, 29)
    again = JaxgeoRegressor(**SMALL).fit(wide[:, ::-1], Y[:30])
    np.testing.assert_allclose(again.predict(wide[:, ::-1]), model.predict(wide), rtol=1e-6)


def test_the_same_seed_gives_the_same_networks_and_a_copy_predicts_the_same():
    first = JaxgeoRegressor(**SMALL).fit(X, Y)
    second = clone(first).fit(X, Y)
    other = clone(first).set_params(random_state=1).fit(X, Y)
    np.testing.assert_array_equal(first.predict(X), second.predict(X))
    assert not np.array_equal(first.predict(X), other.predict(X))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(first)).predict(X), first.predict(X))


def test_frames_in_a_search_and_in_cross_validation():
    frame = pd.DataFrame({"a": X[:, 0], "b": X[::-1, 0]})
    model = JaxgeoRegressor(**SMALL).fit(frame, pd.Series(Y))
    assert model.feature_names_in_.tolist() == ["a", "b"]
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame.rename(columns={"a": "c"}))
    order = np.random.default_rng(0).permutation(40)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), JaxgeoRegressor(**SMALL)),
        {"jaxgeoregressor__hidden_layer_sizes": [(), 4]},
        cv=2,
    )
    assert search.fit(X[order], Y[order]).best_score_ > 0.8
    assert search.best_params_ == {"jaxgeoregressor__hidden_layer_sizes": 4}


@pytest.mark.slow
def test_cross_validation_with_two_processes():
    alone = cross_val_score(JaxgeoRegressor(**SMALL), X, Y, cv=4)
    np.testing.assert_array_equal(cross_val_score(JaxgeoRegressor(**SMALL), X, Y, cv=4, n_jobs=2), alone)


@pytest.mark.slow
def test_many_rows_in_bounded_memory():
    script = """
import resource
import numpy as np
from jaxgeo.estimators import JaxgeoRegressor
rng = np.random.default_rng(0)
x = rng.uniform(size=(100_000, 20))
y = np.sin(6 * x[:, 0]) + x[:, 1] * x[:, 2] + 0.1 * rng.normal(size=100_000)
model = JaxgeoRegressor(random_state=0).fit(x[:90_000], y[:90_000])
assert model.score(x[90_000:], y[90_000:]) > 0.97
assert abs(model.noise_[0] - 0.1) < 0.01
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 * 2**20
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_layer_sizes": (4, 0)}, "`hidden_layer_sizes`.*(4, 0)"),
        ({"hidden_layer_sizes": -4}, "`hidden_layer_sizes`.*-4"),
        ({"n_starts": 0}, "`n_starts`.*0"),
        ({"max_iter": 1.5}, "`max_iter`.*1.5"),
        ({"tol": -1.0}, "`tol`.*-1.0"),
        ({"tol": "small"}, "`tol`.*'small'"),
        ({"max_time": 0.0}, "`max_time`.*0.0"),
        ({"warm_start": "yes"}, "`warm_start`.*'yes'"),
        ({"random_state": "x"}, "seed"),
    ],
)
def test_parameters_that_are_refused(options, message):
    for estimator, targets in ((JaxgeoRegressor(), Y), (JaxgeoClassifier(), Y > 0)):
        with pytest.raises(ValueError, match=message):
            clone(estimator).set_params(**options).fit(X, targets)


def test_data_that_are_refused():
    with pytest.raises(ValueError, match="`y` must have at least 2 classes; got one class"):
        JaxgeoClassifier().fit(X, np.ones(40))
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        JaxgeoClassifier().fit(X, Y)
    with pytest.raises(ValueError, match=r"multilabel-indicator of shape \(40, 2\).*MultiOutputClassifier"):
        JaxgeoClassifier().fit(X, np.stack([Y > 0, Y > 0.5], axis=1).astype(int))
    for weights, message in (
        (np.ones(3), r"`sample_weight` must have shape \(40,\)"),
        (np.where(np.arange(40) == 7, -1.0, 1.0), "`sample_weight`.* got -1 for row 7"),
        (np.where(np.arange(40) == 7, np.nan, 1.0), "`sample_weight`.* got nan for row 7"),
        (np.zeros(40), "`sample_weight` is zero"),
    ):
        with pytest.raises(ValueError, match=message):
            JaxgeoRegressor().fit(X, Y, sample_weight=weights)
    for coverage in (0.0, 1.0, 1.5):
        with pytest.raises(ValueError, match="`coverage`"):
            JaxgeoRegressor(**SMALL).fit(X, Y).predict_interval(X, coverage)


@pytest.mark.parametrize("unit", [1e-300, 1e300])
def test_units_do_not_matter_however_large_or_small(unit):
    model = JaxgeoRegressor(4, max_iter=3, random_state=0)
    expected = model.fit(X, Y).predict(X)
    np.testing.assert_allclose(model.fit(X * unit, Y * unit).predict(X * unit) / unit, expected, rtol=1e-9)


def test_fitting_leaves_the_settings_of_jax_alone():
    before = dict(jax.config.values)
    JaxgeoRegressor(**SMALL).fit(X, Y).predict(X, return_std=True)
    assert dict(jax.config.values) == before
