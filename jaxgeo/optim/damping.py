"""How much a lift is damped from step to step."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgeo._checks import MOST, check_count, check_number, check_positive
from jaxgeo.linalg.linearisation import Linearisation
from jaxgeo.linalg.solvers import AbstractLiftSolver, LiftInfo
from jaxgeo.optim.attempt import Attempt, Tried
from jaxgeo.optim.way import AbstractWay, Proposal

Schedule = Callable[[Int[Array, ""]], Float[Array, ""] | float]
Value = float | Float[Array, ""] | Schedule
# Raise the damping after a step of which less than this fraction was taken.
SHORT = 0.25
# With fewer parameters than rows, lower it by at most this factor, and only after a step of which so much was taken.
LARGEST_DECREASE, LONG = 100.0, 0.5


def value_at(value: Value, count: Int[Array, ""], dtype: jnp.dtype) -> Float[Array, ""]:
    """A number, or the value of an optax schedule at this step."""
    return jnp.asarray(value(count) if callable(value) else value, dtype)


def check_value(name: str, value: Value | None, most: float = MOST) -> None:
    """Raise `ValueError` unless `value` is a schedule, None, or a number in [0, `most`]."""
    if value is not None and not callable(value):
        check_number(name, value, least=0, most=most)


class GainRatioDamping(AbstractWay):
    """A damped lift, whose damping follows how well the linearised outputs predicted the last step.

    The damping is relative: λ = damping · trace(DDᵀ)/QN. The error of the prediction, |1 − gain ratio|, is roughly
    proportional to the length of the step, and this length to 1/λ where λ matters. So the damping is multiplied by
    |1 − gain ratio| / `error`, just as an ODE solver adapts its step size. After a step that was halved more than twice
    it is raised instead, as the whole step was far too long. Far from round-off only the curvature of the network
    limits a step. The last steps are undamped Newton steps, which converge quadratically.

    Reference: H. F. Walker, P. Ni, Anderson acceleration for fixed-point iterations, SIAM Journal on Numerical Analysis
        49, 2011, for `tall_corrections`

    **Arguments:**

    - `initial`: damping of the first step.
    - `error`: the relative error of the prediction to aim at.
    - `decrease`, `increase`: the largest factors by which the damping falls and rises in a step.
    - `minimum`, `maximum`: bounds of the damping.
    - `corrections`: the most corrections for the curvature of the network in a step; each reuses the factorisation.
    - `tall_corrections`: the same with fewer parameters than rows, where corrections are combined by Anderson
        acceleration.
    - `halvings`: the most halvings before a step is rejected.
    """

    initial: float | Float[Array, ""] = 1e-3
    error: float = 0.9
    decrease: float = 1e5
    increase: float = 10.0
    minimum: float = 1e-16
    maximum: float = 1e10
    corrections: int = eqx.field(static=True, default=8)
    tall_corrections: int = eqx.field(static=True, default=20)
    halvings: int = eqx.field(static=True, default=6)

    def __check_init__(self):
        check_count("corrections", self.corrections, least=0)
        check_count("tall_corrections", self.tall_corrections, least=0)
        check_count("halvings", self.halvings, least=0)
        for name in ("initial", "error", "decrease", "increase", "minimum", "maximum"):
            check_positive(name, vars(self)[name])

    def init(self, dtype: jnp.dtype) -> Float[Array, ""]:
        """The damping of the first step."""
        return jnp.array(self.initial, dtype)

    def propose(self, linear: Linearisation, by: AbstractLiftSolver, state: Float[Array, ""]) -> Proposal:
        """The lift by a solver, damped by `state`."""
        damping = state.astype(linear.outputs.dtype)
        factorised = by.factorise(linear.jacobian, linear.relative(damping))
        step, report = factorised.lift(-linear.residual)

        tall = linear.jacobian.in_size() < linear.rows_of_data

        def learn(tried: Tried) -> tuple[Tried, LiftInfo, Float[Array, ""]]:
            return tried, report, self.after(state, tried, tall=tall)

        if tall:
            attempt = Attempt(linear, step, factorised.correct, self.tall_corrections, accelerated=True)
        else:
            attempt = Attempt(linear, step, factorised.correct, self.corrections)
        return Proposal(attempt, self.halvings, damping, learn, lambda rows: factorised.lift(rows)[0])

    def after(self, damping: Float[Array, ""], tried: Tried, *, tall: bool = False) -> Float[Array, ""]:
        """The damping of the next step, once a step with this damping was tried.

        If D is `tall`, accelerated corrections hide the error of the prediction.
        """
        ratio = tried.gain_ratio.astype(damping.dtype)
        wrong = jnp.where(jnp.isfinite(ratio), jnp.abs(1 - ratio), jnp.inf)
        decrease = min(self.decrease, LARGEST_DECREASE) if tall else self.decrease
        factor = jnp.clip(wrong / self.error, 1 / decrease, self.increase)
        # A step that gained a quarter of the predicted decrease was not too long: do not raise the damping.
        taken = jnp.where(ratio < 0.25, 2.0, jnp.minimum(factor, 1))
        # Nor was one that was halved once or twice. After more halvings, raise it with their number.
        fraction = jnp.where(tried.accepted, tried.fraction, 1).astype(damping.dtype)
        if tall:
            taken = jnp.where(fraction < LONG, 1, taken)
        taken = jnp.where(fraction < SHORT, jnp.minimum(SHORT / fraction, self.increase), taken)
        factor = jnp.where(tried.accepted, taken, jnp.maximum(factor, 2))
        return jnp.clip(damping * factor, self.minimum, self.maximum)
