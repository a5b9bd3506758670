"""The metric form: (DᵀD + λ)⁻¹g and (DᵀD)⁺g against NumPy, and its agreement with the lift."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from cases.matrices import damped_inverse, jacobian_of, pseudo_inverse, relative_error, with_spectrum
from jaxgeo.linalg import Auto, GramCholesky, GramEigh, lift_gradient

SHAPES = [(6, 15), (8, 8), (15, 6)]
each_shape = pytest.mark.parametrize(
    "shape", [pytest.param(shape, marks=[pytest.mark.slow] * (shape != SHAPES[0]), id=str(shape)) for shape in SHAPES]
)


@eqx.filter_jit
def solve(matrix, gradient, damping, solver=None):
    """Compiled once for each shape and solver."""
    return lift_gradient(jacobian_of(matrix), gradient, damping, solver)


def metric(matrix, damping):
    return matrix.T @ matrix + damping * np.sum(matrix**2) / len(matrix) * np.eye(matrix.shape[1])


@each_shape
@pytest.mark.parametrize("rank", [6, 4])
@pytest.mark.parametrize("damping", [1e-6, 1e-2])
def test_any_gradient(shape, rank, damping):
    """Where D has a kernel, g has a part in it, which is divided by λ: for K ≤ QN at lost rank too."""
    matrix = with_spectrum(*shape, np.logspace(0, -2, rank))
    gradient = np.random.default_rng(2).standard_normal(shape[1])
    value, info = solve(jnp.asarray(matrix), jnp.asarray(gradient), jnp.asarray(damping))
    assert relative_error(value, np.linalg.solve(metric(matrix, damping), gradient)) < 1e-9
    assert int(info.outcome) == 0


@pytest.mark.slow
@pytest.mark.parametrize("condition", [1e4, 1e6])
def test_round_off_is_not_divided_by_the_damping(condition):
    """K < QN at full rank: there is no kernel, and what seems to be in it is nothing."""
    matrix = with_spectrum(15, 6, np.logspace(0, -np.log10(condition), 6))
    gradient = np.random.default_rng(2).standard_normal(6)
    value, _ = solve(jnp.asarray(matrix), jnp.asarray(gradient), jnp.asarray(1e-15))
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    shift = 1e-15 * np.sum(matrix**2) / len(matrix)
    expected = right.T @ ((right @ gradient) / (values**2 + shift))
    assert relative_error(value, expected) < 1e-15 * condition**2


def test_nothing_is_divided_by_zero_where_the_jacobian_vanishes():
    value, _ = solve(jnp.zeros((6, 15)), jnp.ones(15), jnp.asarray(1e-3))
    np.testing.assert_array_equal(value, 0)


@each_shape
@pytest.mark.parametrize("rank", [6, 4])
@pytest.mark.parametrize("solver", [None, pytest.param(GramEigh(), marks=pytest.mark.slow)])
def test_pseudo_inverse_of_the_metric(shape, rank, solver):
    matrix = with_spectrum(*shape, np.logspace(0, -1, rank))
    gradient = np.random.default_rng(2).standard_normal(shape[1])
    value, _ = solve(jnp.asarray(matrix), jnp.asarray(gradient), None, solver)
    assert relative_error(value, np.linalg.pinv(matrix.T @ matrix, rcond=1e-9) @ gradient) < 1e-9


@pytest.mark.parametrize("solver", [Auto(), pytest.param(GramCholesky(), marks=pytest.mark.slow)])
@pytest.mark.parametrize("damping", [1e-14, 1e-10, 1e-4, pytest.param(None, marks=pytest.mark.slow)])
def test_is_the_lift_where_the_gradient_is_that_of_a_velocity(solver, damping):
    matrix = with_spectrum(6, 15, np.logspace(0, -4, 6))
    rows = np.random.default_rng(2).standard_normal(6)
    scale = None if damping is None else jnp.asarray(damping)
    value, _ = solve(jnp.asarray(matrix), jnp.asarray(matrix.T @ rows), scale, solver)
    expected = pseudo_inverse(matrix, rows, 1e-9) if damping is None else damped_inverse(matrix, rows, damping)
    assert relative_error(value, expected) < 1e-7
