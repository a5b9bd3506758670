"""The Cholesky factor and its solve, in one block and in several, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgeo.linalg.triangular import LEAST_SIZE, NUM_BLOCKS, cholesky_solve, upper_cholesky


def matrix(size: int) -> np.ndarray:
    drawn = np.random.default_rng(size).standard_normal((size, size))
    return drawn @ drawn.T / size + np.eye(size)


# One block, the first size with several, and one that they do not divide.
@pytest.mark.parametrize(
    "size", [1, 65, pytest.param(LEAST_SIZE + 1, marks=pytest.mark.slow), LEAST_SIZE + NUM_BLOCKS + 3]
)
def test_factor_and_solution(size):
    gram = matrix(size)
    rhs = np.random.default_rng(0).standard_normal((2, size))
    # Of a symmetric matrix only what is on and above the diagonal is read.
    upper = upper_cholesky(jnp.asarray(gram + np.tril(np.full((size, size), np.nan), -1)))
    np.testing.assert_allclose(upper.T @ upper, gram, rtol=0, atol=1e-13)
    solutions = jax.jit(jax.vmap(cholesky_solve, in_axes=(None, 0)))(upper, rhs)
    np.testing.assert_allclose(solutions, np.linalg.solve(gram, rhs.T).T, rtol=0, atol=1e-12)
    np.testing.assert_allclose(cholesky_solve(upper, jnp.asarray(rhs[0])), solutions[0], rtol=0, atol=1e-13)
