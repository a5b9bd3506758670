"""The lift is the pseudo-inverse of D, for K above, below and equal to QN. Solvers have their own tests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxgeo as jg
from cases.problems import BORDERLINE, DEFICIENT, KINDS, OVER, UNDER, cases, random_like


def flat_lift(case, velocity, solver=None):
    lifted = jg.lift(case.problem, case.params, velocity, solver)
    return lifted, np.asarray(ravel_pytree(case.problem.partition(lifted)[0])[0])


FAST = ("linear over", "mlp under", "linear borderline")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST))
        for name in [*OVER, *UNDER, *BORDERLINE, *KINDS, "two blocks"]
    ],
)
def test_is_the_pseudo_inverse(name):
    """(1.23) and (5.2)."""
    case = cases()[name]
    matrix = case.dense()
    velocity = random_like(case.problem.outputs(case.params))
    expected = np.linalg.pinv(matrix) @ np.ravel(velocity)
    _, found = flat_lift(case, velocity)
    tolerance = 1e-14 * np.linalg.cond(matrix) ** 2 + 1e-12
    assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)


@pytest.mark.parametrize("name", DEFICIENT)
def test_least_squares_at_any_rank(name):
    """(4.5), with a solver for it."""
    case = cases()[name]
    matrix = case.dense()
    velocity = random_like(case.problem.outputs(case.params))
    expected = np.linalg.pinv(matrix, rcond=1e-10) @ np.ravel(velocity)
    _, found = flat_lift(case, velocity, jg.linalg.SVD())
    np.testing.assert_allclose(found, expected, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("name", [OVER[0], pytest.param(OVER[1], marks=pytest.mark.slow)])
def test_right_inverse_and_shortest(name):
    """D D⁺v = v, and nothing of D⁺v lies in ker D."""
    case = cases()[name]
    matrix = case.dense()
    velocity = random_like(case.problem.outputs(case.params), 3)
    _, found = flat_lift(case, velocity)
    np.testing.assert_allclose(matrix @ found, np.ravel(velocity), atol=1e-11)
    kernel = np.linalg.svd(matrix)[2][case.rank :]
    assert np.abs(kernel @ found).max() <= 1e-12 * np.linalg.norm(found)


@pytest.mark.slow
def test_linear_and_zero_at_zero():
    case = cases()["dict"]
    velocity = random_like(case.problem.outputs(case.params))
    twice = flat_lift(case, 2 * velocity)[1]
    np.testing.assert_allclose(twice, 2 * flat_lift(case, velocity)[1], rtol=1e-9)
    assert np.all(flat_lift(case, 0 * velocity)[1] == 0)


@pytest.mark.slow
def test_vmap_over_velocities():
    case = cases()["dict"]
    velocities = jnp.stack([random_like(case.problem.outputs(case.params), seed) for seed in (1, 2)])
    together = jax.vmap(lambda velocity: jg.lift(case.problem, case.params, velocity))(velocities)
    alone = jg.lift(case.problem, case.params, velocities[1])
    np.testing.assert_allclose(together["W"][1], alone["W"], atol=1e-12)


def test_a_second_lift_traces_nothing():
    traced = []

    def apply(params, x):
        traced.append(x)
        return jnp.tanh(params @ x)

    problem = jg.Problem(apply, jnp.eye(3), jg.L2(jnp.zeros((3, 2))))
    velocity = jnp.ones((3, 2))
    jg.lift(problem, jnp.ones((2, 3)), velocity, jg.linalg.GramCholesky())
    count = len(traced)
    assert count > 0
    jg.lift(problem, jnp.zeros((2, 3)), 2 * velocity, jg.linalg.GramCholesky())
    assert len(traced) == count
