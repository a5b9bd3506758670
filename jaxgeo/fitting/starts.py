"""Run an optimizer from several starts at once, and keep the best."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxgeo.fitting.drivers import Part, Record, Row, State, measure, strong, update_on
from jaxgeo.optim.endings import Ending, Outcome, Start
from jaxgeo.outputs import Params
from jaxgeo.problem import Problem


class Several(NamedTuple):
    """All starts, stacked along the leading axis.

    - `params`, `method`: parameters and states of the optimizer. `costs`: C of each, infinite if it is not finite.
    - `endings`: an `Ending` each, 0 if the start continues or reached the tolerance. `steps`: number of updates.
    """

    params: Params
    method: PyTree
    costs: Float[Array, " starts"]
    endings: Int[Array, " starts"]
    steps: Int[Array, " starts"]


class StartsDriver:
    """Makes updates from all starts in one program, until one reaches the cost `cost_tol` or all have ended.

    The run returns, and validates, the parameters with the lowest cost so far.
    """

    def __init__(
        self,
        problem: Problem,
        optimizer: optax.GradientTransformation,
        starts: Sequence[Params],
        *,
        cost_tol: float,
        record: Record | None,
        every: int,
    ):
        self.problem, self.cost_tol, self.record, self.every = problem, cost_tol, record, every
        self.optimizer = optax.with_extra_args_support(optimizer)
        self.starts = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)

    def start(self, params: Params) -> State:
        """The state before the first part; only the structure of `params` matters."""
        del params
        costs = _costs(self.problem, self.starts)
        method = strong(eqx.filter_vmap(self.optimizer.init)(self.starts))
        none = jnp.zeros(costs.shape, jnp.int32)
        several = Several(self.starts, method, costs, none, jnp.copy(none))
        return State(_best(several), np.zeros((), np.int64), np.zeros(()), several)

    def advance(self, state: State, most: int) -> Part:
        """Make `every` updates of each unfinished start, or fewer up to the next multiple of `every` or `most`."""
        first = int(state.steps)
        count = min(self.every - first % self.every, most - first)
        rows = [self._row(state)] if first == 0 else []
        cost_tol, updates = jnp.asarray(self.cost_tol), jnp.asarray(count, jnp.int32)
        several = _updated(self.optimizer, self.problem, state.method, cost_tol, updates)
        after = State(_best(several), np.asarray(first + count), state.s, several)
        row = self._row(after)
        best = int(np.argmin(np.asarray(several.costs)))
        ending = Ending(int(several.endings[best]))
        outcome, message = None, ""
        if row["cost"] <= self.cost_tol:
            outcome = Outcome.REACHED
        elif not bool(np.any(np.asarray(_go_on(several, self.cost_tol)))):
            outcome, message = ending.outcome, ending.words
        elif first + count >= most:
            outcome = Outcome.MAX_STEPS
        return Part(after, [*rows, row], outcome, message)

    def _row(self, state: State) -> Row:
        cost, scores = measure(self.record, self.problem, state.params)
        return {"step": int(state.steps), "cost": float(cost), **{name: float(x) for name, x in scores.items()}}


def told(method: PyTree, cost_tol: float) -> tuple[Start, ...]:
    """The result of each start, from the state of a `StartsDriver`; empty for other states."""
    if not isinstance(method, Several):
        return ()
    found = []
    for cost, code, steps in zip(*map(np.asarray, (method.costs, method.endings, method.steps)), strict=True):
        ending, reached = Ending(int(code)), cost <= cost_tol
        outcome = Outcome.REACHED if reached else ending.outcome
        found.append(Start(float(cost), outcome, "" if reached else ending.words, int(steps)))
    return tuple(found)


def chosen(method: PyTree) -> PyTree:
    """The state of the optimizer at the best of several starts; `method` itself if there is only one."""
    if not isinstance(method, Several):
        return method
    best = jnp.argmin(method.costs)
    return jax.tree.map(lambda leaf: leaf[best], method.method)


def _best(several: Several) -> Params:
    best = jnp.argmin(several.costs)
    return jax.tree.map(lambda leaf: leaf[best], several.params)


def _go_on(several: Several, cost_tol: Any) -> Bool[Array, " starts"]:
    return (several.endings == 0) & (several.costs > cost_tol)


@eqx.filter_jit
def _costs(problem: Problem, starts: Params) -> Float[Array, " starts"]:
    costs = jax.vmap(problem.cost)(starts)
    return jnp.where(jnp.isfinite(costs), costs, jnp.inf)


@eqx.filter_jit
def _updated(
    optimizer: Any, problem: Problem, several: Several, cost_tol: Float[Array, ""], count: Int[Array, ""]
) -> Several:
    """After up to `count` updates."""

    def of_one(params: Params, method: PyTree, steps: Array) -> Several:
        params, method = update_on(optimizer, problem, params, method, same=True)
        cost, found = problem.cost(params), optax.tree.get_all_with_path(method, "ending")
        endings = [value for _, value in found if eqx.is_array(value)]
        ending = endings[0].astype(jnp.int32) if endings else jnp.zeros((), jnp.int32)
        finite = jnp.isfinite(cost)
        failed = jnp.int32(Ending.FAILED)
        ending = jnp.where(finite, ending, failed)
        return Several(params, method, jnp.where(finite, cost, jnp.inf), ending, steps + 1)

    def update(carry: tuple[Int[Array, ""], Several]) -> tuple[Int[Array, ""], Several]:
        done, several = carry
        moved = jax.vmap(of_one)(several.params, several.method, several.steps)
        goes_on = _go_on(several, cost_tol)

        def chosen(new: Array, old: Array) -> Array:
            return jnp.where(goes_on.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        return done + 1, jax.tree.map(chosen, moved, several)

    def more(carry: tuple[Int[Array, ""], Several]) -> Bool[Array, ""]:
        done, several = carry
        return (done < count) & jnp.any(_go_on(several, cost_tol)) & jnp.all(several.costs > cost_tol)

    return jax.lax.while_loop(more, update, (jnp.zeros((), jnp.int32), several))[1]
