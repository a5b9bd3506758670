"""Checks of concrete values, made before anything is compiled."""

import math
from numbers import Number, Real
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree
from numpy.typing import NDArray

# The largest finite number.
MOST = float(np.finfo(np.float64).max)


def is_concrete(tree: PyTree) -> bool:
    """Whether no leaf of `tree` is being traced, so that its values can be read."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def is_trainable_leaf(leaf: Any) -> bool:
    """Whether a leaf is a real floating-point array, which is what a flow can move."""
    return eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)


def is_key(leaf: Any) -> bool:
    """Whether a leaf is an array of PRNG keys, as `jax.random.key` makes them."""
    return eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def as_array(name: str, value: Any) -> Array:
    """`value` as an array.

    **Raises:** `ValueError` with the name if it holds anything but numbers, or is ragged.
    """
    if isinstance(value, np.ndarray) and value.dtype.kind in "OSU":
        raise ValueError(
            f"`{name}` must be an array of numbers; got one of dtype {value.dtype}. Convert text and objects to "
            "numbers, as with `.astype(float)`."
        )
    if isinstance(value, dict):
        raise ValueError(
            f"`{name}` must be an array of numbers; got a dictionary with the keys {list(value)}. Join its arrays, as "
            "by `jnp.concatenate(list(arrays.values()), axis=-1)`; targets in the order of the outputs."
        )
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` must be an array of numbers; got {type(value).__name__}: {error}") from error


def as_samples(name: str, tree: PyTree) -> PyTree:
    """A pytree of samples with arrays for leaves.

    Lists of numbers, nested or not, become one array, and so do tables such as a DataFrame.

    **Raises:** `ValueError` as `as_array`.
    """
    return jax.tree.map(lambda leaf: as_array(name, leaf), tree, is_leaf=_is_list_of_numbers)


def _is_list_of_numbers(node: Any) -> bool:
    leaves = jax.tree.leaves(node) if isinstance(node, list | tuple) else []
    return bool(leaves) and all(isinstance(leaf, Number) for leaf in leaves)


def check_finite(name: str, tree: PyTree, advice: str = "remove or fill these samples first") -> None:
    """Raise if a floating-point leaf of `tree` holds NaN or infinity; traced leaves pass.

    **Raises:** `ValueError` with the name, the count, the first position and the advice.
    """
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.core.Tracer) or not eqx.is_inexact_array_like(leaf):
            continue
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            # Other processes hold a part of it, so all of them must compute this together.
            if not bool(jnp.all(jnp.isfinite(leaf))):
                raise ValueError(f"`{name}` has NaN or infinite entries; {advice}.")
            continue
        leaf = np.asarray(leaf)
        # NumPy has no `isfinite` for bfloat16 and similar dtypes; float32 can hold all their values.
        bad = ~np.isfinite(leaf if leaf.dtype.kind in "fc" else leaf.astype(np.float32))
        if bad.any():
            where = tuple(int(i) for i in np.argwhere(bad)[0])
            narrow = f" Numbers too large for {leaf.dtype} are infinite in it: rescale them, or enable x64 in JAX."
            raise ValueError(
                f"`{name}` has {int(bad.sum())} NaN or infinite entries, the first at index {where}; {advice}."
                + narrow * (leaf.dtype.itemsize < 8 and bool(np.isposinf(leaf).any() or np.isneginf(leaf).any()))
            )


def plain(value: Any) -> Any:
    """A Python number for a concrete NumPy or JAX scalar, which `jit` would trace; anything else as it is."""
    scalar = isinstance(value, np.generic) or (isinstance(value, np.ndarray | jax.Array) and value.ndim == 0)
    return value.item() if scalar and is_concrete(value) else value


def check_number(
    name: str, value: Any, *, above: float = -math.inf, least: float = -math.inf, most: float = math.inf
) -> None:
    """Raise unless `value` is one real number, > `above`, ≥ `least` and ≤ `most`; a traced one passes.

    Infinity passes unless a bound excludes it: pass `most=MOST` to do so.

    **Raises:** `ValueError` with the name.
    """
    if not is_concrete(value):
        return
    number = plain(value)
    if isinstance(number, Real) and not isinstance(number, bool | np.bool_):
        number = float(number)
        if (number > above or above == -math.inf) and least <= number <= most:
            return
    wanted = [
        text
        for text, asked in (
            (f"greater than {above:g}", above > -math.inf),
            (f"at least {least:g}", least > -math.inf),
            ("finite", most == MOST),
            (f"at most {most:g}", most < MOST),
        )
        if asked
    ]
    raise ValueError(f"`{name}` must be a number{', ' * bool(wanted)}{' and '.join(wanted)}; got {value!r}.")


def check_positive(name: str, value: Any) -> None:
    """Raise unless `value` is a positive and finite number; a traced one passes.

    **Raises:** `ValueError` with the name.
    """
    try:
        check_number(name, value, above=0, most=MOST)
    except ValueError:
        raise ValueError(f"`{name}` must be positive and finite; got {value!r}.") from None


def is_count(value: Any, least: int = 1) -> bool:
    """Whether `value` is a Python or NumPy integer of at least `least`."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= least)


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raise unless `value` is an integer of at least `least`.

    **Raises:** `ValueError` with the name.
    """
    if not is_count(value, least):
        static = f" With `optax.inject_hyperparams`, name `{name}` in `static_args`." * isinstance(value, jax.Array)
        raise ValueError(f"`{name}` must be an integer of at least {least}; got {value!r}.{static}")


def check_function(name: str, value: Any) -> None:
    """Raise if `value` cannot be called.

    **Raises:** `ValueError` with the name.
    """
    if not callable(value):
        raise ValueError(f"`{name}` must be a function; got {value!r}.")


def check_kind(name: str, value: Any, kind: type, wanted: str) -> None:
    """Raise unless `value` is a `kind`, which the message describes as `wanted`: "a metric, such as …".

    **Raises:** `ValueError` with the name.
    """
    if not isinstance(value, kind):
        raise ValueError(f"`{name}` must be {wanted}; got {value!r}.")


def as_real(name: str, value: ArrayLike, *, finite: bool = True) -> Array:
    """`value` as an array of real numbers, checked to be finite if concrete; integers become floating point.

    With `finite=False` infinite numbers pass, but NaN does not.

    **Raises:** `ValueError` with the name.
    """
    array = as_array(name, value)
    if jnp.iscomplexobj(array):
        raise ValueError(f"`{name}` must be real numbers; got dtype {array.dtype}.")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(float)
    if finite:
        check_finite(name, array)
    elif is_concrete(array) and np.isnan(np.asarray(array, np.float64)).any():
        raise ValueError(f"`{name}` must be numbers; got {value!r}.")
    return array


def as_table(name: str, values: ArrayLike, columns: int) -> NDArray[np.float64]:
    """`values` as a table of finite numbers with this many columns, in float64 whether or not JAX has x64.

    **Raises:** `ValueError` with the name.
    """
    try:
        table = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"`{name}` must be an array of numbers; got {type(values).__name__}: {error}") from error
    if table.dtype.kind not in "fiub":
        raise ValueError(f"`{name}` must be an array of real numbers; got dtype {table.dtype}.")
    if table.ndim != 2 or table.shape[1] != columns:
        raise ValueError(f"`{name}` must have shape (rows, {columns}); got {table.shape}.")
    check_finite(name, table)
    return table.astype(np.float64)


def check_rows(name: str, value: ArrayLike, shape: tuple[int, ...]) -> Array:
    """`value` as real numbers of a given shape, such as a velocity of the outputs.

    **Raises:** `ValueError` with the name.
    """
    array = as_real(name, value)
    if array.shape != shape:
        raise ValueError(f"`{name}` must have shape {shape}; got {array.shape}.")
    return array


def leading_size(name: str, tree: PyTree) -> int:
    """The common length of the leading axis of every array in `tree`, at least 1.

    **Raises:** `ValueError` if there is no array, if an array has no leading axis, or if the lengths differ or are 0.
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
