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

# By how many times its tolerance the outputs may miss their aim in a step, since the error that a controller sees is an
# estimate and off a kink of the network a poor one; and by how many times in all, at the start and for each N more.
STEP, TOTAL = 10.0, 20.0
# The share of its way by which a step has to miss before it counts as one that did not get there; a larger one where
# the way is estimated, and all of it where the size of the steps is given. So many of them in a row mean loss of rank
# where the tolerance of the outputs is not known; a kink of the network spoils one.
LAWFUL, ESTIMATED, GIVEN = 0.02, 0.25, 1.0
RUN = 10
# Round-off of the outputs is estimated within some factor.
NOISE = 30.0


class Watched(eqx.Module):
    """What is known of an orbit after a step.

    - `start`: where it started. `outputs`: x after the last accepted step.
    - `round_off`: what that of all steps allows of |x − x_exact| / |x_exact − y|.
    - `misses`: accepted steps in a row that missed their aim.
    - `astray`: how far the outputs are off for those steps; `astray_since`: the flow time until which that was little.
    - `velocity`: ∂ₛx at the end of the last accepted step, NaN before the first; None where the law is known.
    - `left_law_at`, `rank_lost_at`: flow times, infinity for never.
    - `turned_at`: where the outputs last turned back within a step; −infinity for nowhere.
    - `way_on`: by how much θ has moved since then, until a hundredth of N later. None where an orbit ends there.
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
    the error that it estimates is taken through D, which is nearly zero there. So the change of the outputs is compared
    with what it should be, without a lift: x(t₁) = y + e^{-(t₁−t₀)/N}(x(t₀) − y) where there is that law, and elsewhere
    the mean of ∂ₛx at the two ends of the step, times its length.

    A step that misses by more than its tolerance is made again, shorter. Steps that do not get where they should,
    however short, add up. Once they have missed by more than the tolerance of one step, D does not reach where the
    flow has to go, and the orbit ends: `rank_lost_at` says where that began. D may come near to losing rank, and may
    even lose it in a direction that matters less than the tolerance, without ending the orbit. Small misses that add up
    to more than the tolerances of all steps allow are written down as `left_law_at`, and the integration goes on.

    A flow that makes no demand of the rank goes on as well. It passes through D = 0 where the outputs turn back: with
    Δθ and Δx of a step, Δx ≈ (D₀ + D₁)Δθ/2, and the two terms have opposite directions where |D₁Δθ|² > 2 Δx·D₁Δθ.

    The cost of a step is a JVP with two or three tangents, where a step of six stages takes six lifts.

    **Arguments:**

    - `stepper`: the ODE solver.
    - `law`: whether the outputs follow (2.7) to the end: not along a flow that goes on where D loses rank.
    - `strict`: whether the orbit ends where D loses rank. A flow that makes no demand of the rank goes on.
    - `adaptive`: whether a step is made again where its error estimate is too large.
    - `tolerances`: rtol and atol of the outputs in a step; None if they are not known.
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
        """Nothing seen yet."""
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
        self, before: Watched, t0: Time, t1: Time, y0: PyTree, y1: PyTree, velocity: PyTree | None, problem: Problem
    ) -> tuple[Watched, Bool[Array, ""]]:
        """What is known after the step, and whether to make it again, shorter; `velocity` is ∂ₛθ at `t1`."""
        t0, t1, start, end, velocity, problem = freeze((t0, t1, trainable_of(y0), trainable_of(y1), velocity, problem))
        step = jax.tree.map(jnp.subtract, end, start)
        outputs, advance, noise, velocity = self._outputs(end, step, velocity, problem)
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

        elapsed = jnp.asarray(t1, outputs.dtype) - before.start.s
        if velocity is None:
            share = LAWFUL
            way = theory.outputs_at(taken, aim, jnp.zeros_like(aim), count) - aim
            ideal = theory.outputs_at(elapsed, before.start.deviation, jnp.zeros_like(aim), count)
            # An error of the outputs shrinks with them.
            fade = jnp.exp(-taken / count)
        else:
            share = ESTIMATED
            assert before.velocity is not None
            moved = taken * (jnp.where(jnp.isnan(before.velocity), velocity, before.velocity) + velocity) / 2
            # Outputs that the cost does not depend on go anywhere.
            way = problem.loss.deviation(before.outputs + moved) - aim
            ideal, fade = aim, 1.0
        missing = deviation - aim - way
        miss = _norm(missing)
        missed = (miss > (share if self.adaptive else GIVEN) * _norm(way)) & (miss > NOISE * noise)
        misses = jnp.where(missed, before.misses + 1, 0)
        astray = fade * before.astray + jnp.where(missed, missing, 0)

        left_law_at, round_off = before.left_law_at, before.round_off
        if self.tolerances is None:
            far = missed & (taken > 1e-5 * count)
            little, lost = before.misses == 0, misses >= RUN
        else:
            rtol, atol = (jnp.asarray(tolerance, outputs.dtype) for tolerance in self.tolerances)
            floor = atol * outputs.size**0.5 + 4 * NOISE * noise
            far = (missed | (velocity is None)) & (miss > STEP * (rtol * _norm(aim) + floor))
            # A step more is one more round-off, but no more tolerance: a controller that cannot keep the law makes
            # as many as it likes.
            unit = jnp.maximum(_norm(ideal), jnp.finfo(outputs.dtype).tiny)
            round_off = round_off + floor / unit
            allowed = TOTAL * rtol * (1 + elapsed / count) + round_off
            most = STEP * rtol + round_off
            little, lost = _norm(before.astray) / unit < most / 4, _norm(astray) / unit > most
            if velocity is None:
                left_law_at = _first(left_law_at, _norm(deviation - ideal) / unit > allowed, t0)
        since = jnp.where(little, t0, before.astray_since).astype(before.astray_since.dtype)

        again = far & ~short
        # A step of a given size is not made again: that it is coarse is no loss of rank.
        gone = far & short if self.adaptive else turned & (miss > _norm(way))
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
        """x, DΔθ, the round-off of x in units of eps, and ∂ₛx; the third is |Dδ| for random δ as large as θ."""
        probe = jax.tree.map(lambda leaf: _random(leaf) * leaf, trainable)
        tangents = [step, probe] if velocity is None else [step, probe, velocity]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *tangents)
        move = jax.vmap(lambda tangent: jax.jvp(problem.outputs, (trainable,), (tangent,)), out_axes=(None, 0))
        value, moves = move(stacked)
        return value, moves[0], _norm(moves[1]), None if velocity is None else moves[2]


def _random(leaf: Array) -> Array:
    """Random numbers of variance 1, the same ones always."""
    place = (jnp.arange(leaf.size, dtype=jnp.uint32) + 1) * jnp.uint32(2654435761)
    return ((place >> 16).astype(leaf.dtype) * (12**0.5 / 2**16) - 3**0.5).reshape(leaf.shape)


def _norm(array: Array) -> Float[Array, ""]:
    return jnp.linalg.norm(jnp.ravel(array))


def _first(time: Float[Array, ""], happened: Bool[Array, ""], now: Time) -> Float[Array, ""]:
    """`time` where it is known already, `now` where it happened just now."""
    return jnp.where(happened, jnp.minimum(time, now), time).astype(time.dtype)
