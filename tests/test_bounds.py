"""Bounded least squares, compared with SciPy's `trf`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import least_squares

import jaxgeo as jg
from cases.classical_fits import MADE
from cases.curve_fits import made
from jaxgeo.optim import Bounds, Outcome, TrustRegion

# Most have a bound between the start and the minimum.
NAMES = [*MADE][:24]


def box(near, true):
    """Every third parameter may go half of the way to where it would go."""
    near, true = np.array(near), np.array(true)
    wide = np.abs(true) + np.abs(near)
    low, high = np.minimum(near, true) - wide, np.maximum(near, true) + wide
    middle, third = (near + true) / 2, np.arange(len(near)) % 3 == 0
    return np.where(third & (true < near), middle, low), np.where(third & (true > near), middle, high)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_bounded_fits_are_those_of_trf(name):
    model, x, true, _, near, noise = MADE[name]
    case = made(name, model, x, true, near, noise)
    low, high = box(near, true)
    found = jg.curve_fit(lambda x, *b: model(jnp, jnp.stack(b), x), x, case.y, list(near), bounds=(low, high))
    residual = jax.jit(lambda b: model(jnp, b, x) - case.y)
    jacobian = jax.jit(jax.jacfwd(residual))
    theirs = least_squares(
        lambda b: np.asarray(residual(b)),
        near,
        lambda b: np.asarray(jacobian(b)),
        bounds=(low, high),
        x_scale="jac",
        xtol=1e-15,
        ftol=1e-15,
        gtol=1e-15,
        max_nfev=2000,
    )
    popt = np.asarray(found.popt)
    assert (popt >= low).all()
    assert (popt <= high).all()
    assert found.outcome is Outcome.CONVERGED
    assert found.cost <= theirs.cost * (1 + 1e-8)
    active = np.isclose(theirs.x, low, rtol=1e-6, atol=0) | np.isclose(theirs.x, high, rtol=1e-6, atol=0)
    assert found.active == [found.names[index] for index in np.flatnonzero(active)]


@pytest.mark.slow
def test_a_fixed_parameter_stays_and_the_other_is_solved_for():
    x = np.array([-1.5868045661975172, -1.1179178107357806, 1.7423781348469345])
    y = np.array([3.45118015548185, 3.6691070888371753, -0.6114820755977717])
    found = jg.curve_fit(lambda x, a, b: a * x + b, x, y, [0.1, 50.0], bounds=([0.1, 2], [0.1, 100]))
    np.testing.assert_allclose(found.popt, [0.1, np.mean(y - 0.1 * x)], rtol=1e-12)
    assert found.popt[0] == 0.1
    assert found.active == ["a"]
    low = jg.curve_fit(lambda x, a, b: a * x + b, x, y - 5, [0.1, 50.0], bounds=([0.1, 2], [0.1, 100]))
    assert low.popt[1] == 2
    assert low.active == ["a", "b"]


@pytest.mark.slow
def test_rosenbrock_below_a_bound():
    """At the bound of the first parameter the second is its square; in the corner the cost would be 351."""
    rows = jg.Problem(
        lambda b, _: jnp.stack([10 * (b[1] - b[0] ** 2), 1 - b[0]]), jnp.zeros(1), jg.L2(jnp.zeros((1, 2)))
    )
    found = jg.fit(jnp.zeros(2), rows, bounds=(-jnp.inf, 0.75), tol=0, max_steps=100)
    assert found.outcome is Outcome.CONVERGED
    np.testing.assert_allclose(found.model, [0.75, 0.5625], rtol=1e-10)
    assert found.model[0] <= 0.75


@pytest.mark.slow
def test_a_minimum_inside_is_found_as_without_bounds():
    x = np.linspace(0.0, 2.0, 12)
    y = 2 * np.exp(-1.5 * x) + 0.1 * np.cos(17 * x)
    start = {"size": 1.0, "rate": np.array([1.0])}

    def curve(x, p):
        return p["size"] * jnp.exp(-p["rate"][0] * x)

    free = jg.curve_fit(curve, x, y, start)
    bounded = jg.curve_fit(curve, x, y, start, bounds=(0.0, {"size": np.inf, "rate": np.array([9.0])}))
    assert bounded.active == []
    assert bounded.num_steps == free.num_steps
    np.testing.assert_allclose(bounded.popt["rate"], free.popt["rate"], rtol=1e-10)


def test_fit_takes_bounds_like_the_model():
    x = np.linspace(0.0, 2.0, 12)
    y = 2 * np.exp(-1.5 * x) + 0.1 * np.cos(17 * x)
    start = {"size": jnp.array(1.0), "rate": jnp.array([1.0])}

    def curve(p, x):
        return p["size"] * jnp.exp(-p["rate"][0] * x)

    high = {"size": jnp.inf, "rate": jnp.array([1.25])}
    found = jg.fit(start, x, y, apply=curve, bounds=(0.0, high), tol=0)
    theirs = least_squares(lambda b: b[0] * np.exp(-b[1] * x) - y, [1, 1], bounds=([0, 0], [np.inf, 1.25]), xtol=1e-15)
    np.testing.assert_allclose([found.model["size"], found.model["rate"][0]], theirs.x, rtol=1e-7)
    assert found.model["rate"][0] == 1.25
    for bounds, words in (
        ((2.0, 3.0), r"`model` must be within `bounds`; its entry rate\[0\] is 1.0"),
        (3.0, "must be a pair"),
        (({"rate": 0.0}, 1.0), "`low` of the bounds"),
    ):
        with pytest.raises(ValueError, match=words):
            jg.fit(start, x, y, apply=curve, bounds=bounds)
    with pytest.raises(ValueError, match='`bounds` need method="levenberg-marquardt"'):
        jg.fit(start, x, y, apply=curve, method="adam", bounds=(0.0, 1.0))


def test_bounds_for_more_parameters_than_outputs_are_refused():
    problem = jg.Problem(lambda b, x: jnp.sum(b) * x, jnp.ones(2), jg.L2(jnp.ones(2)))
    tx = jg.optim.adapted_levenberg_marquardt(trust_region=TrustRegion(bounds=Bounds(0.0, 1.0)))
    with pytest.raises(ValueError, match="no more parameters than outputs.*3 parameters and 2 outputs"):
        tx.update(jnp.zeros(3), tx.init(jnp.zeros(3)), jnp.zeros(3), problem=problem)
    with pytest.raises(ValueError, match="`low` contains NaN"):
        Bounds(jnp.nan, 1.0)
