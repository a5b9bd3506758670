"""Every step of an integration compared with what the flow promises: where the orbit leaves its law, or D its rank."""

from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxgeo import theory
from jaxgeo.integrate.corrector import Start
from jaxgeo.integrate.field import Measured, trainable_of
from jaxgeo.integrate.solution import RESULTS
from jaxgeo.integrate.wrapped import AbstractSolverAround
from jaxgeo.linalg.tangents import freeze
from jaxgeo.problem import Problem

Time = Any

# By how many times its tolerance the outputs may miss their law in a step, since the error that a controller sees is an
# estimate and off a kink of the network a poor one; and by how many times in all, at the start and for each N more.
STEP, TOTAL = 10.0, 20.0
# So many steps in a row that miss their aim by more than this share of the way, and by more than so many times rtol. A
# kink of the network spoils one. By a quarter where the tolerance of the outputs is not known, and by all of it where
# the size of the steps is given.
RUN, SHARE = 10, 0.02
# The error of θ in a step, as it is estimated, over the length of the step, where θ runs away.
ROUGH = 1e-2
# Round-off of the outputs is estimated within some factor.
NOISE = 30.0


class Watched(eqx.Module):
    """What is known of an orbit after a step.

    - `start`: where it started. `outputs`: x after the last accepted step.
    - `round_off`: what that of all steps allows of |x − x_exact| / |x_exact − y|.
    - `misses`, `missed_since`: accepted steps in a row that missed their aim, and where they began.
    - `left_law_at`, `rank_lost_at`: flow times, infinity for never.
    - `speed`: the lowest of |Δθ| / |x − y| over Δs/N so far.
    - `turned_at`: where the outputs last turned back within a step; −infinity for nowhere.
    - `way_on`: by how much θ has moved since then, until a hundredth of N later. None where an orbit ends there.
    """

    start: Start
    outputs: Float[Array, "N Q"]
    round_off: Float[Array, ""]
    misses: Int[Array, ""]
    missed_since: Float[Array, ""]
    left_law_at: Float[Array, ""]
    rank_lost_at: Float[Array, ""]
    speed: Float[Array, ""]
    turned_at: Float[Array, ""]
    way_on: PyTree

    @property
    def continuation(self) -> PyTree:
        """The direction of `way_on`."""
        length = optx.two_norm(self.way_on)
        return jax.tree.map(lambda leaf: leaf / jnp.where(length > 0, length, 1).astype(leaf.dtype), self.way_on)

    def judge(self, result: RESULTS, strict: bool) -> RESULTS:
        """How an integration ended, `result` being what the rest of it says."""
        if not strict:
            return result
        left, lost = jnp.isfinite(self.left_law_at), jnp.isfinite(self.rank_lost_at)
        fine: Any = (
            (result == RESULTS.successful)
            | (result == RESULTS.event_occurred)
            | (result == RESULTS.cost_tol_not_reached)
            | (result == RESULTS.max_steps_reached)
        )
        left_law: Any = RESULTS.left_law
        rank_lost: Any = RESULTS.rank_lost
        result = RESULTS.where(fine & left, left_law, result)
        return RESULTS.where(lost, rank_lost, result)


class Watch(AbstractSolverAround):
    """A diffrax solver that compares the outputs after each of its steps with those that the flow promises.

    Paper: (2.6), (2.7), (4.3)

    Where singular values of D go to zero the velocity grows beyond bounds, and the orbit of a flow that needs the rank
    may end: as that of x = θ₁θ₂, y = 1, from (1, −1) does in D = 0. An ODE solver steps over such a place, since
    the error that it estimates is taken through D, which is nearly zero there. Two things are seen without a lift:

    - The outputs turn back. With Δθ and Δx of a step, Δx ≈ (D₀ + D₁)Δθ/2, and the two terms have opposite directions
      where |D₁Δθ|² > 2 Δx·D₁Δθ. A smooth orbit that moves its outputs does not do this in a step that is short enough.
    - The outputs miss their law, x(t₁) = y + e^{-(t₁−t₀)/N}(x(t₀) − y), where there is one.

    Such a step is made again with a shorter one, by an error estimate that is infinite, until it is resolved. Where the
    shortest step still turns, or steps in a row miss a quarter of the way, D does not reach where the flow has to go:
    the integration ends, and `rank_lost_at` says where. Small misses that add up to more than the tolerances of all
    steps allow are written down as `left_law_at`, and the integration goes on.

    The cost of a step is a JVP with two tangents, where a step of six stages takes six lifts.

    **Arguments:**

    - `solver`: the ODE solver.
    - `frozen`: the leaves of params that are not integrated, None elsewhere.
    - `law`: whether the outputs follow (2.7) while D has full rank.
    - `strict`: whether the orbit ends where D loses rank. A flow that makes no demand of the rank goes on.
    - `adaptive`: whether a step is made again where its error estimate is too large.
    - `tolerances`: rtol and atol of the outputs in a step; None if they are not known.
    """

    solver: dfx.AbstractSolver
    frozen: PyTree
    law: bool = eqx.field(static=True)
    strict: bool = eqx.field(static=True)
    adaptive: bool = eqx.field(static=True)
    tolerances: tuple[Any, Any] | None

    @property
    def interpolation_cls(self):
        return self.solver.interpolation_cls

    def init(self, terms, t0, t1, y0, args):
        return self.solver.init(terms, t0, t1, y0, args), self.begin(t0, y0, args)

    def begin(self, s: Time, state: PyTree, problem: Problem) -> Watched:
        """Nothing seen yet."""
        trainable, problem = freeze((trainable_of(state), problem))
        outputs = problem.outputs(eqx.combine(trainable, self.frozen))
        s, zero = jnp.asarray(s), jnp.zeros((), outputs.dtype)
        never = jnp.full((), jnp.inf, s.dtype)
        return Watched(
            start=Start(s.astype(outputs.dtype), problem.loss.deviation(outputs)),
            outputs=outputs,
            round_off=zero,
            misses=jnp.zeros((), jnp.int32),
            missed_since=never,
            left_law_at=never,
            rank_lost_at=never,
            speed=jnp.full((), jnp.inf, outputs.dtype),
            turned_at=-never,
            way_on=None if self.strict else jax.tree.map(jnp.zeros_like, trainable),
        )

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        state, before = solver_state
        y1, error, dense_info, state, result = self.solver.step(terms, t0, t1, y0, args, state, made_jump)
        after, again = self.look(before, t0, t1, y0, y1, error, args)
        if self.adaptive and error is not None:
            error = jax.tree.map(lambda leaf: jnp.where(again, jnp.inf, leaf), error)
        if not self.strict:
            y1 = self._nudged(y0, y1, after.turned_at == t0)
        if self.strict:
            # diffrax ends at a step that is accepted and not successful; `solve_flow` has the right word for it.
            lost: Any = dfx.RESULTS.internal_error
            result = dfx.RESULTS.where(jnp.isfinite(after.rank_lost_at), lost, result)
        return y1, error, dense_info, (state, after), result

    def _nudged(self, before: PyTree, state: PyTree, turned: Bool[Array, ""]) -> PyTree:
        """`state`, where the outputs turned back moved by half the digits of the step in a random direction.

        At D = 0 all continuations are as good. An orbit that comes there by a symmetry of the network would keep it
        and stay, if no round-off broke it.
        """
        trainable = trainable_of(state)
        length = optx.two_norm(jax.tree.map(jnp.subtract, trainable, trainable_of(before)))

        def nudge(leaf: Array) -> Array:
            size = float(jnp.finfo(leaf.dtype).eps) ** 0.5 * length.astype(leaf.dtype)
            return jnp.where(turned, leaf + jax.lax.stop_gradient(size * _random(leaf)), leaf)

        trainable = jax.tree.map(nudge, trainable)
        return Measured(trainable, state.lengths) if isinstance(state, Measured) else trainable

    def look(
        self, before: Watched, t0: Time, t1: Time, y0: PyTree, y1: PyTree, error: PyTree | None, problem: Problem
    ) -> tuple[Watched, Bool[Array, ""]]:
        """What is known after the step, and whether it is to be made again, shorter."""
        t0, t1, start, end, problem = freeze((t0, t1, trainable_of(y0), trainable_of(y1), problem))
        step = jax.tree.map(jnp.subtract, end, start)
        outputs, advance, noise = self._outputs(end, step, problem)
        aim = problem.loss.deviation(before.outputs)
        change, deviation = outputs - before.outputs, problem.loss.deviation(outputs)
        count = problem.num_samples
        eps = float(jnp.finfo(outputs.dtype).eps)
        noise = eps * (_norm(outputs) + _norm(outputs - deviation) + noise)
        taken = jnp.asarray(t1 - t0, outputs.dtype)
        # What diffrax calls the shortest step is a tenth of it; flow time itself has to resolve it.
        shortest = max(1e-9, 300 * eps) * count
        short = (taken <= shortest) | (taken <= 8 * eps * jnp.abs(jnp.asarray(t1, outputs.dtype)))
        turned = (jnp.sum(advance**2) > 2 * jnp.sum(advance * change)) & (_norm(advance - change) > NOISE * noise)

        # θ runs away: its speed, in units of what is left to go, against the slowest so far, and the error that is
        # estimated of a step against its length.
        length = optx.two_norm(step)
        speed = length.astype(outputs.dtype) / (taken / count * jnp.where(_norm(aim) > 0, _norm(aim), 1))
        slowest = jnp.minimum(before.speed, jnp.where(speed > 0, speed, jnp.inf))
        wild = jnp.zeros((), bool)
        if error is not None:
            # Like 1/√(s* − s) where a singular value goes to zero at s*. A kink of the network leaves it bounded.
            fast = jnp.maximum(10, 0.03 / jnp.sqrt(taken / count)) * slowest
            wild = (speed > fast) & (optx.two_norm(trainable_of(error)) > ROUGH * length)

        missed = far = off = jnp.zeros((), bool)
        beyond = turned
        round_off = before.round_off
        if self.law:
            lawful = theory.outputs_at(taken, aim, jnp.zeros_like(aim), count)
            miss, way = _norm(deviation - lawful), _norm(lawful - aim)
            share = jnp.asarray(0.25 if self.adaptive else 1.0, outputs.dtype)
            if self.tolerances is not None:
                share = SHARE + TOTAL * jnp.asarray(self.tolerances[0], outputs.dtype)
            missed = (miss > share * way) & (miss > NOISE * noise)
            beyond = turned & (miss > way)
            elapsed = jnp.asarray(t1, outputs.dtype) - before.start.s
            exact = theory.outputs_at(elapsed, before.start.deviation, jnp.zeros_like(aim), count)
            if self.tolerances is not None:
                rtol, atol = (jnp.asarray(tolerance, outputs.dtype) for tolerance in self.tolerances)
                floor = atol * outputs.size**0.5 + 4 * NOISE * noise
                far = miss > STEP * (rtol * _norm(aim) + floor)
                unit = jnp.maximum(_norm(exact), jnp.finfo(outputs.dtype).tiny)
                # A step more is one more round-off, but no more tolerance: a controller that cannot keep the law makes
                # as many as it likes.
                round_off = round_off + floor / unit
                off = _norm(deviation - exact) / unit > TOTAL * rtol * (1 + elapsed / count) + round_off

        misses = jnp.where(missed, before.misses + 1, 0)
        since = jnp.where(missed, jnp.minimum(before.missed_since, t0), jnp.inf).astype(before.missed_since.dtype)
        if self.strict:
            again = (turned | far | wild) & ~short
            # A step of a given size is not made again: that it is coarse is no loss of rank.
            gone = (turned | far | wild) & short if self.adaptive else beyond
            lost = _first(before.rank_lost_at, gone, t0)
        else:
            # Only until the place is known to a thousandth; from there on any step will do.
            again = turned & ~jnp.isfinite(before.rank_lost_at) & (taken > 1e-4 * count)
            lost = _first(before.rank_lost_at, turned, t0)
        lost = jnp.where(misses >= RUN, jnp.minimum(lost, since), lost)
        turned_at, way_on = before.turned_at, before.way_on
        if not self.strict:
            turned_at = jnp.where(turned, t0, turned_at).astype(turned_at.dtype)
            near = t0 - turned_at < 0.01 * count
            way_on = jax.tree.map(
                lambda old, new: jnp.where(turned, 0, old) + jnp.where(near & ~turned, new, 0), way_on, step
            )
        after = Watched(
            start=before.start,
            outputs=outputs,
            round_off=round_off,
            misses=misses,
            missed_since=since,
            left_law_at=_first(before.left_law_at, off, t0),
            rank_lost_at=lost,
            speed=slowest,
            turned_at=turned_at,
            way_on=way_on,
        )
        return after, again

    def _outputs(
        self, trainable: PyTree, step: PyTree, problem: Problem
    ) -> tuple[Float[Array, "N Q"], Float[Array, "N Q"], Float[Array, ""]]:
        """x, DΔθ, and |Dδ| for random changes δ of θ as large as θ: round-off of x in units of eps."""

        def moved(tangent: PyTree) -> tuple[Array, Array]:
            return jax.jvp(
                lambda trainable: problem.outputs(eqx.combine(trainable, self.frozen)), (trainable,), (tangent,)
            )

        tangents = jax.tree.map(lambda ahead, leaf: jnp.stack([ahead, _random(leaf) * leaf]), step, trainable)
        value, (advance, probe) = jax.vmap(moved, out_axes=(None, 0))(tangents)
        return value, advance, _norm(probe)


def _random(leaf: Array) -> Array:
    """Random numbers of variance 1, the same ones always."""
    place = (jnp.arange(leaf.size, dtype=jnp.uint32) + 1) * jnp.uint32(2654435761)
    return ((place >> 16).astype(leaf.dtype) * (12**0.5 / 2**16) - 3**0.5).reshape(leaf.shape)


def _norm(array: Array) -> Float[Array, ""]:
    return jnp.linalg.norm(jnp.ravel(array))


def _first(time: Float[Array, ""], happened: Bool[Array, ""], now: Time) -> Float[Array, ""]:
    """`time` where it is known already, `now` where it happened just now."""
    return jnp.where(happened, jnp.minimum(time, now), time).astype(time.dtype)
