"""Iterative refinement: lifts of what is still missing, as long as that gets less."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree


class _Iterate(NamedTuple):
    """A value, its defect, and the size of that, now and before."""

    count: Int[Array, ""]
    value: PyTree
    defect: Float[Array, "..."]
    size: Float[Array, ""]
    before: Float[Array, ""]


def refined(
    value: PyTree,
    correct: Callable[[Float[Array, "..."]], PyTree],
    measure: Callable[[PyTree], tuple[Float[Array, "..."], Float[Array, ""]]],
    most: int | Int[Array, ""],
    floor: float | Float[Array, ""] = 0.0,
) -> PyTree:
    """The value, with corrections added while the size of its defect is above `floor` and halves, at most `most` times.

    **Arguments:**

    - `correct`: of a defect, what to add to the value, of the same structure.
    - `measure`: the defect of a value, and its size.
    """

    def go_on(now: _Iterate) -> Array:
        return (now.count < most) & (now.size > floor) & (now.size < now.before / 2)

    def step(now: _Iterate) -> _Iterate:
        value = jax.tree.map(jnp.add, now.value, correct(now.defect))
        defect, size = measure(value)
        new = _Iterate(now.count + 1, value, defect, size, now.size)
        kept = now._replace(count=new.count, before=now.size)
        return jax.tree.map(lambda new, kept: jnp.where(size < now.size, new, kept), new, kept)

    if isinstance(most, int) and most == 0:
        return value
    defect, size = measure(value)
    start = _Iterate(jnp.zeros((), jnp.int32), value, defect, size, jnp.full_like(size, jnp.inf))
    return jax.lax.while_loop(go_on, step, start).value


def accumulated_eps(count: int, dtype: jnp.dtype) -> float:
    """Relative round-off as it adds up over `count` numbers, √count·eps, but at least 4·eps."""
    return max(count**0.5, 4.0) * float(jnp.finfo(dtype).eps)
