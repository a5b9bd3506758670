"""An optimizer on the conditions of a differential equation: a warm-up by Adam, and points that are redrawn."""

from dataclasses import dataclass
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, PyTree

from jaxgeo.fitting.batches import AbstractBatches
from jaxgeo.fitting.collocation import Collocation, Samples, find_fault
from jaxgeo.fitting.drivers import (
    Part,
    Record,
    Row,
    State,
    ending_of,
    lift_facts,
    measure,
    run_updates,
    strong,
    warn_of_contradictions,
)
from jaxgeo.optim.endings import Outcome
from jaxgeo.outputs import Params
from jaxgeo.problem import Problem

# The network interpolates its points if the held-out cost is more than this many times the cost at the points.
APART = 2.0
# Initial learning rate of Adam in the warm-up; it falls to 0 along a cosine.
RATE = 3e-3
# Updates of Adam in a part of the warm-up.
PART = 500


@dataclass(frozen=True)
class Renewal:
    """How and when points are drawn.

    - `kind`: "residual", "uniform" or "fixed".
    - `every`: updates between redraws; None to redraw when the held-out cost exceeds the cost at the points.
    """

    kind: str
    every: int | None


class CourseState(NamedTuple):
    """The state of a run besides its parameters.

    - `first`, `method`: states of Adam and of the optimizer; they are kept when points are redrawn.
    - `samples`: the training points. `drawn`, `since`: how often they were redrawn, and the update of the last redraw.
    - `apart`: whether the held-out cost exceeds the cost at the points by `APART`.
    """

    first: PyTree
    method: PyTree
    samples: Samples
    drawn: np.ndarray
    since: np.ndarray
    apart: np.ndarray


class CourseDriver:
    """Makes updates of an optax transformation on the points of conditions, `every` updates in a part.

    **Arguments:**

    - `held_out`: the problem at the held-out points.
    - `warmup`: number of first updates by Adam, each on fresh points; a part has 500 of them.
    """

    def __init__(
        self,
        collocation: Collocation,
        held_out: Problem,
        samples: Samples,
        optimizer: optax.GradientTransformation,
        *,
        cost_tol: float,
        record: Record | None,
        every: int,
        warmup: int,
        renewal: Renewal,
        seed: int,
    ):
        self.collocation, self.held_out, self.samples = collocation, held_out, samples
        self.optimizer = optax.with_extra_args_support(optimizer)
        self.adam = optax.with_extra_args_support(optax.adam(optax.cosine_decay_schedule(RATE, max(warmup, 1))))
        self.cost_tol, self.record, self.every, self.warmup = cost_tol, record, every, warmup
        self.renewal, self.key = renewal, jax.random.key(seed)

    def start(self, params: Params) -> State:
        """The state before the first part."""
        first = strong(self.adam.init(params)) if self.warmup else ()
        zero = np.zeros((), np.int64)
        course = CourseState(first, strong(self.optimizer.init(params)), self.samples, zero, zero, np.asarray(False))
        return State(params, zero, np.zeros(()), course)

    def advance(self, state: State, most: int) -> Part:
        """Updates up to the next row, all by Adam or all by the optimizer."""
        step, course = int(state.steps), state.method
        before = [self._row(state)] if step == 0 else []
        if step < self.warmup:
            count = min(PART - step % PART, self.warmup - step)
            order = jnp.arange(step, step + PART, dtype=jnp.int32)
            fresh = _Fresh(self.collocation, self.key)
            # optax's Adam mixes dtypes, even under strict promotion.
            with jax.numpy_dtype_promotion("standard"):
                params, first = run_updates(
                    self.adam, fresh, state.params, course.first, order, jnp.asarray(count, jnp.int32)
                )
            course = course._replace(first=first)
        else:
            past = step - self.warmup
            count = min(self.every - past % self.every, most - step)
            if self._is_due(step, course):
                course = self._renew(state, course)
            same = _Same(self.collocation.problem(course.samples))
            params, method = run_updates(
                self.optimizer, same, state.params, course.method, None, jnp.asarray(count, jnp.int32)
            )
            warn_of_contradictions(method)
            course = course._replace(method=method)
        after = State(params, np.asarray(step + count), state.s, course)
        row = self._row(after)
        cost, elsewhere = row["cost"], row["validation_cost"]
        after = after._replace(method=course._replace(apart=np.asarray(elsewhere > APART * cost)))
        outcome, message = None, ""
        if not np.isfinite(cost):
            fault = find_fault(self.collocation, params, course.samples)
            outcome, message = Outcome.FAILED, f"the cost is no longer finite: {fault or 'a sum overflows'}"
        elif max(cost, elsewhere) <= self.cost_tol:
            outcome = Outcome.REACHED
        elif self.renewal.kind == "fixed" and step >= self.warmup and (ending := ending_of(course.method)).outcome:
            outcome, message = ending.outcome, ending.words
        elif step + count >= most:
            outcome = Outcome.MAX_STEPS
        return Part(after, [*before, row], outcome, message)

    def _is_due(self, step: int, course: CourseState) -> bool:
        """Whether to redraw points before the next update."""
        if self.renewal.kind == "fixed":
            return False
        # The warm-up did not use the points that were drawn before it.
        if step == self.warmup:
            return step > 0 and self.renewal.kind == "residual"
        past = step - int(course.since)
        return bool(course.apart) if self.renewal.every is None else past >= self.renewal.every

    def _renew(self, state: State, course: CourseState) -> CourseState:
        drawn = int(course.drawn) + 1
        key = jax.random.fold_in(jax.random.fold_in(self.key, 1), drawn)
        samples = _draw(self.collocation, self.renewal.kind, state.params, key)
        # A line search reuses the value of its predecessor, which belongs to the old points.
        method = course.method
        if (value := optax.tree.get(method, "value")) is not None:
            method = optax.tree.set(method, value=jnp.full_like(value, jnp.inf))
        return course._replace(method=method, samples=samples, drawn=np.asarray(drawn), since=state.steps)

    def _row(self, state: State) -> Row:
        course = state.method
        cost, scores = measure(self.record, self.collocation.problem(course.samples), state.params)
        found = {name: float(value) for name, value in scores.items()}
        facts = lift_facts(course.method) if int(state.steps) > self.warmup else {}
        elsewhere = float(self.held_out.cost(state.params))
        row: Row = {"step": int(state.steps), "cost": float(cost), "validation_cost": elsewhere}
        return {**row, "drawn": int(course.drawn), **found, **facts}


class _Same(AbstractBatches):
    """The same points at every update."""

    problem: Problem

    def take(self, index: None, params: Params) -> Problem:
        del index, params
        return self.problem


class _Fresh(AbstractBatches):
    """New points at every update, determined by its number."""

    collocation: Collocation
    key: Array

    def take(self, index: Int[Array, ""], params: Params) -> Problem:
        del params
        return self.collocation.problem(self.collocation.draw_some(jax.random.fold_in(self.key, index)))


@eqx.filter_jit
def _draw(collocation: Collocation, kind: str, params: Params, key: Array) -> Samples:
    return collocation.draw_by_residual(params, key) if kind == "residual" else collocation.draw(key)
