"""Costs for data with outliers, against SciPy's, finite differences and the truth."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import least_squares

import jaxgeo as jg

LOSSES = {"soft_l1": jg.SoftL1, "cauchy": jg.Cauchy, "arctan": jg.Arctan}
COSTS = {"huber": functools.partial(jg.Huber, threshold=0.5)} | {
    name: functools.partial(cost, scale=0.5) for name, cost in LOSSES.items()
}
X = np.linspace(-1.0, 1.0, 100)
TRUTH = np.array([0.5, -1.0, 2.0])
NOISE = 0.05 * np.sin(37 * np.arange(100) ** 1.5)
Y = TRUTH[0] + TRUTH[1] * X + TRUTH[2] * X**2 + NOISE
# Ten gross outliers, all to one side.
Y[5::10] += 20


def parabola(b, x):
    return b[0] + b[1] * x + b[2] * x**2


@pytest.mark.parametrize(
    "width", [pytest.param(width, marks=[pytest.mark.slow] * (width not in (1, 3))) for width in range(1, 6)]
)
@pytest.mark.parametrize("name", COSTS)
def test_gradients_against_finite_differences(name, width):
    random = np.random.default_rng(width)
    targets, outputs = random.normal(size=(2, 7, width))
    cost, step = COSTS[name](jnp.asarray(targets)), 1e-6
    found = np.asarray(cost.gradient(jnp.asarray(outputs)))
    moved = jax.vmap(cost)(jnp.asarray(outputs + step * np.eye(7 * width).reshape(-1, 7, width)))
    back = jax.vmap(cost)(jnp.asarray(outputs - step * np.eye(7 * width).reshape(-1, 7, width)))
    np.testing.assert_allclose(found.reshape(-1), (moved - back) / (2 * step), atol=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_the_cost_is_that_of_scipy(name):
    outputs = np.linspace(-3.0, 3.0, 100)
    theirs = least_squares(lambda b: outputs - Y + 0 * b, [0.0], loss=name, f_scale=0.3).cost
    ours = 100 * LOSSES[name](jnp.asarray(Y), 0.3)(jnp.asarray(outputs)[:, None])
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("size", [1e-13, 0.7])
def test_decreases_keep_their_digits(name, size):
    random = np.random.default_rng(1)
    targets, outputs = jnp.asarray(random.normal(size=(2, 9, 2)))
    cost, moved = LOSSES[name](targets, 0.4), outputs + size * jnp.cos(jnp.arange(18.0).reshape(9, 2))
    small = size < 1e-9
    expected = jnp.sum(cost.gradient(outputs) * (outputs - moved)) if small else cost(outputs) - cost(moved)
    np.testing.assert_allclose(cost.decrease(outputs, moved), expected, rtol=1e-10)


@pytest.mark.parametrize("name", LOSSES)
def test_the_curvature_is_positive_and_that_of_the_cost_near_a_minimum(name):
    outputs = jnp.linspace(-5.0, 5.0, 41)[:, None]
    cost = LOSSES[name](jnp.zeros(41), 1.0)
    weights = cost.curvature(outputs).scale[:, 0] ** 2
    exact = 41 * jnp.diagonal(jax.jit(jax.hessian(lambda x: cost(x[:, None])))(outputs[:, 0]))
    assert (weights > 0).all()
    assert (weights >= exact - 1e-12).all()
    near = np.abs(outputs[:, 0]) < 0.5
    np.testing.assert_allclose(weights[near], exact[near], rtol=1e-12)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (k > 0)) for k, name in enumerate(COSTS)]
)
def test_a_parabola_with_ten_gross_outliers(name):
    cost = functools.partial(COSTS[name].func, **{next(iter(COSTS[name].keywords)): 0.1})
    found = jg.fit(jnp.zeros(3), X, Y, apply=parabola, cost=cost, method="levenberg-marquardt", tol=0)
    assert found.outcome is jg.optim.Outcome.CONVERGED
    np.testing.assert_allclose(found.model, TRUTH, atol=0.05)
    start = np.asarray(found.model)
    theirs = least_squares(
        lambda b: parabola(b, X) - Y, start, loss=name, f_scale=0.1, xtol=1e-15, ftol=1e-15, gtol=1e-15
    )
    np.testing.assert_allclose(found.cost * 100, theirs.cost, rtol=1e-8)
    squares = np.polynomial.Polynomial.fit(X, Y, 2).convert().coef
    assert np.abs(squares - TRUTH).max() > 1
