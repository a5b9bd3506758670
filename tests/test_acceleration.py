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

    @eqx.filter_jit
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


@jax.jit
def end(scale, count):
    return jnp.sum(ravel_pytree(bent(scale).repeat(jnp.ones(()), count).step)[0][:3])


@jax.jit
def slopes(scale, count):
    """The derivative of `end`, backwards and forwards."""
    return jax.grad(end)(scale, count), jax.jvp(lambda scale: end(scale, count), (scale,), (1.0,))[1]


@pytest.mark.parametrize("count", [1, 4])
def test_its_derivative_is_that_of_the_corrections_made(count):
    found, forwards = slopes(0.5, count)
    np.testing.assert_allclose(found, (end(0.5 + 1e-5, count) - end(0.5 - 1e-5, count)) / 2e-5, rtol=1e-5)
    np.testing.assert_allclose(forwards, found, rtol=1e-9)


def test_its_derivative_through_a_whole_attempt():
    whole = jnp.ones(())

    def end(scale):
        return jnp.sum(ravel_pytree(bent(scale)(whole).step)[0][:3])

    @jax.jit
    def counted(scale):
        trial, corrections = bent(scale).with_corrections(whole)
        return jnp.sum(ravel_pytree(trial.step)[0][:3]), corrections

    value, found = jax.jit(jax.value_and_grad(end))(0.5)
    (middle, corrections), (right, _), (left, _) = map(counted, (0.5, 0.5 + 1e-5, 0.5 - 1e-5))
    assert corrections >= 3
    np.testing.assert_allclose(value, middle, rtol=1e-12)
    np.testing.assert_allclose(found, (right - left) / 2e-5, rtol=1e-5)


def test_a_tall_matrix_corrects_by_its_damped_lift():
    matrix, rows = with_spectrum(8, 3, [1.0, 0.5, 0.1]), np.arange(8.0)[:, None]
    problem, params = linear_problem(matrix)
    attempts = []

    @jax.jit
    def corrected(rows):
        linear = Linearisation(problem, params, jg.metrics.CostHessian())
        factorised = DenseCholesky().factorise(linear.jacobian, jnp.array(0.1))
        for accelerated in (False, True):
            attempts.append(Attempt(linear, linear.trainable, factorised.correct, 8, accelerated=accelerated))
        return factorised.correct(rows)

    damping = 0.1 * np.sum(matrix**2) / 8
    expected = np.linalg.solve(matrix.T @ matrix + damping * np.eye(3), matrix.T @ rows[:, 0])
    np.testing.assert_allclose(ravel_pytree(corrected(rows))[0], expected, rtol=1e-10)
    # Without acceleration, rows that no step can reach would only stop the corrections.
    assert attempts[0].correct is None
    assert attempts[1].correct is not None


def test_a_matrix_that_is_held_makes_the_same_products():
    # As large as this, D is not held from the beginning.
    equation = jg.equations.poisson_2d((40,))

    @jax.jit
    def products(key):
        params, problem = equation.init(key), equation.problem(equation.points(key))
        linear = Linearisation(problem, params, jg.metrics.CostHessian())
        held, step = linear.holding(), jax.tree.map(jnp.sin, linear.trainable)
        assert linear.jacobian.held is None
        assert held.jacobian.held is not None
        assert held.jacobian.held.shape == (1020, 161)
        assert held.holding() is held
        return [
            (each.jacobian.mv(step), jax.tree.leaves(each.jacobian.T.mv(linear.residual))) for each in (held, linear)
        ]

    found, expected = products(jax.random.key(0))
    np.testing.assert_allclose(found[0], expected[0], atol=1e-12)
    for one, other in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


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
