"""Compare every step of an integration with what the flow promises, to see where it leaves its law or D loses rank."""

from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxgeo import theory
from jaxgeo._sums import totals
from jaxgeo.integrate.corrector import Start
from jaxgeo.integrate.field import Measured, trainable_of
from jaxgeo.integrate.solution import RESULTS
from jaxgeo.integrate.wrapped import AbstractSolverAround
from jaxgeo.linalg.tangents import freeze, norm
from jaxgeo.problem import Problem

Time = Any

# How many tolerances the outputs may miss their aim by in one step: the controller only sees an estimate of the error,
# which is poor near a kink of the network. And how many in all, at the start and for each further N of flow time.
STEP, TOTAL = 10.0, 20.0
# A step that misses by more than this share of its way did not get there. The share is larger if the way is estimated,
# and 1 if the step size is fixed. If the tolerance of the outputs is unknown, RUN such steps in a row mean loss of
# rank; a kink of the network spoils only one.
LAWFUL, ESTIMATED, GIVEN = 0.02, 0.25, 1.0
RUN = 10
# The round-off of the outputs is only known up to some factor.
NOISE = 30.0


class Watched(eqx.Module):
    """What is known about an orbit after a step.

    - `start`: where it started. `outputs`: x after the last accepted step.
    - `round_off`: how much |x − x_exact| / |x_exact − y| the round-off of all steps allows.
    - `misses`: how many accepted steps in a row missed their aim.
    - `astray`: how far these steps put the outputs off; `astray_since`: the flow time until which that was little.
    - `velocity`: ∂ₛx at the end of the last accepted step, NaN before the first; None if the law is known.
    - `left_law_at`, `rank_lost_at`: flow times, infinity for never.
    - `turned_at`: the flow time at which the outputs last turned back within a step; −infinity for never.
    - `way_on`: how far θ has moved since then, up to a hundredth of N later. None if the orbit ends there.
    """

    start: Start
    outputs: Float[Array, "N Q"]
    round_off: Float[Array, ""]
    misses: Int[Array, ""]
    astray: Float[Array, "N Q"]
    astray_since: Float[Array, ""]
    velocity: Float[Array, "N Q"] | None
    left_law_at: Float[Array, ""]
    rank_lost_at: Float[Array, ""]
    turned_at: Float[Array, ""]
    way_on: PyTree

    @property
    def continuation(self) -> PyTree:
        """The direction of `way_on`."""
        length = optx.two_norm(self.way_on)
        return jax.tree.map(lambda leaf: leaf / jnp.where(length > 0, length, 1).astype(leaf.dtype), self.way_on)

    def judge(self, result: RESULTS, strict: bool) -> RESULTS:
        """How an integration ended, given the `result` without this watch."""
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

    As singular values of D go to zero the velocity grows without bound, and the orbit of a flow that needs full rank
    may end. For example, x = θ₁θ₂ with y = 1 ends in D = 0 from (1, −1). An ODE solver steps over such a place, because
    it measures errors through D, which is nearly zero there. So this solver compares the change of the outputs with
    what it should be, without a lift: x(t₁) = y + e^{-(t₁−t₀)/N}(x(t₀) − y) if that law holds, and otherwise the mean
    of ∂ₛx at the two ends of the step, times its length.

    A step that misses by more than its tolerance is repeated with a shorter step. The misses of steps that do not get
    where they should, however short these are, add up. Once their sum exceeds the tolerance of one step, D does not
    reach where the flow has to go, and the orbit ends: `rank_lost_at` says where that began. The orbit does not end if
    D merely comes close to losing rank, or loses it in a direction that matters less than the tolerance. If small
    misses add up to more than the tolerances of all steps allow, `left_law_at` records it, and the integration
    continues.

    A flow that does not require full rank also continues. It passes through D = 0 where the outputs turn back: with
    Δθ and Δx of a step, Δx ≈ (D₀ + D₁)Δθ/2, and the two terms have opposite directions where |D₁Δθ|² > 2 Δx·D₁Δθ.

    Each step costs one JVP with two or three tangents; for comparison, a step with six stages takes six lifts.

    **Arguments:**

    - `stepper`: the ODE solver.
    - `law`: whether the outputs follow (2.7) to the end. They do not along a flow that continues after D loses rank.
    - `strict`: whether the orbit ends where D loses rank; False for a flow that does not require full rank.
    - `adaptive`: whether a step is repeated if its error estimate is too large.
    - `tolerances`: rtol and atol for the outputs in a step; None if unknown.
    """

    stepper: dfx.AbstractSolver
    law: bool = eqx.field(static=True)
    strict: bool = eqx.field(static=True)
    adaptive: bool = eqx.field(static=True)
    tolerances: tuple[Any, Any] | None

    @property
    def solver(self) -> dfx.AbstractSolver:
        inner = self.stepper
        while isinstance(inner, AbstractSolverAround):
            inner = inner.stepper
        return inner

    @property
    def interpolation_cls(self):
        return self.stepper.interpolation_cls

    def init(self, terms, t0, t1, y0, args):
        return self.stepper.init(terms, t0, t1, y0, args), self.begin(t0, y0, args)

    def begin(self, s: Time, state: PyTree, problem: Problem) -> Watched:
        """The state before the first step."""
        trainable, problem = freeze((trainable_of(state), problem))
        outputs = problem.outputs(trainable)
        s, zero = jnp.asarray(s), jnp.zeros((), outputs.dtype)
        never = jnp.full((), jnp.inf, s.dtype)
        return Watched(
            start=Start(s.astype(outputs.dtype), problem.loss.deviation(outputs)),
            outputs=outputs,
            round_off=zero,
            misses=jnp.zeros((), jnp.int32),
            astray=jnp.zeros_like(outputs),
            astray_since=s,
            velocity=None if self.law else jnp.full_like(outputs, jnp.nan),
            left_law_at=never,
            rank_lost_at=never,
            turned_at=-never,
            way_on=None if self.strict else jax.tree.map(jnp.zeros_like, trainable),
        )

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        state, before = solver_state
        y1, error, dense_info, state, result = self.stepper.step(terms, t0, t1, y0, args, state, made_jump)
        velocity = None
        if not self.law:
            velocity = trainable_of(self.interpolation_cls(t0=t0, t1=t1, **dense_info).derivative(t1))
        after, again = self.look(before, t0, t1, y0, y1, velocity, args)
        if self.adaptive and error is not None:
            error = jax.tree.map(lambda leaf: jnp.where(again, jnp.inf, leaf), error)
        if not self.strict:
            y1 = self._nudged(y0, y1, after.turned_at == t0)
        if self.strict:
            # diffrax stops at an accepted step that is not successful; `solve_flow` replaces this result by its own.
            lost: Any = dfx.RESULTS.internal_error
            result = dfx.RESULTS.where(jnp.isfinite(after.rank_lost_at), lost, result)
        return y1, error, dense_info, (state, after), result

    def _nudged(self, before: PyTree, state: PyTree, turned: Bool[Array, ""]) -> PyTree:
        """`state`, moved by half the digits of the step in a random direction if the outputs turned back.

        At D = 0 all continuations are equally good. An orbit that a symmetry of the network led there would keep the
        symmetry and stay there, unless round-off broke it.
        """
        trainable = trainable_of(state)
        length = optx.two_norm(jax.tree.map(jnp.subtract, trainable, trainable_of(before)))

        def nudge(leaf: Array) -> Array:
            size = float(jnp.finfo(leaf.dtype).eps) ** 0.5 * length.astype(leaf.dtype)
            return jnp.where(turned, leaf + jax.lax.stop_gradient(size * _random(leaf)), leaf)

        trainable = jax.tree.map(nudge, trainable)
        return Measured(trainable, state.lengths) if isinstance(state, Measured) else trainable

    def look(
        self, before: Watched, t0: Time, t1: Time, y0: PyTree, y1: PyTree, velocity: PyTree | None, problem: Problem
    ) -> tuple[Watched, Bool[Array, ""]]:
        """What is known after the step, and whether to repeat it with a shorter one; `velocity` is ∂ₛθ at `t1`."""
        t0, t1, start, end, velocity, problem = freeze((t0, t1, trainable_of(y0), trainable_of(y1), velocity, problem))
        step = jax.tree.map(jnp.subtract, end, start)
        outputs, advance, noise, velocity = self._outputs(end, step, velocity, problem)
        aim = problem.loss.deviation(before.outputs)
        change, deviation = outputs - before.outputs, problem.loss.deviation(outputs)
        count = problem.num_samples
        eps = float(jnp.finfo(outputs.dtype).eps)
        noise = eps * (norm(outputs) + norm(outputs - deviation) + noise)
        taken = jnp.asarray(t1 - t0, outputs.dtype)
        # Ten times the shortest step of the controller; flow time must also be able to resolve it.
        shortest = max(1e-9, 300 * eps) * count
        short = (taken <= shortest) | (taken <= 8 * eps * jnp.abs(jnp.asarray(t1, outputs.dtype)))
        square, along, rest = totals(advance**2, advance * change, (advance - change) ** 2)
        turned = (square > 2 * along) & (jnp.sqrt(rest) > NOISE * noise)

        elapsed = jnp.asarray(t1, outputs.dtype) - before.start.s
        if velocity is None:
            share = LAWFUL
            way = theory.outputs_at(taken, aim, jnp.zeros_like(aim), count) - aim
            ideal = theory.outputs_at(elapsed, before.start.deviation, jnp.zeros_like(aim), count)
            # Errors of the outputs shrink as the deviations do.
            fade = jnp.exp(-taken / count)
        else:
            share = ESTIMATED
            assert before.velocity is not None
            moved = taken * (jnp.where(jnp.isnan(before.velocity), velocity, before.velocity) + velocity) / 2
            # Outputs that the cost does not depend on may go anywhere.
            way = problem.loss.deviation(before.outputs + moved) - aim
            ideal, fade = aim, 1.0
        missing = deviation - aim - way
        miss = norm(missing)
        missed = (miss > (share if self.adaptive else GIVEN) * norm(way)) & (miss > NOISE * noise)
        misses = jnp.where(missed, before.misses + 1, 0)
        astray = fade * before.astray + jnp.where(missed, missing, 0)

        left_law_at, round_off = before.left_law_at, before.round_off
        if self.tolerances is None:
            far = missed & (taken > 1e-5 * count)
            little, lost = before.misses == 0, misses >= RUN
        else:
            rtol, atol = (jnp.asarray(tolerance, outputs.dtype) for tolerance in self.tolerances)
            floor = atol * outputs.size**0.5 + 4 * NOISE * noise
            far = (missed | (velocity is None)) & (miss > STEP * (rtol * norm(aim) + floor))
            # Each step adds round-off, but no tolerance: a controller that cannot keep the law may take any number of
            # steps.
            unit = jnp.maximum(norm(ideal), jnp.finfo(outputs.dtype).tiny)
            round_off = round_off + floor / unit
            allowed = TOTAL * rtol * (1 + elapsed / count) + round_off
            most = STEP * rtol + round_off
            little, lost = norm(before.astray) / unit < most / 4, norm(astray) / unit > most
            if velocity is None:
                left_law_at = _first(left_law_at, norm(deviation - ideal) / unit > allowed, t0)
        since = jnp.where(little, t0, before.astray_since).astype(before.astray_since.dtype)

        again = far & ~short
        # A step of fixed size is not repeated; if it is too coarse, that is not loss of rank.
        gone = far & short if self.adaptive else turned & (miss > norm(way))
        turned_at, way_on = before.turned_at, before.way_on
        if not self.strict:
            turned_at = jnp.where(turned, t0, turned_at).astype(turned_at.dtype)
            near = t0 - turned_at < 0.01 * count
            way_on = jax.tree.map(
                lambda old, new: jnp.where(turned, 0, old) + jnp.where(near & ~turned, new, 0), way_on, step
            )
        rank_lost_at = _first(before.rank_lost_at, gone, t0)
        after = Watched(
            start=before.start,
            outputs=outputs,
            round_off=round_off,
            misses=misses,
            astray=astray,
            astray_since=since,
            velocity=velocity,
            left_law_at=left_law_at,
            rank_lost_at=jnp.where(lost, jnp.minimum(rank_lost_at, since), rank_lost_at),
            turned_at=turned_at,
            way_on=way_on,
        )
        return after, again

    def _outputs(
        self, trainable: PyTree, step: PyTree, velocity: PyTree | None, problem: Problem
    ) -> tuple[Float[Array, "N Q"], Float[Array, "N Q"], Float[Array, ""], Float[Array, "N Q"] | None]:
        """x, DΔθ, the round-off of x in units of eps, which is |Dδ| for a random δ as large as θ, and ∂ₛx."""
        probe = jax.tree.map(lambda leaf: _random(leaf) * leaf, trainable)
        tangents = [step, probe] if velocity is None else [step, probe, velocity]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *tangents)
        move = jax.vmap(lambda tangent: jax.jvp(problem.outputs, (trainable,), (tangent,)), out_axes=(None, 0))
        value, moves = move(stacked)
        return value, moves[0], norm(moves[1]), None if velocity is None else moves[2]


def _random(leaf: Array) -> Array:
    """Random numbers of variance 1, always the same ones."""
    place = (jnp.arange(leaf.size, dtype=jnp.uint32) + 1) * jnp.uint32(2654435761)
    return ((place >> 16).astype(leaf.dtype) * (12**0.5 / 2**16) - 3**0.5).reshape(leaf.shape)


def _first(time: Float[Array, ""], happened: Bool[Array, ""], now: Time) -> Float[Array, ""]:
    """`time` if it is already known, or `now` if it happened just now."""
    return jnp.where(happened, jnp.minimum(time, now), time).astype(time.dtype)
