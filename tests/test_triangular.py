"""The Cholesky factor and its solve, in one block and in several, against NumPy."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from cases.matrices import with_spectrum
from jaxgeo.linalg import triangular
from jaxgeo.linalg.triangular import (
    BLOCKS,
    ITERATIONS,
    LEAST_LARGE,
    LEAST_SIZE,
    NUM_BLOCKS,
    cholesky_solve,
    is_well_conditioned,
    upper_cholesky,
)

BLOCK = BLOCKS.size
# One block; the least number of blocks; more than are updated at once, of sizes that the blocks do not divide; and
# blocks that are divided in turn.
SIZES = (1, 2 * BLOCK - 1, 2 * BLOCK, 6 * BLOCK + 5, LEAST_LARGE + 5)


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
    upper = np.asarray(jax.jit(upper_cholesky)(without_lower(gram)))
    np.testing.assert_allclose(upper.T @ upper, gram, rtol=0, atol=1e-13)
    solutions = jax.jit(jax.vmap(cholesky_solve, in_axes=(None, 0)))(upper, rhs)
    np.testing.assert_allclose(solutions, np.linalg.solve(gram, rhs.T).T, rtol=0, atol=1e-12)
    np.testing.assert_allclose(jax.jit(cholesky_solve)(upper, rhs[0]), solutions[0], rtol=0, atol=1e-13)


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
    slope = jax.jit(jax.grad(value))
    each = np.stack([slope(one) for one in stack])
    np.testing.assert_allclose(jax.jit(jax.vmap(slope))(stack), each, rtol=0, atol=1e-13)
    # What is below the diagonal does not count.
    assert np.array_equal(each, np.triu(each))


def test_loops_keep_the_program_of_one_size():
    lines = [
        jax.jit(upper_cholesky).lower(jax.ShapeDtypeStruct((size, size), jnp.float64)).as_text().count("\n")
        for size in (4 * BLOCK, 20 * BLOCK, LEAST_LARGE, 2 * LEAST_LARGE)
    ]
    assert lines[0] == lines[1]
    assert lines[2] == lines[3] < 4 * lines[0]


@pytest.mark.parametrize("size", [6 * BLOCK + 5, LEAST_LARGE])
def test_no_call_of_lapack_is_for_several_blocks(size):
    """In jaxlib 0.10 two such calls at once wait for each other without end."""
    shape = jax.ShapeDtypeStruct((size, size), jnp.float64)
    program = jax.jit(upper_cholesky).trace(shape).lower(lowering_platforms=("cpu",)).as_text()
    calls = re.findall(r"@lapack_(dpotrf|dtrsm)_ffi.*?: \(tensor<([0-9x]+)f64>", program)
    assert {name for name, _ in calls} == {"dpotrf", "dtrsm"}
    assert all(dimensions.count("x") == 2 for _, dimensions in calls)


def test_many_factors_at_once():
    grams = np.stack([matrix(130), 3 * matrix(130)])
    factors = jax.jit(jax.vmap(upper_cholesky))(grams)
    np.testing.assert_allclose(factors, np.linalg.cholesky(grams).transpose(0, 2, 1), rtol=0, atol=1e-13)


def triangle(*values: float) -> np.ndarray:
    """An upper triangle with these singular values."""
    return np.linalg.qr(with_spectrum(len(values), len(values), np.array(values)))[1]


compare = jax.jit(is_well_conditioned)


@pytest.mark.parametrize("least", [1e-12, 1e-6, 1e-2])
@pytest.mark.parametrize("count", [1, 2, 60])
def test_the_condition_is_compared(least, count):
    """Any number of small singular values counts; the estimate of the ratio is too large by less than 4."""
    for times, expected in ((0.05, False), (0.24, False), (1.1, True), (20.0, True), (2e3, True)):
        smallest = (least * times) ** 0.5
        if smallest >= 1:
            continue
        upper = triangle(*np.ones(60), *np.full(count, smallest))
        assert bool(compare(1e3 * upper, least)) == expected
    graded = triangle(*np.geomspace(1, 0.2 * least**0.5, 60))
    assert not compare(graded, least)


def test_a_wide_margin_takes_one_iteration(monkeypatch):
    solves = []

    def counted(upper, rhs):
        jax.debug.callback(lambda: solves.append(None))
        return cholesky_solve(upper, rhs)

    monkeypatch.setattr(triangular, "cholesky_solve", counted)
    # Between a margin of 4⁵ and none, a few iterations.
    for smallest, expected in ((1e-3, 1), (3e-6, 2), (1e-8, ITERATIONS)):
        solves.clear()
        upper = triangle(*np.geomspace(1, smallest, 40))
        assert bool(is_well_conditioned(jnp.asarray(upper), 1e-12)) == (smallest > 1e-6)
        jax.effects_barrier()
        assert len(solves) == expected


def test_what_is_singular_or_not_finite_is_not_well_conditioned():
    for upper in (np.zeros((3, 3)), np.diag([1.0, 0.0, 2.0]), np.full((3, 3), np.nan)):
        assert not compare(upper, 1e-12)
    stack = np.stack([np.eye(3), np.diag([1.0, 1e-7, 1.0]), np.full((3, 3), np.inf)])
    assert jax.vmap(compare, (0, None))(stack, 1e-12).tolist() == [True, False, False]
