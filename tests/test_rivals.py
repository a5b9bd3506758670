"""The benchmark driver counts, times and thins the work of the optimizers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxgeo as jg
from benchmarks.rivals import MOST_POINTS, RIVALS, crossings, gradients, ours, run, thinned


@pytest.fixture(scope="module")
def line() -> tuple[jg.Problem, jax.Array]:
    """Two outputs linear in three parameters."""
    inputs = jnp.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    problem = jg.Problem(lambda params, x: jnp.sum(params * x)[None], inputs, jg.L2(jnp.array([[1.0], [-2.0]])))
    return problem, jnp.zeros(3)


def test_a_full_step_on_a_linear_problem_is_the_only_one(line):
    problem, params = line
    result = run(ours(jg.optim.linear_interpolation(num_steps=1), problem, params), problem.cost, 1e-20, 60.0)
    assert result["steps"] == 1
    assert result["final"] <= 1e-20
    assert [point[0] for point in result["curve"]] == [0, 1]


def test_gradient_steps_are_those_of_the_closed_form(line):
    """20 steps of gradient descent a call, against powers of 1 − η DᵀD/N on the residual."""
    problem, params = line
    result = run(gradients(optax.sgd(0.1), problem, params, steps=20), problem.cost, 0.0, 60.0, most=60)
    matrix = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    residual = np.linalg.matrix_power(np.eye(2) - 0.1 * matrix @ matrix.T / 2, 60) @ np.array([1.0, -2.0])
    assert result["steps"] == 60
    np.testing.assert_allclose(result["final"], np.sum(residual**2) / 4, rtol=1e-10)


@pytest.mark.parametrize("name", ["optimistix LevenbergMarquardt", "optimistix BFGS"])
def test_rivals_of_the_core_dependencies_lower_the_cost(line, name):
    problem, params = line
    result = run(RIVALS[name](problem, params), problem.cost, 1e-10, 60.0, most=200)
    assert result["final"] <= 1e-10


def test_crossings_and_thinned_curves():
    curve = [(step, 0.5 * step, 10.0**-step) for step in range(200)]
    assert crossings(curve, [1e-2, 1e-300]) == {"1e-02": {"steps": 2, "seconds": 1.0}, "1e-300": None}
    assert len(thinned(curve)) <= MOST_POINTS
    assert thinned(curve)[-1] == curve[-1]
    assert thinned(curve[:1]) == curve[:1]
