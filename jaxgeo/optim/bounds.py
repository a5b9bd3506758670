"""Bounds on parameters: which bounds are active, and where they cut a step off."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PyTree

from jaxgeo._checks import is_concrete
from jaxgeo.linalg.tangents import freeze


class Bounds(eqx.Module):
    """low ≤ θ ≤ high, for each parameter.

    A step moves only the parameters that no bound holds fixed, and is cut off at the bounds. Near a minimum inside the
    bounds the steps are therefore the same as without bounds.

    Reference: D. P. Bertsekas, Projected Newton methods for optimization problems with simple constraints, SIAM J.
    Control and Optimization 20, 1982

    **Arguments:**

    - `low`, `high`: numbers, or pytree prefixes of the parameters with numbers or arrays; −∞ and ∞ for no bound.

    **Raises:** `ValueError` if a bound is NaN.
    """

    low: PyTree
    high: PyTree

    def __init__(self, low: PyTree, high: PyTree):
        self.low, self.high = low, high
        for name, tree in (("low", low), ("high", high)):
            # A model as a bound has leaves that are no numbers, such as its activation.
            numbers = jax.tree.leaves(eqx.filter(tree, eqx.is_array_like))
            if is_concrete(numbers) and any(np.isnan(np.asarray(leaf, float)).any() for leaf in numbers):
                raise ValueError(
                    f"`bounds` must be numbers, or infinite for no bound; `{name}` contains NaN: {tree!r}."
                )

    def flat(self, trainable: PyTree) -> tuple[Float[Array, " K"], Float[Array, " K"]]:
        """Both bounds for each trainable number.

        **Raises:** `ValueError` if they do not match the parameters.
        """
        return _flat("low", self.low, trainable), _flat("high", self.high, trainable)

    def held(self, trainable: PyTree, slopes: Float[Array, " K"]) -> Bool[Array, " K"]:
        """Which parameters are at a bound that descent would cross; `slopes` is the gradient of the cost."""
        at_low, at_high = self.reached(trainable)
        return (at_low & (slopes >= 0)) | (at_high & (slopes <= 0))

    def reached(self, trainable: PyTree) -> tuple[Bool[Array, " K"], Bool[Array, " K"]]:
        """Which parameters are at the lower bound and which at the upper bound, up to round-off."""
        low, high = self.flat(trainable)
        flat = ravel_pytree(trainable)[0]
        slack = 8 * jnp.finfo(flat.dtype).eps * jnp.abs(flat)
        return flat - low <= slack, high - flat <= slack

    def cut(self, trainable: PyTree, step: PyTree) -> PyTree:
        """Cut the step off where θ + step would leave the bounds."""
        low, high = self.flat(trainable)
        flat, unravel = ravel_pytree(step)
        here = ravel_pytree(trainable)[0]
        cut = jnp.clip(flat, low - here, high - here)
        # The sum may round to just outside the bound.
        still, there = freeze((cut, here + cut))
        back = jnp.where(there > high, jnp.nextafter(still, jnp.full_like(still, -jnp.inf)), still)
        back = jnp.where(there < low, jnp.nextafter(still, jnp.full_like(still, jnp.inf)), back)
        return unravel(cut + (back - still))


def read_bounds(bounds: Any, trainable: PyTree, names: list[str], start: str) -> Bounds | None:
    """Read `Bounds` from a pair (low, high); None if all bounds are infinite.

    **Arguments:**

    - `names`: names of the trainable numbers. `start`: name of the argument that holds the parameters.

    **Raises:** `ValueError` unless `bounds` is a pair that matches the parameters and contains them.
    """
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise ValueError(f"`bounds` must be a pair (low, high); got {bounds!r}.")
    found = Bounds(*bounds)
    least, most = map(np.asarray, found.flat(trainable))
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(trainable)])
    for name, value, lower, upper in zip(names, flat, least, most, strict=True):
        if not lower <= value <= upper:
            raise ValueError(
                f"`{start}` must be within `bounds`; its entry {name} is {value}, outside [{lower}, {upper}]."
            )
    return None if np.isneginf(least).all() and np.isposinf(most).all() else found


def _flat(name: str, bound: PyTree, trainable: PyTree) -> Float[Array, " K"]:
    def spread(value: Any, part: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: jnp.broadcast_to(jnp.asarray(value, leaf.dtype), leaf.shape), part)

    try:
        return ravel_pytree(jax.tree.map(spread, bound, trainable))[0]
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"`{name}` of the bounds must be a number, or a pytree prefix of the parameters: {error}"
        ) from error
