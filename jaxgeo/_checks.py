"""Checks of concrete values, made before anything is compiled."""

import math
from numbers import Real
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree


def is_concrete(tree: PyTree) -> bool:
    """Whether no leaf of `tree` is being traced, so that its values can be read."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def is_trainable_leaf(leaf: Any) -> bool:
    """Whether a leaf is a real floating-point array, which is what a flow can move."""
    return eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)


def as_array(name: str, value: ArrayLike) -> Array:
    """`value` as an array.

    **Raises:** `ValueError` with the name if it holds something else than numbers, or is ragged.
    """
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` must be an array of numbers; got {type(value).__name__}: {error}") from error


def check_finite(name: str, tree: PyTree) -> None:
    """Raise if a floating-point leaf of `tree` holds NaN or infinity; traced leaves are let through.

    **Raises:** `ValueError` with the name, the count and the first position.
    """
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.core.Tracer) or not eqx.is_inexact_array_like(leaf):
            continue
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            # Other processes hold a part of it: all of them find out together.
            if not bool(jnp.all(jnp.isfinite(leaf))):
                raise ValueError(f"`{name}` has NaN or infinite entries; remove or fill these samples first.")
            continue
        leaf = np.asarray(leaf)
        # NumPy knows no finiteness of bfloat16 and its like, all of which float32 can hold.
        bad = ~np.isfinite(leaf if leaf.dtype.kind in "fc" else leaf.astype(np.float32))
        if bad.any():
            where = tuple(int(i) for i in np.argwhere(bad)[0])
            raise ValueError(
                f"`{name}` has {int(bad.sum())} NaN or infinite entries, the first at index {where}; "
                "remove or fill these samples first."
            )


def check_positive(name: str, value: Any) -> None:
    """Raise if `value` is not a positive and finite number; a traced one is let through.

    **Raises:** `ValueError` with the name.
    """
    if not is_concrete(value):
        return
    number = value.item() if eqx.is_array_like(value) and np.ndim(value) == 0 and not np.isscalar(value) else value
    if isinstance(number, bool | np.bool_) or not isinstance(number, Real) or not 0 < float(number) < math.inf:
        raise ValueError(f"`{name}` must be positive and finite; got {value!r}.")


def leading_size(name: str, tree: PyTree) -> int:
    """The common length of the leading axis of every array in `tree`, at least 1.

    **Raises:** `ValueError` if there is no array, an array has no leading axis, the lengths differ or are 0.
    """
    leaves = [leaf for leaf in jax.tree.leaves(tree) if eqx.is_array_like(leaf)]
    shapes = [np.shape(leaf) for leaf in leaves]
    if not shapes or any(len(shape) == 0 for shape in shapes):
        raise ValueError(f"`{name}` must be arrays with a leading sample axis; got shapes {shapes}.")
    sizes = {shape[0] for shape in shapes}
    if len(sizes) > 1:
        raise ValueError(f"`{name}` must agree on the number of samples; got leading sizes {sorted(sizes)}.")
    (size,) = sizes
    if size == 0:
        raise ValueError(f"`{name}` is empty (0 samples); pass at least one sample.")
    return size
