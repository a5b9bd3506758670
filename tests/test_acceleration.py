"""Anderson acceleration of the corrections of a step, and the damped steps that use it."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

import jaxgeo as jg
from cases.matrices import linear_problem, with_spectrum
from jaxgeo.linalg.linearisation import Linearisation, Trial
from jaxgeo.linalg.solvers import DenseCholesky
from jaxgeo.optim.acceleration import PATIENCE, Accelerated
from jaxgeo.optim.attempt import Attempt, Tried


class Lift(eqx.Module):
    """Lifts rows by a matrix."""

    matrix: Array
    unravel: Callable[[Array], PyTree] = lambda step: step

    def __call__(self, rows: Array) -> PyTree:
        return self.unravel(self.matrix @ rows.reshape(-1))


def test_corrections_that_diverge_alone_reach_the_end_together():
    """For straight outputs, after one correction more than there are parameters."""
    keys = jax.random.split(jax.random.key(0), 3)
    matrix = jnp.diag(jnp.array([1.0, 2.0, 3.0, 5.0])) + 0.3 * jax.random.normal(keys[0], (4, 4))
    wrong = matrix + 0.8 * jax.random.normal(keys[1], (4, 4))
    aim, lift = jax.random.normal(keys[2], (4,)), jnp.linalg.inv(wrong)
    assert max(abs(np.linalg.eigvals(np.eye(4) - lift @ matrix))) > 1.5

    def measure(step):
        missing = aim - matrix @ step
        return step, missing[:, None], jnp.sum(missing**2)

    way = Accelerated(Lift(lift), lambda step: (wrong @ step)[:, None])
    found = way.run(jnp.zeros(4), measure, 5, 5, jnp.zeros(()))
    assert found.corrections == 5
    np.testing.assert_allclose(found.step, jnp.linalg.solve(matrix, aim), rtol=1e-8)


def test_it_ends_unless_the_size_of_corrections_halves():
    way = Accelerated(lambda missing: jnp.ones(1), lambda step: step[:, None])

    def measure(step):
        return step, step[:, None], -jnp.sum(step)

    found = way.run(jnp.zeros(1), measure, 20, 20, jnp.zeros(()))
    assert (found.corrections, found.step[0]) == (PATIENCE, PATIENCE)


def test_a_step_along_a_curve_that_plain_corrections_cannot_follow():
    """x = θ + 1.5 θ⁸ from 0 to 1. Corrections with the slope at 0 diverge: at the end it is 3.2."""
    problem, params = jg.Problem(lambda a, t: a + 1.5 * a**8 * t, jnp.ones(1), jg.L2(jnp.ones((1, 1)))), jnp.zeros(1)
    linear = Linearisation(problem, params, jg.metrics.CostHessian())

    def trial(**options):
        return Attempt(linear, jnp.ones(1), Lift(jnp.ones((1, 1))), 12, **options)(jnp.ones(()))

    roots = np.roots([1.5, *6 * [0], 1, -1])
    end = float(roots[(abs(roots.imag) < 1e-9) & (roots.real > 0)].real[0])
    np.testing.assert_allclose(trial(accelerated=True).step, end, rtol=1e-5)
    assert trial().cost > 0.1


def bent(scale):
    """An attempt along (1, …, 1) from 0 for x = Aθ + c (Bθ)³, with 12 rows and 6 parameters."""
    inputs = jax.random.normal(jax.random.key(0), (12, 2, 6)) / 2
    scale = jnp.asarray(scale)

    def apply(params, sample):
        return sample[0] @ params["a"] + params["c"] * (sample[1] @ params["a"]) ** 3

    problem = jg.Problem(apply, inputs, jg.L2(jnp.ones((12, 1))), trainable={"a": True, "c": False})
    linear = Linearisation(problem, {"a": jnp.zeros(6), "c": scale}, jg.metrics.CostHessian())
    step = linear.jacobian.unravel(jnp.ones(6))
    return Attempt(linear, step, Lift(jnp.linalg.pinv(inputs[:, 0]), linear.jacobian.unravel), 6, accelerated=True)


@pytest.mark.parametrize("count", [1, 4])
def test_its_derivative_is_that_of_the_corrections_made(count):
    def end(scale):
        return jnp.sum(ravel_pytree(bent(scale).repeat(jnp.ones(()), jnp.array(count)).step)[0][:3])

    found = jax.jit(jax.grad(end))(0.5)
    np.testing.assert_allclose(found, (end(0.5 + 1e-5) - end(0.5 - 1e-5)) / 2e-5, rtol=1e-5)
    np.testing.assert_allclose(jax.jvp(end, (0.5,), (1.0,))[1], found, rtol=1e-9)


def test_its_derivative_through_a_whole_attempt():
    def end(scale):
        return jnp.sum(ravel_pytree(bent(scale)(jnp.ones(())).step)[0][:3])

    assert bent(0.5).with_corrections(jnp.ones(()))[1] >= 3
    expected = (end(0.5 + 1e-5) - end(0.5 - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.jit(jax.grad(end))(0.5), expected, rtol=1e-5)


def test_a_tall_matrix_corrects_by_its_damped_lift():
    matrix = with_spectrum(8, 3, [1.0, 0.5, 0.1])
    problem, params = linear_problem(matrix)
    linear = Linearisation(problem, params, jg.metrics.CostHessian())
    factorised = DenseCholesky().factorise(linear.jacobian, jnp.array(0.1))
    rows = jnp.arange(8.0)[:, None]
    damping = 0.1 * jnp.sum(matrix**2) / 8
    expected = jnp.linalg.solve(matrix.T @ matrix + damping * jnp.eye(3), matrix.T @ rows[:, 0])
    found = jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(factorised.correct(rows))])
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    # Without acceleration, rows that no step can reach would only stop the corrections.
    assert Attempt(linear, linear.trainable, factorised.correct, 8).correct is None
    assert Attempt(linear, linear.trainable, factorised.correct, 8, accelerated=True).correct is not None


def test_a_matrix_that_is_held_makes_the_same_products():
    # As large as this, D is not held from the beginning.
    equation = jg.equations.poisson_2d((40,))
    params, problem = equation.init(jax.random.key(0)), equation.problem(equation.points(jax.random.key(1)))
    linear = Linearisation(problem, params, jg.metrics.CostHessian())
    held, step = linear.holding(), jax.tree.map(jnp.sin, linear.trainable)
    assert linear.jacobian.held is None
    assert held.jacobian.held is not None
    assert held.jacobian.held.shape == (1020, 161)
    assert held.holding() is held
    np.testing.assert_allclose(held.jacobian.mv(step), linear.jacobian.mv(step), atol=1e-12)
    pairs = zip(*(jax.tree.leaves(each.jacobian.T.mv(linear.residual)) for each in (held, linear)), strict=True)
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("fraction", "gain_ratio", "factor"),
    [(1.0, 1.0, 0.01), (1.0, 0.91, 0.1), (0.5, 1.0, 0.01), (0.25, 1.0, 1.0), (0.125, 1.0, 2.0), (1.0, 0.2, 2.0)],
)
def test_the_damping_after_corrected_steps_through_fewer_parameters_than_rows(fraction, gain_ratio, factor):
    one = jnp.ones(())
    trial = Trial(one, one, one, one, jnp.array(True))
    tried = Tried(one, trial, jnp.array(fraction), jnp.array(True), jnp.array(gain_ratio))
    found = jg.optim.GainRatioDamping().after(jnp.array(1e-3), tried, tall=True)
    np.testing.assert_allclose(found, 1e-3 * factor, rtol=1e-6)
