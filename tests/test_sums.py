"""Sums and largest magnitudes: their values against exact sums, their limits, derivatives and programs."""

import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from jaxgeo._sums import MOST, largest, total, totals


@pytest.mark.parametrize("size", [1, 2, 33, 1000, MOST + 1])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_sum_is_the_exact_one_rounded(size, dtype):
    array = jr.normal(jr.key(size), (size,), dtype)
    exact = math.fsum(np.asarray(array, np.float64))
    # Long sums are not compensated.
    allowed = abs(exact) if size <= MOST else float(np.sum(np.abs(array)))
    np.testing.assert_allclose(total(array), exact, rtol=0, atol=float(jnp.finfo(dtype).eps) * allowed)


def test_what_cancels_is_summed_as_in_twice_the_precision():
    array = jnp.asarray([1e16, 1.0, -1e16, 3.0] * 50)
    assert total(array) == 200.0
    np.testing.assert_array_equal(totals(array, 2 * array), [200.0, 400.0])


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (7, 11)])
def test_any_shape(shape):
    array = jr.normal(jr.key(0), shape)
    np.testing.assert_allclose(total(array), np.sum(np.asarray(array)), rtol=1e-14)
    np.testing.assert_array_equal(largest(array), np.max(np.abs(np.asarray(array)), initial=0))


def test_overflow_and_undefined_entries_are_told():
    assert total(jnp.asarray([1e308, 1e308, 1.0])) == jnp.inf
    assert total(jnp.asarray([-jnp.inf, 1.0])) == -jnp.inf
    assert jnp.isnan(total(jnp.asarray([jnp.inf, -jnp.inf])))
    for bad in (jnp.nan, -jnp.nan):
        array = jnp.ones(100).at[37].set(bad)
        assert jnp.isnan(total(array))
        assert jnp.isnan(largest(array))
    assert largest(jnp.asarray([1.0, -jnp.inf])) == jnp.inf


def test_derivatives_of_sums():
    array = jr.normal(jr.key(0), (40,))

    def function(x):
        return total(jnp.sin(x)) * totals(x**2, x**3)[1]

    def plain(x):
        return jnp.sum(jnp.sin(x)) * jnp.sum(x**3)

    np.testing.assert_allclose(jax.grad(function)(array), jax.grad(plain)(array), rtol=1e-13)
    np.testing.assert_allclose(jax.hessian(function)(array), jax.hessian(plain)(array), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(jax.jacfwd(function)(array), jax.jacfwd(plain)(array), rtol=1e-13)
    assert not jnp.any(jax.grad(largest)(array))


def test_batches():
    rows = jr.normal(jr.key(0), (5, 40))
    np.testing.assert_allclose(jax.vmap(total)(rows), jnp.sum(rows, axis=1), rtol=1e-13)
    np.testing.assert_array_equal(jax.vmap(largest)(rows), jnp.max(jnp.abs(rows), axis=1))


@pytest.mark.parametrize("function", [total, largest, lambda x: jnp.stack(totals(x, x**2, x**3))])
def test_nothing_is_reduced_in_windows(function):
    compiled = jax.jit(function).lower(jnp.ones(1000)).compile().as_text()
    assert "reduce(" in compiled
    assert "reduce-window(" not in compiled
