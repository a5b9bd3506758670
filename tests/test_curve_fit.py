"""`curve_fit` compared with SciPy's, on regression problems from the literature and for each of its arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import jaxgeo as jg
from cases.curve_fits import CURVE_FITS
from jaxgeo.optim import Outcome

# From the others' starts both walk off to infinity; from here all end at the minimum.
STARTS = {case.name: case.near if case.name in ("boxbod", "mgh09") else case.start for case in CURVE_FITS}


@pytest.mark.slow
@pytest.mark.parametrize("case", CURVE_FITS, ids=[case.name for case in CURVE_FITS])
def test_standard_errors_are_those_of_scipy(case):
    """With the exact Jacobian, as differences in SciPy's leave it 1e-5."""

    def curve(x, *b):
        return case.model(jnp, b, x)

    derivative = jax.jit(jax.jacfwd(lambda b: curve(case.x, *b)))
    popt, pcov = scipy.optimize.curve_fit(
        lambda x, *b: case.model(np, b, x),
        case.x,
        case.y,
        case.near,
        jac=lambda x, *b: np.asarray(derivative(jnp.asarray(b))),
        ftol=1e-15,
        xtol=1e-15,
        gtol=1e-15,
        maxfev=20000,
    )
    found = jg.curve_fit(curve, case.x, case.y, np.array(STARTS[case.name]))
    assert found.outcome is Outcome.CONVERGED
    assert found.unfixed == []
    # This one converges linearly, and ends where its cost is final.
    rtol = 3e-6 if case.name == "mgh09" else 1e-6
    np.testing.assert_allclose(np.abs(found.stderr), np.sqrt(np.diag(pcov)), rtol=rtol)
    np.testing.assert_allclose(np.abs(np.asarray(found.popt)), np.abs(popt), rtol=1e-5)


X = np.linspace(0.0, 2.0, 12)
NOISE = 0.1 * np.cos(17 * X)
Y = 2 * np.exp(-1.5 * X) + NOISE


def decay(x, size, rate):
    return size * jnp.exp(-rate * x)


def scipys(**options):
    return scipy.optimize.curve_fit(
        lambda x, size, rate: size * np.exp(-rate * x), X, Y, [1.0, 1.0], ftol=1e-14, xtol=1e-14, gtol=1e-14, **options
    )


SIGMAS = {"none": None, "each": 0.05 + 0.02 * X, "covariance": 0.01 * np.exp(-np.abs(X[:, None] - X[None, :]))}


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize(
    "sigma", ["each", *(pytest.param(name, marks=pytest.mark.slow) for name in ("none", "covariance"))]
)
def test_sigma_means_what_it_means_in_scipy(sigma, absolute):
    popt, pcov = scipys(sigma=SIGMAS[sigma], absolute_sigma=absolute)
    found = jg.curve_fit(decay, X, Y, [1.0, 1.0], sigma=SIGMAS[sigma], absolute_sigma=absolute)
    ours, covariance = found
    np.testing.assert_allclose(ours, popt, rtol=1e-7)
    # SciPy's Jacobian is by differences.
    np.testing.assert_allclose(covariance, pcov, rtol=1e-6)
    assert found.names == ["size", "rate"]


@pytest.mark.slow
def test_any_pytree_with_frozen_leaves():
    def curve(x, p):
        return p["size"] * jnp.exp(-p["rate"] * x) + p["offset"]

    start = {"size": 1.0, "rate": 1, "offset": 0.0}
    found = jg.curve_fit(curve, X, Y, start, trainable={"size": True, "rate": True, "offset": False})
    popt, pcov = scipys()
    np.testing.assert_allclose([found.popt["size"], found.popt["rate"]], popt, rtol=1e-7)
    assert found.names == ["rate", "size"]
    np.testing.assert_allclose(found.stderr["rate"] ** 2, pcov[1, 1], rtol=1e-6)
    assert found.stderr["offset"] is None
    assert found.popt["offset"] == 0
    assert "rate  " in str(found)
    assert str(found).startswith("converged after")


@pytest.mark.slow
def test_several_predictors_as_scipy_takes_them():
    """x of shape (k, M), in which f sees the rows."""
    points = np.stack([X, np.sin(3 * X)])

    def plane(x, a, b):
        return a * x[0] + b * x[1]

    popt, pcov = scipy.optimize.curve_fit(plane, points, Y, [1.0, 1.0])
    found = jg.curve_fit(plane, points, Y, [1.0, 1.0])
    np.testing.assert_allclose(found.popt, popt, rtol=1e-6)
    np.testing.assert_allclose(found.pcov, pcov, rtol=1e-5)
    # The standard deviation of the curve, of a model that is linear in its parameters.
    new = np.array([[0.5, 1.0, -1.0], [0.0, 2.0, 1.0]])
    expected = np.sqrt(np.sum(new.T @ found.pcov * new.T, axis=1))
    np.testing.assert_allclose(found.predict(new).standard_deviation, expected, rtol=1e-10)


@pytest.mark.slow
def test_what_the_data_do_not_fix():
    def curve(x, a, b, rate):
        return a * b * jnp.exp(-rate * x)

    found = jg.curve_fit(curve, X, Y, [1.0, 1.5, 1.0])
    assert found.unfixed == ["a", "b"]
    assert np.isinf(found.stderr[:2]).all()
    _, pcov = scipys()
    # One direction less is fixed, so that as many degrees of freedom are left as without it.
    np.testing.assert_allclose(found.stderr[2] ** 2, pcov[1, 1], rtol=1e-6)


@pytest.mark.slow
def test_no_more_data_than_parameters():
    with pytest.warns(UserWarning, match="2 data cannot determine the covariance of 2 parameters"):
        found = jg.curve_fit(decay, X[:2], Y[:2], [1.0, 1.0])
    assert np.isinf(found.pcov).all()
    np.testing.assert_allclose(decay(X[:2], *found.popt), Y[:2], rtol=1e-12)
    with pytest.raises(ValueError, match="uncertainty"):
        found.predict(X)


@pytest.mark.slow
def test_data_that_are_met_exactly():
    found = jg.curve_fit(decay, X, 2 * np.exp(-1.5 * X), [1.0, 1.0])
    assert found.outcome is Outcome.CONVERGED
    np.testing.assert_allclose(found.popt, [2.0, 1.5], rtol=1e-13)
    assert (found.stderr < 1e-14).all()


@pytest.mark.slow
def test_steps_that_run_out():
    assert jg.curve_fit(decay, X, Y, [1.0, 1.0], max_steps=1).outcome is Outcome.MAX_STEPS


REFUSED = {
    "bounds": (
        lambda: jg.curve_fit(decay, X, Y, [1.0, 1.0], bounds=3),
        r"`bounds` must be a pair \(low, high\); got 3",
    ),
    "a start outside": (
        lambda: jg.curve_fit(decay, X, Y, [1.0, 1.0], bounds=([0, 2], np.inf)),
        r"`p0` must be within `bounds`; its entry \[1\] is 1.0, outside \[2.0, inf\]",
    ),
    "shape of bounds": (lambda: jg.curve_fit(decay, X, Y, [1.0, 1.0], bounds=([0, 1, 2], 5)), "`low` of the bounds"),
    "points": (lambda: jg.curve_fit(decay, X[:3], Y, [1.0, 1.0]), r"`x` and `y`.*\(3,\).*\(12,\)"),
    "sigma": (lambda: jg.curve_fit(decay, X, Y, [1.0, 1.0], sigma=X), "`sigma` must be positive"),
    "shape of sigma": (lambda: jg.curve_fit(decay, X, Y, [1.0, 1.0], sigma=X[:3]), "`sigma` must have the shape"),
    "no covariance": (
        lambda: jg.curve_fit(decay, X, Y, [1.0, 1.0], sigma=-np.eye(12)),
        "is the covariance of `y`, so.*positive definite",
    ),
    "nothing to fit": (lambda: jg.curve_fit(decay, X, Y, []), "`p0` must hold"),
    "NaN": (lambda: jg.curve_fit(decay, X, np.full(12, np.nan), [1.0, 1.0]), "`y` has 12 NaN"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_infinite_bounds_are_none():
    assert jg.curve_fit(decay, X, Y, [1.0, 1.0], bounds=(-np.inf, np.inf)).outcome is Outcome.CONVERGED
