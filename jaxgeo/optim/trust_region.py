"""A trust region: the bound on steps follows how well the linearised outputs predict the cost."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxgeo._fields import COUNT, NOT_NEGATIVE, POSITIVE, Checked, count, kind
from jaxgeo._sums import total
from jaxgeo.linalg.linearisation import Linearisation, Trial
from jaxgeo.linalg.singular import SingularValues
from jaxgeo.linalg.solvers import LiftInfo
from jaxgeo.linalg.solvers.base import SOLVED, conclude
from jaxgeo.linalg.tangents import freeze, norm, tangent_of
from jaxgeo.optim.attempt import Attempt, Tried, is_worth_taking
from jaxgeo.optim.bounds import Bounds
from jaxgeo.optim.scaling import column_norms
from jaxgeo.optim.way import AbstractWay, Proposal

# A column of D has vanished if its norm falls below this fraction of what it was.
VANISHED = 1e-3


class TrustRegion(Checked, AbstractWay):
    """A damped lift of bounded length, by the rules of MINPACK's `lmder`, for problems with few parameters.

    The step v is bounded in scaled parameters, and its geodesic acceleration a is added: v + a/2 follows a curved
    valley that v alone would leave. If the step achieves at least three quarters of the predicted decrease, or was
    shorter than the bound, the next bound is twice its length. If it achieves a quarter or less, the bound shrinks by a
    factor between 2 and 10, chosen by the minimum of a parabola through the known values and slope of the cost.

    A step that does not lower the cost is tried again within a smaller bound, with the same singular values. So is a
    step that changes a parameter by more than its size and leaves it without influence, as on the plateau of a
    saturated exponential, from which no gradient leads back. If shorter steps do not avoid this, the first is taken.

    Reference: M. K. Transtrum, J. P. Sethna, Improvements to the Levenberg–Marquardt algorithm for nonlinear
    least-squares minimization, 2012, arXiv 1201.5885, for the acceleration

    **Arguments:**

    - `factor`: the first bound, relative to the length of the scaled parameters, or of the residual if they are 0.
    - `acceleration`: add a/2 if 2|a/2| ≤ `acceleration` |v|, in scaled parameters; 0 to never add it.
    - `tries`: the most bounds to try in an update.
    - `retreats`: how many of these tries may serve to keep the influence of a parameter.
    - `bounds`: bounds on the parameters, at which steps are cut off; None for no bounds.
    """

    factor: float = eqx.field(default=100.0, metadata=POSITIVE)
    acceleration: float = eqx.field(default=0.3, metadata=NOT_NEGATIVE)
    tries: int = eqx.field(static=True, default=20, metadata=COUNT)
    retreats: int = eqx.field(static=True, default=4, metadata=count(0))
    bounds: Bounds | None = eqx.field(default=None, metadata=kind(Bounds, "`jaxgeo.optim.Bounds`"))

    def init(self, dtype: jnp.dtype) -> Float[Array, ""]:
        """A bound of 0, which means none yet."""
        return jnp.zeros((), dtype)

    def propose(self, linear: Linearisation, by: SingularValues, state: Float[Array, ""]) -> Proposal:
        """The lift, damped so that its length in scaled parameters is at most `state`."""
        jacobian, dtype = linear.jacobian, linear.outputs.dtype
        norms = freeze(column_norms(by.matrix))
        bounded = _Bounded(linear, by, norms, jnp.asarray(self.acceleration, dtype), self.bounds)
        start = bounded.length(linear.trainable)
        # Scaled parameters are in units of the outputs.
        first = self.factor * jnp.where(start > 0, start, freeze(norm(linear.residual)))
        found = _searched(self, bounded, jnp.where(state > 0, state.astype(dtype), first))
        radius, bends = found.radius, found.bends
        aim = -linear.residual
        relative = by.damping_for_length(aim.reshape(-1), radius)
        outcome, rank = jnp.asarray(SOLVED), jnp.asarray(by.values.size)
        velocity, report = conclude(jacobian, bounded.velocity(aim, relative), aim, outcome, rank, is_lift=False)
        step = jax.lax.cond(bends, lambda v, by: bounded.accelerated(v, by), lambda v, _: v, velocity, relative)

        def learn(tried: Tried) -> tuple[Tried, LiftInfo, Float[Array, ""]]:
            # A line search may have made the step shorter.
            length = jnp.minimum(bounded.length(velocity), bounded.length(tried.step))
            length = jnp.where(jnp.isfinite(length), length, radius)
            smaller = bounded.shrink(tried.trial, velocity) * jnp.minimum(radius, 10 * length)
            held = length > 0.9 * radius
            larger = jnp.where((tried.gain_ratio >= 0.75) | ~held, 2 * length, radius)
            return tried, report, jnp.where(tried.gain_ratio <= 0.25, smaller, larger).astype(state.dtype)

        damping = relative * aim.size / (by.values.size * by.mean_square())
        return Proposal(Attempt(linear, step, line=jacobian.mv(velocity)), 0, damping, learn)


class _Bounded(eqx.Module):
    """Steps from the singular values of D, their acceleration, and their length in scaled parameters."""

    linear: Linearisation
    svd: SingularValues
    norms: Float[Array, " K"]
    acceleration: Float[Array, ""]
    bounds: Bounds | None

    def velocity(self, rows: Float[Array, "rows R"], relative: Float[Array, ""]) -> PyTree:
        """v, within the bounds."""
        return self.within(self.lift(rows, relative))

    def within(self, step: PyTree) -> PyTree:
        return step if self.bounds is None else self.bounds.cut(self.linear.as_tree(self.linear.trainable), step)

    def lift(self, rows: Float[Array, "rows R"], relative: Float[Array, ""]) -> PyTree:
        lifted = self.svd.damped_lift(rows.reshape(-1), relative)
        # Do not let round-off of other parameters move a parameter without influence.
        lifted = jnp.where(self.norms > 0, lifted, 0)
        return self.linear.jacobian.unravel(lifted if self.svd.scale is None else self.svd.scale * lifted)

    def length(self, step: PyTree) -> Float[Array, ""]:
        flat = ravel_pytree(step)[0]
        return norm(flat if self.svd.scale is None else flat / self.svd.scale)

    def half_acceleration(self, velocity: PyTree, relative: Float[Array, ""]) -> PyTree:
        """a/2, the lift of −1/2 times the second derivative of the outputs along v."""
        return self.lift(-0.5 * self.linear.bend(velocity), relative)

    def accelerated(self, velocity: PyTree, relative: Float[Array, ""]) -> PyTree:
        """v + a/2, within the bounds."""
        return self.within(jax.tree.map(jnp.add, velocity, self.half_acceleration(velocity, relative)))

    def shrink(self, trial: Trial, velocity: PyTree) -> Float[Array, ""]:
        """The factor that shrinks the bound after a step that gained too little."""
        slope = total(self.linear.residual * self.linear.jacobian.mv(velocity)) / self.linear.total_weight
        parabola = 0.5 * slope / jnp.where(trial.finite, slope + trial.decrease, 1)
        rejected = jnp.where(trial.finite, jnp.clip(parabola, 0.1, 0.5), 0.1)
        return jnp.where(trial.decrease >= 0, 0.5, rejected)

    def loses_influence(self, step: PyTree) -> Bool[Array, ""]:
        """Whether the parameter that changes most, by more than its size, has lost its influence at the end."""
        flat, here = ravel_pytree(step)[0], ravel_pytree(self.linear.trainable)[0]
        change = jnp.where((self.norms > 0) & (flat != 0), jnp.abs(flat / here), 0)
        most = jnp.argmax(change)

        def vanished() -> Bool[Array, ""]:
            along = self.linear.jacobian.unravel(jax.nn.one_hot(most, len(flat), dtype=flat.dtype))
            _, column = jax.jvp(self.linear.rows_at, (step,), (along,))
            return norm(column) < VANISHED * self.norms[most]

        return jax.lax.cond(change[most] > 1, vanished, lambda: jnp.asarray(False))


class _Search(NamedTuple):
    """A bound, whether the step within it is accelerated, and whether the search is done.

    `first` and `first_bends` belong to the first step that left a parameter without influence; `first` is 0 if none
    did.
    """

    radius: Float[Array, ""]
    bends: Bool[Array, ""]
    first: Float[Array, ""]
    first_bends: Bool[Array, ""]
    tries: Int[Array, ""]
    retreats: Int[Array, ""]
    done: Bool[Array, ""]


@eqx.filter_custom_jvp
def _searched(region: TrustRegion, bounded: _Bounded, radius: Float[Array, ""]) -> _Search:
    """Find a bound within which the step is good, and whether the step is accelerated."""
    return jax.lax.while_loop(lambda last: ~last.done, _looking(region, bounded), _unsearched(radius))


@_searched.def_jvp
def _(primals: tuple, tangents: tuple) -> tuple[_Search, _Search]:
    """The tangent of the same number of iterations; their number and their decisions have no derivative."""
    region, *parts = primals
    found = _searched(*primals)

    def again(parts: list) -> Float[Array, ""]:
        bounded, radius = parts
        look = _looking(region, bounded)

        def step(last: _Search, index: Int[Array, ""]) -> tuple[_Search, None]:
            return jax.lax.cond(index < found.tries, look, lambda last: last, last), None

        return jax.lax.scan(step, _unsearched(radius), jnp.arange(region.tries, dtype=jnp.int32))[0].radius

    still = jax.tree.map(lambda _: None, found)
    return found, still._replace(radius=tangent_of(again, parts, list(tangents[1:])))


def _unsearched(radius: Float[Array, ""]) -> _Search:
    zero, no = jnp.zeros((), jnp.int32), jnp.asarray(False)
    return _Search(radius, no, jnp.zeros_like(radius), no, zero, zero, no)


def _looking(region: TrustRegion, bounded: _Bounded) -> Callable[[_Search], _Search]:
    """One iteration: try the step within a bound, then keep or shrink the bound."""
    linear, aim, no = bounded.linear, -bounded.linear.residual, jnp.asarray(False)

    def look(last: _Search) -> _Search:
        relative = bounded.svd.damping_for_length(aim.reshape(-1), last.radius)
        velocity = bounded.velocity(aim, relative)
        length = bounded.length(velocity)
        half = bounded.half_acceleration(velocity, relative)
        bends = 2 * bounded.length(half) <= bounded.acceleration * length
        step = bounded.within(jax.tree.map(lambda v, a: jnp.where(bends, v + a, v), velocity, half))
        trial = linear.move(step, linear.jacobian.mv(velocity))
        good = is_worth_taking(trial)
        lost = good & (last.retreats < region.retreats)
        lost = jax.lax.cond(lost, lambda step: bounded.loses_influence(step), lambda _: no, step)
        retreats, tries = last.retreats + lost.astype(jnp.int32), last.tries + 1
        first = jnp.where(lost & (last.first == 0), last.radius, last.first)
        first_bends = jnp.where(lost & (last.first == 0), bends, last.first_bends)
        over = (retreats >= region.retreats) & lost | (tries >= region.tries)
        # Nothing is left to gain if the predicted change is round-off. A step cut off at bounds may even go uphill.
        idle = ~good & (jnp.abs(trial.predicted) <= jnp.finfo(linear.cost.dtype).eps * linear.cost)
        done = good & ~lost | over | idle
        back = done & (~good | lost) & (first > 0)
        shorter = jnp.where(
            lost,
            0.25 * jnp.minimum(last.radius, length),
            bounded.shrink(trial, velocity)
            * jnp.where(jnp.isfinite(length), jnp.minimum(last.radius, 10 * length), last.radius),
        )
        radius = jnp.where(back, first, jnp.where(done, last.radius, shorter))
        bends = jnp.where(back, first_bends, bends)
        return _Search(radius, bends, first, first_bends, tries, retreats, done)

    return look
