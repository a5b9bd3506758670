"""Lifts through singular values, against dense algebra."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from differences import derivative

from cases.matrices import with_spectrum
from jaxgeo.linalg.singular import svd_of_triangle

SPECTRUM = np.geomspace(1.0, 1e-6, 5)


def decomposed():
    matrix = jnp.asarray(with_spectrum(9, 5, 1e200 * SPECTRUM))
    return matrix, svd_of_triangle(matrix, *jnp.linalg.qr(matrix)), jr.normal(jr.key(0), (9,))


def test_cut_off_lift_is_the_truncated_pseudo_inverse():
    matrix, svd, velocity = decomposed()
    kept = svd.kept(jnp.array(1e-4))
    assert kept.tolist() == [True, True, True, False, False]
    expected = np.linalg.pinv(matrix / 1e200, rcond=1e-4) @ velocity / 1e200
    np.testing.assert_allclose(svd.lift(velocity, kept), expected, rtol=1e-10)


def test_damped_lift_solves_the_damped_normal_equations():
    matrix, svd, velocity = decomposed()
    unit = matrix / 1e200
    expected = np.linalg.solve(unit.T @ unit + 1e-3 * np.eye(5), unit.T @ velocity) / 1e200
    np.testing.assert_allclose(svd.damped_lift(velocity, jnp.array(1e-3)), expected, rtol=1e-10)


@pytest.mark.parametrize("part", [0.9, 1e-3])
def test_damping_for_a_length_gives_that_length(part):
    _, svd, velocity = decomposed()
    longest = jnp.linalg.norm(svd.damped_lift(velocity, jnp.array(1e-31)))
    shift = svd.damping_for_length(velocity, part * longest)
    np.testing.assert_allclose(jnp.linalg.norm(svd.damped_lift(velocity, shift)), part * longest, rtol=1e-8)
    assert svd.damping_for_length(velocity, 2 * longest) < 1e-31


def test_a_matrix_of_zeros_lifts_to_zero():
    matrix = jnp.zeros((4, 2))
    svd = svd_of_triangle(matrix, *jnp.linalg.qr(matrix))
    np.testing.assert_array_equal(svd.lift(jnp.ones(4), svd.kept(jnp.array(1e-3))), 0)
    np.testing.assert_array_equal(svd.damped_lift(jnp.ones(4), jnp.array(1e-3)), 0)


LIFTS = {
    "cut off": lambda svd, v, knob: svd.lift(v, svd.kept(jnp.array(0.3))),
    "damped": lambda svd, v, knob: svd.damped_lift(v, 0.1 * (1 + knob)),
    "length": lambda svd, v, knob: svd.damped_lift(v, svd.damping_for_length(v, 0.3 * (1 + knob))),
    "longer than the lift": lambda svd, v, knob: svd.damped_lift(v, svd.damping_for_length(v, 100 + knob)),
    "trace": lambda svd, v, knob: svd.mean_square(),
}
SLOW = ("damped", "longer than the lift", "trace", "length")


@pytest.mark.parametrize(
    "lift",
    [pytest.param(lift, id=name, marks=pytest.mark.slow if name in SLOW else ()) for name, lift in LIFTS.items()],
)
def test_derivatives_of_lifts_forward_reverse_and_second(lift):
    matrix, way = (jnp.asarray(with_spectrum(9, 5, np.geomspace(1.0, 1e-2, 5), seed=seed)) for seed in (0, 1))
    velocity, turn = jr.normal(jr.key(0), (2, 9))
    weights = jnp.cos(jnp.arange(5.0))

    @jax.jit
    def value(knob):
        matrix_, scale = matrix + 0.1 * knob * way, jnp.exp(knob * jnp.sin(jnp.arange(5.0)))
        svd = svd_of_triangle(matrix_, *jnp.linalg.qr(matrix_), scale)
        return jnp.sum(weights * lift(svd, velocity + knob * turn, knob))

    slope = jax.jit(jax.grad(value))
    expected, _ = derivative(value)
    np.testing.assert_allclose(slope(0.0), expected, rtol=1e-8)
    np.testing.assert_allclose(jax.jvp(value, (0.0,), (1.0,))[1], expected, rtol=1e-8)
    np.testing.assert_allclose(jax.jacfwd(slope)(0.0), derivative(slope)[0], rtol=1e-6)


def test_equal_singular_values_have_finite_derivatives():
    def length(knob):
        matrix = jnp.eye(4, 3) * (1 + knob)
        svd = svd_of_triangle(matrix, *jnp.linalg.qr(matrix))
        return jnp.sum(svd.lift(jnp.ones(4), svd.kept(jnp.array(0.5))) + svd.damped_lift(jnp.ones(4), jnp.array(1.0)))

    np.testing.assert_allclose(jax.jvp(length, (0.0,), (1.0,))[1], -4.5)
