"""How much a lift is damped from step to step."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxgeo._checks import MOST, check_number, check_positive

Schedule = Callable[[Int[Array, ""]], Float[Array, ""] | float]
Value = float | Float[Array, ""] | Schedule


def value_at(value: Value, count: Int[Array, ""], dtype: jnp.dtype) -> Float[Array, ""]:
    """A number, or what an optax schedule gives at this step."""
    return jnp.asarray(value(count) if callable(value) else value, dtype)


def check_value(name: str, value: Value | None, most: float = MOST) -> None:
    """Raise `ValueError` unless `value` is a schedule, None, or a number in [0, `most`]."""
    if value is not None and not callable(value):
        check_number(name, value, least=0, most=most)


class GainRatioDamping(eqx.Module):
    """Damping by how well the linearised outputs predicted the last step.

    Relative: λ = damping · trace(DDᵀ)/QN. The error of the prediction, |1 − gain ratio|, is about proportional to the
    length of the step, and that to 1/λ where λ matters; so the damping is multiplied by |1 − gain ratio| / `error`,
    as an ODE solver chooses its steps. Far from round-off nothing but the curvature of the network limits a step,
    and the last steps are undamped Newton steps, which converge quadratically.

    **Arguments:**

    - `initial`: damping of the first step.
    - `error`: relative error of the prediction to aim at.
    - `decrease`, `increase`: the largest factors by which the damping falls and rises.
    - `minimum`, `maximum`: bounds of the damping.
    """

    initial: float | Float[Array, ""] = 1e-3
    error: float = 0.3
    decrease: float = 1e5
    increase: float = 10.0
    minimum: float = 1e-16
    maximum: float = 1e10

    def __check_init__(self):
        for name in ("initial", "error", "decrease", "increase", "minimum", "maximum"):
            check_positive(name, vars(self)[name])

    def update(self, damping: Float[Array, ""], ratio: Float[Array, ""], accepted: Bool[Array, ""]) -> Float[Array, ""]:
        """The damping of the next step."""
        wrong = jnp.where(jnp.isfinite(ratio), jnp.abs(1 - ratio), jnp.inf)
        factor = jnp.clip(wrong / self.error, 1 / self.decrease, self.increase)
        # A step that gained a quarter or more was long enough, but not too long.
        taken = jnp.where(ratio < 0.25, 2.0, jnp.minimum(factor, 1))
        factor = jnp.where(accepted, taken, jnp.maximum(factor, 2))
        return jnp.clip(damping * factor, self.minimum, self.maximum)
