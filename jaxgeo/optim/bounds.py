"""Bounds of parameters: which of them hold a step back, and where it has to end."""

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

    A step is made of the parameters that no bound holds, and cut off at the bounds. So at a minimum inside them the
    last steps are those without bounds.

    Reference: D. P. Bertsekas, Projected Newton methods for optimization problems with simple constraints, SIAM J.
    Control and Optimization 20, 1982

    **Arguments:**

    - `low`, `high`: numbers, or pytrees shaped like the parameters or their upper part, of numbers or arrays; −∞ and ∞
        for none.

    **Raises:** `ValueError` if one holds NaN.
    """

    low: PyTree
    high: PyTree

    def __init__(self, low: PyTree, high: PyTree):
        self.low, self.high = low, high
        for name, tree in (("low", low), ("high", high)):
            if is_concrete(tree) and any(np.isnan(np.asarray(leaf, float)).any() for leaf in jax.tree.leaves(tree)):
                raise ValueError(f"`bounds` must be numbers, infinite for none; `{name}` has NaN: {tree!r}.")

    def flat(self, trainable: PyTree) -> tuple[Float[Array, " K"], Float[Array, " K"]]:
        """Both for each trainable number.

        **Raises:** `ValueError` if they do not fit the parameters.
        """
        return _flat("low", self.low, trainable), _flat("high", self.high, trainable)

    def held(self, trainable: PyTree, slopes: Float[Array, " K"]) -> Bool[Array, " K"]:
        """Which parameters are at a bound over which descent would take them; `slopes` are those of the cost."""
        at_low, at_high = self.reached(trainable)
        return (at_low & (slopes >= 0)) | (at_high & (slopes <= 0))

    def reached(self, trainable: PyTree) -> tuple[Bool[Array, " K"], Bool[Array, " K"]]:
        """Which parameters are at the lower, and which at the upper bound, up to round-off."""
        low, high = self.flat(trainable)
        flat = ravel_pytree(trainable)[0]
        slack = 8 * jnp.finfo(flat.dtype).eps * jnp.abs(flat)
        return flat - low <= slack, high - flat <= slack

    def cut(self, trainable: PyTree, step: PyTree) -> PyTree:
        """The step as far as θ + step is within the bounds."""
        low, high = self.flat(trainable)
        flat, unravel = ravel_pytree(step)
        here = ravel_pytree(trainable)[0]
        cut = jnp.clip(flat, low - here, high - here)
        # The sum may round to beyond the bound.
        still, there = freeze((cut, here + cut))
        back = jnp.where(there > high, jnp.nextafter(still, jnp.full_like(still, -jnp.inf)), still)
        back = jnp.where(there < low, jnp.nextafter(still, jnp.full_like(still, jnp.inf)), back)
        return unravel(cut + (back - still))


def read_bounds(bounds: Any, trainable: PyTree, names: list[str], start: str) -> Bounds | None:
    """The bounds that are meant by a pair, None where all are infinite.

    **Arguments:**

    - `names`: of the trainable numbers. `start`: what the argument with the parameters is called.

    **Raises:** `ValueError` unless they are a pair that fits the parameters, which are within it.
    """
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise ValueError(f"`bounds` must be a pair (low, high); got {bounds!r}.")
    found = Bounds(*bounds)
    least, most = map(np.asarray, found.flat(trainable))
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(trainable)])
    for name, value, lower, upper in zip(names, flat, least, most, strict=True):
        if not lower <= value <= upper:
            raise ValueError(
                f"`{start}` must be within `bounds`; the entry {name} is {value}, and not in [{lower}, {upper}]."
            )
    return None if np.isneginf(least).all() and np.isposinf(most).all() else found


def _flat(name: str, bound: PyTree, trainable: PyTree) -> Float[Array, " K"]:
    def spread(value: Any, part: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: jnp.broadcast_to(jnp.asarray(value, leaf.dtype), leaf.shape), part)

    try:
        return ravel_pytree(jax.tree.map(spread, bound, trainable))[0]
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"`{name}` of the bounds must be a number, or shaped like the parameters or their upper part: {error}"
        ) from error
