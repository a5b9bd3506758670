"""Sums of arrays and their largest magnitude, in the form that takes a CPU least time to compile.

XLA's CPU compiler cuts a reduction of one array with more than 32 entries into windows. That takes three kernels where
one would do, and a small program takes longer to compile than to run. A reduction of several arrays at once takes one.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Beyond this size the windows are faster, because they use vector instructions.
MOST = 2**14

_Arrays = tuple[Array, ...]


def total(array: Float[Array, "..."]) -> Float[Array, ""]:
    """Σ of all entries; see `totals`."""
    return totals(array)[0]


# Compiled by itself, so that it is traced once for each shape.
@jax.custom_jvp
@jax.jit
def totals(*arrays: Float[Array, "..."]) -> tuple[Float[Array, ""], ...]:
    """Σ of all entries of each of several arrays of one shape and dtype, in one pass.

    The sums of short arrays are compensated, so that their round-off does not grow with the size.

    Reference: T. Ogita, S. M. Rump and S. Oishi, Accurate sum and dot product, SIAM J. Sci. Comput. 26 (2005),
        1955–1988, algorithm 4.4
    """
    if arrays[0].size > MOST:
        return tuple(jnp.sum(array) for array in arrays)
    found = _reduce((*arrays, *(jnp.zeros_like(array) for array in arrays)), _compensated)
    pairs = zip(found[: len(arrays)], found[len(arrays) :], strict=True)
    # After an overflow the error is NaN.
    return tuple(jnp.where(jnp.isfinite(value), value + error, value) for value, error in pairs)


@totals.defjvp
def _(primals: _Arrays, tangents: _Arrays) -> tuple[_Arrays, _Arrays]:
    return totals(*primals), tuple(jnp.sum(tangent) for tangent in tangents)


@jax.jit
def largest(array: Float[Array, "..."]) -> Float[Array, ""]:
    """The largest magnitude, NaN if any entry is, 0 for an empty array. It has no derivatives."""
    array = jax.lax.stop_gradient(array)
    if array.size > MOST:
        return jnp.max(jnp.abs(array))
    low, high = _reduce((array, array), _outer)
    return jnp.maximum(high, -low)


def _reduce(arrays: _Arrays, combine: Callable[[_Arrays, _Arrays], _Arrays]) -> _Arrays:
    """0 and all entries of each array, combined."""
    starts = tuple(jnp.zeros((), array.dtype) for array in arrays)
    return tuple(jax.lax.reduce(arrays, starts, combine, tuple(range(arrays[0].ndim))))


def _compensated(one: _Arrays, other: _Arrays) -> _Arrays:
    """Two tuples of sums, each followed by their errors so far, added; to the errors come those of these additions."""
    count = len(one) // 2
    sums, errors = [], []
    for first, second, *before in zip(one[:count], other[:count], one[count:], other[count:], strict=True):
        value = first + second
        part = value - first
        sums.append(value)
        # The error of the addition, without an error of its own.
        errors.append(before[0] + before[1] + ((first - (value - part)) + (second - part)))
    return (*sums, *errors)


def _outer(one: _Arrays, other: _Arrays) -> _Arrays:
    return jnp.minimum(one[0], other[0]), jnp.maximum(one[1], other[1])
