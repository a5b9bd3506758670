"""Anderson acceleration of the corrections of a step."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxgeo.linalg.tangents import norm

# Give up unless so many corrections halve what remains to be corrected. Sequences that converge do so from the start.
PATIENCE = 4
# Added to products of changes of length 1, times eps, so that almost equal changes do not amplify round-off.
RIDGE = 5e5


class Memory(NamedTuple):
    """What earlier corrections of a step led to; `count` of them are known.

    - `ends`: the steps with their corrections added.
    - `moves`: D times the corrections, in the form of a vector.
    """

    count: Int[Array, ""]
    ends: Float[Array, "most K"]
    moves: Float[Array, "most rows"]


class _Course(NamedTuple):
    """A step under correction: the next one to evaluate, the best so far and its number of corrections.

    `lowest` is the smallest size of D times a correction up to each evaluation; 0 for those to come.
    """

    step: PyTree
    memory: Memory
    best: PyTree
    arrival: PyTree
    cost: Float[Array, ""]
    corrections: Int[Array, ""]
    lowest: Float[Array, " evaluations"]


class Corrected(NamedTuple):
    """The step of lowest cost among those evaluated, where it arrives, and how many corrections it contains."""

    step: PyTree
    arrival: PyTree
    corrections: Int[Array, ""]


class Accelerated(eqx.Module):
    """Corrections by a lift, combined so that the corrections that remain, linearly extrapolated, are smallest.

    A correction lifts what is missing at the end of a step, as in Newton's method with an old D. The corrections
    converge only if D hardly changes along the step. Combined with those before them, they act like corrections through
    a D that has learnt from all evaluations, and converge along steps several times as long.

    Reference: H. F. Walker, P. Ni, Anderson acceleration for fixed-point iterations, SIAM Journal on
        Numerical Analysis 49, 2011

    **Arguments:**

    - `correct`: lifts missing rows to a correction; a module, since it is differentiated as a whole.
    - `move`: D times a step.
    """

    correct: Callable[[Float[Array, "rows R"]], PyTree]
    move: Callable[[PyTree], Float[Array, "rows R"]]

    def forget(self, step: PyTree, rows: int, most: int) -> Memory:
        """An empty memory for `most` corrections."""
        flat = ravel_pytree(step)[0]
        ends, moves = (jnp.zeros((most, size), flat.dtype) for size in (flat.size, rows))
        return Memory(jnp.zeros((), jnp.int32), ends, moves)

    def next_step(
        self, step: PyTree, missing: Float[Array, "rows R"], memory: Memory
    ) -> tuple[PyTree, Memory, Float[Array, ""]]:
        """The step to evaluate next, the memory with this correction, and the size of D times this correction."""
        correction = self.correct(missing)
        flat, unravel = ravel_pytree(step)
        end = flat + ravel_pytree(correction)[0]
        move = self.move(correction).reshape(-1).astype(end.dtype)
        known = jnp.arange(len(memory.ends), dtype=jnp.int32) < memory.count
        changes = jnp.where(known[:, None], move[None] - memory.moves, 0)
        squares = jnp.sum(changes**2, axis=1)
        usable = squares > 0
        scale = jnp.where(usable, 1 / jnp.sqrt(jnp.where(usable, squares, 1)), 0)
        unit = changes * scale[:, None]
        ridge = jnp.where(usable, RIDGE * float(jnp.finfo(end.dtype).eps), 1)
        highest = jax.lax.Precision.HIGHEST
        products = jnp.matmul(unit, unit.T, precision=highest) + jnp.diag(ridge.astype(end.dtype))
        weights = scale * jnp.linalg.solve(products, jnp.matmul(unit, move, precision=highest))
        following = end - jnp.matmul(weights, jnp.where(known[:, None], end[None] - memory.ends, 0), precision=highest)
        place = jnp.minimum(memory.count, len(memory.ends) - 1)
        memory = Memory(memory.count + 1, memory.ends.at[place].set(end), memory.moves.at[place].set(move))
        return unravel(following), memory, norm(move)

    def run(
        self,
        start: PyTree,
        measure: Callable[[PyTree], tuple[PyTree, Float[Array, "rows R"], Float[Array, ""]]],
        most: int | Int[Array, ""],
        size: int,
        enough: Float[Array, ""],
    ) -> Corrected:
        """Correct a step at most `most` ≤ `size` times, while D times a correction is larger than `enough`.

        **Arguments:**

        - `measure`: maps a step to where it arrives, the rows that are missing there, and the cost.
        """

        def go_on(course: _Course) -> Bool[Array, ""]:
            used, lowest = course.memory.count, course.lowest
            before = jnp.where(used > PATIENCE, lowest[jnp.maximum(used - 1 - PATIENCE, 0)], jnp.inf)
            last = lowest[jnp.maximum(used - 1, 0)]
            return (used == 0) | (used <= most) & (last > enough) & (last < before / 2)

        def advance(course: _Course) -> _Course:
            arrival, missing, cost = measure(course.step)
            used = course.memory.count
            better = (used == 0) | (cost < course.cost)
            found = course.step, arrival, cost, used
            last = course.best, course.arrival, course.cost, course.corrections
            best, arrival, cost, corrections = jax.tree.map(lambda new, old: jnp.where(better, new, old), found, last)
            following, memory, length = self.next_step(course.step, missing, course.memory)
            length = jnp.where(used > 0, jnp.minimum(length, course.lowest[jnp.maximum(used - 1, 0)]), length)
            lowest = course.lowest.at[used].set(length)
            return _Course(following, memory, best, arrival, cost, corrections, lowest)

        shapes = eqx.filter_eval_shape(measure, start)
        arrival, _, cost = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        rows = shapes[1].size
        memory = self.forget(start, rows, size)
        blank = _Course(
            start, memory, start, arrival, cost, jnp.zeros((), jnp.int32), jnp.zeros(size + 1, memory.moves.dtype)
        )
        end = jax.lax.while_loop(go_on, advance, blank)
        return Corrected(end.best, end.arrival, end.corrections)
