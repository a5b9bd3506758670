"""Several starting points for `curve_fit`."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxgeo._checks import as_real, check_count
from jaxgeo.optim import Bounds
from jaxgeo.outputs import Params
from jaxgeo.problem import Problem


def read_starts(starts: Any, problem: Problem, params: Params, bounds: Bounds | None) -> list[Params]:
    """More initial parameters: those of a list, or a given number drawn uniformly between the bounds.

    **Raises:** `ValueError` if a number is given without finite bounds, or if a start does not have the structure of
    `p0` or is not within the bounds.
    """
    trainable, frozen = problem.partition(params)
    flat, unravel = ravel_pytree(trainable)
    low, high = (flat - jnp.inf, flat + jnp.inf) if bounds is None else bounds.flat(trainable)
    if not isinstance(starts, list | tuple | np.ndarray | jax.Array):
        check_count("starts", starts)
        if not bool(jnp.all(jnp.isfinite(high - low))):
            raise ValueError("to draw a number of `starts`, `bounds` must be finite; or pass a list of starts.")
        drawn = np.random.default_rng(0).uniform(np.asarray(low), np.asarray(high), (starts, flat.size))
        return [eqx.combine(unravel(jnp.asarray(row, flat.dtype)), frozen) for row in drawn]

    def read(index: int, start: Any) -> Params:
        name = f"starts[{index}]"
        if eqx.is_array(params) and isinstance(start, list | tuple):
            start = np.asarray(start, float)
        if jax.tree.structure(start) != jax.tree.structure(params):
            raise ValueError(f"`{name}` must have the structure of `p0`; got {start!r}.")
        made = jax.tree.map(lambda like, leaf: _like(name, like, leaf), params, start)
        values = ravel_pytree(problem.partition(made)[0])[0]
        if not bool(jnp.all((values >= low) & (values <= high))):
            raise ValueError(f"`{name}` must be within `bounds`; got {start!r}.")
        return made

    return [read(index, start) for index, start in enumerate(starts)]


def _like(name: str, like: Any, leaf: Any) -> Any:
    if not eqx.is_array(like):
        return like
    array = as_real(name, leaf).astype(like.dtype)
    if array.shape != like.shape:
        raise ValueError(
            f"`{name}` must have the structure of `p0`; an array has shape {array.shape} instead of {like.shape}."
        )
    return array
