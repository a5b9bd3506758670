"""A bound on the length of steps that follows how well the linearised outputs predict."""

import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from jaxgeo._checks import check_positive
from jaxgeo.linalg.linearisation import Linearisation
from jaxgeo.linalg.singular import SingularValues
from jaxgeo.linalg.solvers import LiftInfo
from jaxgeo.linalg.solvers.base import SOLVED, conclude
from jaxgeo.linalg.tangents import norm
from jaxgeo.optim.attempt import Attempt, Tried
from jaxgeo.optim.way import AbstractWay, Proposal


class TrustRegion(AbstractWay):
    """A damped lift of bounded length, by the rules of MINPACK's `lmder`, for problems with few parameters.

    The step is bounded in scaled parameters. A step that gained three quarters or more of what was predicted, or was
    not held back, doubles its own length as the next bound; one that gained a quarter or less shrinks the bound by
    a factor between 2 and 10, by where the parabola through what is known of the step has its minimum.

    **Arguments:**

    - `factor`: the first bound in units of the length of the scaled parameters.
    """

    factor: float = 100.0

    def __check_init__(self):
        check_positive("factor", self.factor)

    def init(self, dtype: jnp.dtype) -> Float[Array, ""]:
        """A bound of 0, for none yet."""
        return jnp.zeros((), dtype)

    def propose(self, linear: Linearisation, by: SingularValues, state: Float[Array, ""]) -> Proposal:
        """The lift with the damping that makes it no longer than `state`, in units of the scale of the columns of D."""
        jacobian, scale, dtype = linear.jacobian, 1.0 if by.scale is None else by.scale, linear.outputs.dtype
        start = norm(ravel_pytree(linear.trainable)[0] / scale)
        first = jnp.where(start > 0, self.factor * start, jnp.asarray(self.factor, dtype))
        radius = jnp.where(state > 0, state.astype(dtype), first)
        aim = -linear.residual.reshape(-1)
        relative = by.damping_for_length(aim, radius)

        def lift(rows: Float[Array, "rows R"]) -> PyTree:
            return jacobian.unravel(scale * by.damped_lift(rows.reshape(-1), relative))

        outcome, rank = jnp.asarray(SOLVED), jnp.asarray(by.values.size)
        step, report = conclude(jacobian, lift(-linear.residual), -linear.residual, outcome, rank)

        def learn(tried: Tried) -> tuple[Tried, LiftInfo, Float[Array, ""]]:
            trial, length = tried.trial, norm(ravel_pytree(tried.step)[0] / scale)
            slope = jnp.sum(linear.residual * jacobian.mv(tried.step)) / linear.total_weight
            parabola = 0.5 * slope / jnp.where(trial.finite, slope + trial.decrease, 1)
            rejected = jnp.where(trial.finite, jnp.clip(parabola, 0.1, 0.5), 0.1)
            shrink = jnp.where(trial.decrease >= 0, 0.5, rejected)
            held = length > 0.9 * radius
            length = jnp.where(jnp.isfinite(length), length, radius)
            smaller = shrink * jnp.minimum(radius, 10 * length)
            larger = jnp.where((tried.gain_ratio >= 0.75) | ~held, 2 * length, radius)
            return tried, report, jnp.where(tried.gain_ratio <= 0.25, smaller, larger).astype(state.dtype)

        damping = relative * len(aim) / (by.values.size * by.mean_square())
        return Proposal(Attempt(linear, step), 0, damping, learn, lift)
