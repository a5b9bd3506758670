"""Iterative refinement: lifts of what is still missing, as long as that gets less."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree


class _Iterate(NamedTuple):
    """A value, its defect, and the size of that, now and before; corrections that were tried, and that are in it."""

    count: Int[Array, ""]
    made: Int[Array, ""]
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
) -> tuple[PyTree, Int[Array, ""]]:
    """The value, with corrections added while the size of its defect is above `floor` and halves, at most `most` times.

    Has no reverse mode, as it does not know beforehand how long it goes on.

    **Arguments:**

    - `correct`: of a defect, what to add to the value, of the same structure.
    - `measure`: the defect of a value, and its size.

    **Returns:** the value, and how many corrections are in it: the first ones, as the loop ends with one that is not.
    """

    def go_on(now: _Iterate) -> Array:
        return (now.count < most) & (now.size > floor) & (now.size < now.before / 2)

    def step(now: _Iterate) -> _Iterate:
        value = jax.tree.map(jnp.add, now.value, correct(now.defect))
        defect, size = measure(value)
        new = _Iterate(now.count + 1, now.made + 1, value, defect, size, now.size)
        kept = now._replace(count=new.count, before=now.size)
        return jax.tree.map(lambda new, kept: jnp.where(size < now.size, new, kept), new, kept)

    zero = jnp.zeros((), jnp.int32)
    if isinstance(most, int) and most == 0:
        return value, zero
    defect, size = measure(value)
    end = jax.lax.while_loop(go_on, step, _Iterate(zero, zero, value, defect, size, jnp.full_like(size, jnp.inf)))
    return end.value, end.made


def accumulated_eps(count: int, dtype: jnp.dtype) -> float:
    """Relative round-off as it adds up over `count` numbers, √count·eps, but at least 4·eps."""
    return max(count**0.5, 4.0) * float(jnp.finfo(dtype).eps)
