"""The closed forms against NumPy, against each other and against the equations they solve."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgeo as jg

N = 7


def test_cost_at_solves_its_equation():
    s = jnp.linspace(0.0, 20.0, 5)
    np.testing.assert_allclose(jg.theory.cost_at(s, 3.0, N), 3 * np.exp(-2 * np.asarray(s) / N), rtol=1e-15)
    slope = jax.vmap(jax.grad(lambda s: jg.theory.cost_at(s, 3.0, N)))(s)
    np.testing.assert_allclose(slope, -2 / N * jg.theory.cost_at(s, 3.0, N), rtol=1e-14)


def test_outputs_at_solves_its_equation_and_has_that_cost():
    rng = np.random.default_rng(0)
    start, targets = jnp.asarray(rng.normal(size=(N, 3))), jnp.asarray(rng.normal(size=(N, 3)))
    cost = jg.L2(targets)

    def at(s):
        return jg.theory.outputs_at(s, start, targets, N)

    s = jnp.array(4.2)
    _, slope = jax.jvp(at, (s,), (jnp.ones(()),))
    np.testing.assert_allclose(slope, -cost.gradient(at(s)), atol=1e-15)
    np.testing.assert_array_equal(at(0.0), targets + (start - targets))
    np.testing.assert_allclose(cost(at(s)), jg.theory.cost_at(s, cost(start), N), rtol=1e-14)


@pytest.mark.parametrize("tol", [0.5, 1e-3, 1e-20])
def test_stopping_time_is_when_the_cost_is_there(tol):
    s = jg.theory.stopping_time(2.0, tol, N)
    np.testing.assert_allclose(jg.theory.cost_at(s, 2.0, N), tol, rtol=1e-13)


def test_stopping_time_is_never_negative():
    assert float(jg.theory.stopping_time(1.0, 1.0, N)) == float(jg.theory.stopping_time(1.0, 2.0, N)) == 0.0


def test_critical_cost_is_the_residual_of_linear_least_squares():
    rng = np.random.default_rng(1)
    matrix, targets = rng.normal(size=(N, 2)), rng.normal(size=N)
    solution, residual, *_ = np.linalg.lstsq(matrix, targets)
    gradient = (matrix @ solution - targets)[:, None] / N
    np.testing.assert_allclose(jg.theory.critical_cost(gradient, N), residual[0] / (2 * N), rtol=1e-13)


def test_float32_stays_float32():
    one = jnp.ones((), jnp.float32)
    assert jg.theory.cost_at(one, one, N).dtype == jnp.float32
    assert jg.theory.stopping_time(one, one / 2, N).dtype == jnp.float32
    assert (
        jg.theory.outputs_at(one, jnp.ones((1, 1), jnp.float32), jnp.zeros((1, 1), jnp.float32), N).dtype == "float32"
    )
