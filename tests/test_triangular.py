"""The Cholesky factor and its solve, in one block and in several, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxgeo.linalg.triangular import BLOCK, LEAST_SIZE, NUM_BLOCKS, cholesky_solve, upper_cholesky

# One block; the least number of blocks; more than are updated at once, of sizes that the blocks do not divide.
SIZES = (1, 2 * BLOCK - 1, 2 * BLOCK, 6 * BLOCK + 5)


def matrix(size: int) -> np.ndarray:
    drawn = np.random.default_rng(size).standard_normal((size, size))
    return drawn @ drawn.T / size + np.eye(size)


def without_lower(gram: np.ndarray) -> np.ndarray:
    """The matrix with NaN below the diagonal, where nothing may be read."""
    return gram + np.tril(np.full(gram.shape, np.nan), -1)


# One block of a solve, the first size with several, and one that they do not divide.
@pytest.mark.parametrize(
    "size", [1, 65, pytest.param(LEAST_SIZE + 1, marks=pytest.mark.slow), LEAST_SIZE + NUM_BLOCKS + 3]
)
def test_factor_and_solution(size):
    gram = matrix(size)
    rhs = np.random.default_rng(0).standard_normal((2, size))
    upper = upper_cholesky(jnp.asarray(without_lower(gram)))
    np.testing.assert_allclose(upper.T @ upper, gram, rtol=0, atol=1e-13)
    solutions = jax.jit(jax.vmap(cholesky_solve, in_axes=(None, 0)))(upper, rhs)
    np.testing.assert_allclose(solutions, np.linalg.solve(gram, rhs.T).T, rtol=0, atol=1e-12)
    np.testing.assert_allclose(cholesky_solve(upper, jnp.asarray(rhs[0])), solutions[0], rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("ridge", [None, 1e-2])
def test_factor_of_ill_conditioned(size, dtype, ridge):
    """The residual is as small as LAPACK's, where inverses of blocks alone would leave hundreds of times that.

    With the larger ridge, some blocks are just so well-conditioned that products with their inverses do.
    """
    eps = float(np.finfo(dtype).eps)
    at = np.arange(size)
    ridge = 1e3 * size * eps if ridge is None else ridge
    gram = (np.exp(-((at[:, None] - at) ** 2) / 2 / 30**2) + ridge * np.eye(size)).astype(dtype)
    upper = np.asarray(jax.jit(upper_cholesky)(without_lower(gram)))
    assert np.array_equal(upper, np.triu(upper))
    exact = gram.astype(np.float64)
    defect, usual = (
        np.linalg.norm(factor.T @ factor - exact) / np.linalg.norm(exact)
        for factor in (upper.astype(np.float64), np.linalg.cholesky(gram).T.astype(np.float64))
    )
    assert defect < max(3 * usual, eps)


@pytest.mark.parametrize("size", SIZES)
def test_matrix_that_is_not_positive(size):
    """NaN in the whole triangle, as from LAPACK, wherever the first bad pivot is."""
    for bad in {0, size // 2, size - 1}:
        gram = matrix(size)
        gram[bad, bad] = -1
        upper = jax.jit(upper_cholesky)(gram)
        expected = jnp.linalg.cholesky(gram).T
        assert bool(jnp.isnan(upper[0, 0]))
        np.testing.assert_array_equal(upper, expected)


@pytest.mark.parametrize("size", [3, 2 * BLOCK + 2])
def test_derivatives_of_factor(size):
    """Both modes by finite differences, for a small matrix twice; also within `vmap`."""
    gram, weight = matrix(size), np.random.default_rng(1).standard_normal((size, size)) / size
    value = jax.jit(lambda gram: jnp.vdot(weight, upper_cholesky(gram)))
    check_grads(value, (gram,), order=2 if size < BLOCK else 1, rtol=1e-5, atol=1e-5)
    stack = np.stack([gram, 2 * gram])
    each = jnp.stack([jax.grad(value)(one) for one in stack])
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.grad(value)))(stack), each, rtol=0, atol=1e-13)
    # What is below the diagonal does not count.
    assert np.array_equal(each, np.triu(each))


def test_loops_keep_the_program_of_one_size():
    lines = [
        jax.jit(upper_cholesky).lower(jax.ShapeDtypeStruct((size, size), jnp.float64)).as_text().count("\n")
        for size in (4 * BLOCK, 40 * BLOCK)
    ]
    assert lines[0] == lines[1]


def test_many_factors_at_once():
    grams = np.stack([matrix(130), 3 * matrix(130)])
    factors = jax.jit(jax.vmap(upper_cholesky))(grams)
    np.testing.assert_allclose(factors, np.linalg.cholesky(grams).transpose(0, 2, 1), rtol=0, atol=1e-13)
