"""Singular values of matrices with a known spectrum, on the host and within a program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cases.matrices import jacobian_of, with_spectrum
from jaxgeo.linalg import spectra

VALUES = np.array([4.0, 2.0, 1e-3, 1e-9])
# On the host DDᵀ answers for a D as well-conditioned as this one.
CLOSE = np.array([4.0, 2.0, 1.0, 1e-3])
SHAPES = [(4, 9), (9, 4), (4, 4)]


def on_the_host(function, matrix):
    found = function(matrix)
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(found))
    return found


def in_a_program(function, matrix):
    found = jax.jit(function)(jnp.asarray(matrix))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(found))
    return jax.tree.map(np.asarray, found)


@pytest.mark.parametrize("where", [on_the_host, in_a_program])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("values", [VALUES, CLOSE])
def test_values_are_those_of_the_matrix(where, shape, values):
    found = where(spectra.singular_values, with_spectrum(*shape, values))
    np.testing.assert_allclose(found, values, rtol=1e-12, atol=4e-15)


@pytest.mark.parametrize("size", [1e-180, 1e180])
def test_values_whose_squares_no_float_holds(size):
    np.testing.assert_allclose(spectra.singular_values(size * with_spectrum(4, 9, CLOSE)), size * CLOSE, rtol=1e-11)


@pytest.mark.parametrize("where", [on_the_host, in_a_program])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spectrum", [VALUES, CLOSE])
def test_left_vectors_diagonalise_the_gram_matrix(where, shape, spectrum):
    matrix = with_spectrum(*shape, spectrum)
    left, values = where(spectra.left_singular, matrix)
    assert left.shape == (shape[0], 4)
    np.testing.assert_allclose(values, spectrum, rtol=1e-12, atol=4e-15)
    np.testing.assert_allclose((left * values**2) @ left.T, matrix @ matrix.T, atol=1e-13)
    np.testing.assert_allclose(left.T @ left, np.eye(4), atol=1e-13)


@pytest.mark.parametrize("where", [on_the_host, in_a_program])
def test_eigenvalues_of_the_gram_matrix_lose_the_small_ones(where):
    matrix = with_spectrum(4, 9, VALUES)
    left, values = where(spectra.of_gram, matrix @ matrix.T)
    np.testing.assert_allclose(values[:3], VALUES[:3], rtol=1e-8)
    assert values[3] < 1e-7
    np.testing.assert_allclose((left * values**2) @ left.T, matrix @ matrix.T, atol=1e-13)


@pytest.mark.parametrize(("dtype", "rank"), [(np.float64, 4), (np.float32, 3)])
def test_the_rank_knows_the_dtype(dtype, rank):
    assert spectra.numerical_rank(VALUES, (4, 9), jnp.dtype(dtype)) == rank
    assert spectra.round_off((4, 9), jnp.dtype(dtype)) == pytest.approx(3 * np.finfo(dtype).eps)
    assert spectra.data_floor(jacobian_of(with_spectrum(4, 9, VALUES, dtype))) == pytest.approx(3 * np.finfo(dtype).eps)


def test_counts_above_a_given_share_of_the_largest():
    assert [spectra.count_above(VALUES, rtol) for rtol in (0.6, 1e-4, 1e-10)] == [1, 3, 4]
    with pytest.raises(ValueError, match="`rtol`"):
        spectra.count_above(VALUES, -1.0)
