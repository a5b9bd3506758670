"""Iterative refinement: lift the remaining defect, as long as it shrinks."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxgeo.linalg.precision import rescue_if


class Refined(NamedTuple):
    """A refined value, and what was measured on the way.

    - `value`, `defect`, `size`: those of the best round.
    - `corrections`: how many corrections the value contains: the first ones, because the loop ends with a bad one.
    - `first`: what the first round noted.
    """

    value: PyTree
    defect: PyTree
    size: Float[Array, ""]
    corrections: Int[Array, ""]
    first: PyTree


class _Iterate(NamedTuple):
    """What is known before a round; `before` is the size one round earlier."""

    round: Int[Array, ""]
    found: Refined
    before: Float[Array, ""]


def refined(
    value: PyTree,
    correct: Callable[[PyTree], PyTree],
    measure: Callable[[PyTree], tuple[PyTree, Float[Array, ""], PyTree]],
    most: int | Int[Array, ""],
    floor: float | Float[Array, ""] = 0.0,
    *,
    defect: PyTree | None = None,
) -> Refined:
    """The value, with corrections added while the size of its defect is above `floor` and halves, at most `most` times.

    There is no reverse mode, because the number of rounds is not known in advance. The first round is part of the loop,
    so `correct` and `measure`, most of what a lift compiles, are compiled only once.

    **Arguments:**

    - `value`: where to start.
    - `correct`: a function from a defect to what to add to the value; must be a module unless `defect` is given.
    - `measure`: a function from a value to its defect, the size of the defect, and what else to note.
    - `defect`: the defect of `value` if it is known. The first round then applies its correction, which is not counted;
        otherwise the first round measures `value` as it is.
    """
    known = defect is not None

    def step(now: _Iterate) -> _Iterate:
        first, found = now.round == 0, now.found
        given = found.value, found.defect, correct
        value = _corrected(*given) if known else rescue_if(~first, _corrected, *given)
        defect, size, note = measure(value)
        better = first | (size < found.size)
        note = jax.tree.map(lambda new, old: jnp.where(first, new, old), note, found.first)
        new = Refined(value, defect, size, zero, note)
        kept = jax.tree.map(lambda new, old: jnp.where(better, new, old), new, found._replace(first=note))
        # Before the first round the size is infinite.
        return _Iterate(now.round + 1, kept, found.size)

    def go_on(now: _Iterate) -> Bool[Array, ""]:
        size = now.found.size
        return (now.round == 0) | ((now.round <= most) & (size > floor) & (size < now.before / 2))

    zero = jnp.zeros((), jnp.int32)
    if isinstance(most, int) and most == 0:
        value = _corrected(value, defect, correct) if known else value
        defect, size, note = measure(value)
        return Refined(value, defect, size, zero, note)
    blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), eqx.filter_eval_shape(measure, value))
    start = Refined(value, defect if known else blank[0], jnp.full_like(blank[1], jnp.inf), zero, blank[2])
    start = _Iterate(zero, start, jnp.full_like(blank[1], jnp.inf))
    end = jax.lax.while_loop(go_on, step, start)
    # Only the last round can be a bad one; the first makes no correction.
    good = end.found.size < end.before
    return end.found._replace(corrections=jnp.maximum(end.round - 2 + good.astype(jnp.int32), 0))


def _corrected(value: PyTree, defect: PyTree, correct: Callable[[PyTree], PyTree]) -> PyTree:
    return jax.tree.map(jnp.add, value, correct(defect))


def accumulated_eps(count: int, dtype: jnp.dtype) -> float:
    """Relative round-off accumulated over `count` numbers, √count·eps, but at least 4·eps."""
    return max(count**0.5, 4.0) * float(jnp.finfo(dtype).eps)
