"""The metric form: (DᵀD + λ)⁻¹g and (DᵀD)⁺g against numpy, and its agreement with the lift."""

import jax.numpy as jnp
import numpy as np
import pytest
from matrices import jacobian_of, relative_error, with_spectrum

from jaxgeo.linalg import Auto, GramCholesky, GramEigh, lift_gradient

SHAPES = [(6, 15), (8, 8), (15, 6)]


def metric(matrix, damping):
    return matrix.T @ matrix + damping * np.sum(matrix**2) / len(matrix) * np.eye(matrix.shape[1])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("damping", [1e-6, 1e-2])
def test_any_gradient(shape, damping):
    matrix = with_spectrum(*shape, np.logspace(0, -2, min(shape)))
    gradient = np.random.default_rng(2).standard_normal(shape[1])
    value, info = lift_gradient(jacobian_of(matrix), jnp.asarray(gradient), jnp.asarray(damping))
    assert relative_error(value, np.linalg.solve(metric(matrix, damping), gradient)) < 1e-9
    assert int(info.outcome) == 0


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rank", [6, 4])
def test_pseudo_inverse_of_the_metric(shape, rank):
    matrix = with_spectrum(*shape, np.logspace(0, -1, rank))
    gradient = np.random.default_rng(2).standard_normal(shape[1])
    for solver in (None, GramEigh()):
        value, _ = lift_gradient(jacobian_of(matrix), jnp.asarray(gradient), None, solver)
        assert relative_error(value, np.linalg.pinv(matrix.T @ matrix, rcond=1e-9) @ gradient) < 1e-9


@pytest.mark.parametrize("solver", [Auto(), GramCholesky()])
@pytest.mark.parametrize("damping", [1e-14, 1e-10, 1e-4, None])
def test_is_the_lift_where_the_gradient_is_that_of_a_velocity(solver, damping):
    matrix = with_spectrum(6, 15, np.logspace(0, -4, 6))
    jacobian = jacobian_of(matrix)
    rows = jnp.asarray(np.random.default_rng(2).standard_normal((6, 1)))
    scale = None if damping is None else jnp.asarray(damping)
    value, _ = lift_gradient(jacobian, jacobian.T.mv(rows), scale, solver)
    expected, _ = Auto().solve(jacobian, rows, scale)
    assert relative_error(value, np.asarray(expected)) < 1e-7
