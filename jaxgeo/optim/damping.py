"""How much a lift is damped from step to step."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Schedule = Callable[[Int[Array, ""]], Float[Array, ""] | float]
Value = float | Float[Array, ""] | Schedule


def value_at(value: Value, count: Int[Array, ""], dtype: jnp.dtype) -> Float[Array, ""]:
    """A number, or what an optax schedule gives at this step."""
    return jnp.asarray(value(count) if callable(value) else value, dtype)


class GainRatioDamping(eqx.Module):
    """Damping by how well the linearised outputs predicted the last step.

    Relative: λ = damping · trace(DDᵀ)/QN. After a step that gained `good` or more of what was predicted, the damping
    is divided by `decrease`, the next time by its square, and so on: far from round-off nothing but the curvature
    of the network limits the step, and the last steps are undamped Newton steps, which converge quadratically. After
    a poor or rejected step it is multiplied by `increase`, growing likewise.

    **Arguments:**

    - `initial`: damping of the first step.
    - `good`, `poor`: gain ratios from which the damping falls, and below which it rises.
    - `decrease`, `increase`: the first factors of a run of good or bad steps.
    - `minimum`, `maximum`: bounds.
    """

    initial: float | Float[Array, ""] = 1e-3
    good: float = 0.75
    poor: float = 0.25
    decrease: float = 4.0
    increase: float = 4.0
    minimum: float = 1e-30
    maximum: float = 1e10

    def update(
        self, damping: Float[Array, ""], run: Float[Array, ""], ratio: Float[Array, ""], accepted: Bool[Array, ""]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """The next damping, and the next length of the run of good (positive) or bad (negative) steps."""
        good = accepted & (ratio >= self.good)
        bad = ~accepted | (ratio < self.poor)
        run = jnp.where(good, jnp.maximum(run, 0) + 1, jnp.where(bad, jnp.minimum(run, 0) - 1, jnp.zeros_like(run)))
        factor = jnp.where(good, self.decrease**-run, jnp.where(bad, self.increase**-run, 1))
        return jnp.clip(damping * factor, self.minimum, self.maximum), run
