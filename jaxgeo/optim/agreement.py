"""Damping for batches that are samples, by what the next batch says of the last update."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxgeo._checks import check_number, check_positive


class Agreement(NamedTuple):
    """What is known of the damping before a step.

    - `damping`: of the next step.
    - `slope`: dC/dt on the last batch at θ + tδ, t = 0, for the last update δ.
    - `promised`: the same at t = 1 by the linearised outputs, where the next batch finds its own.
    - `rate`: the learning rate of the last update; 0 before the first, and after one that was rejected.
    """

    damping: Float[Array, ""]
    slope: Float[Array, ""]
    promised: Float[Array, ""]
    rate: Float[Array, ""]


class NextBatchDamping(eqx.Module):
    """Damping by how well the next batch agrees with what was promised on the last.

    A step that fits the noise of its batch keeps its promise on that batch, so only another one can tell. The slope of
    the cost along the last update, at its end, is what the linearised outputs promise, and what the next batch finds
    there, for one product with D. The damping is multiplied by

        |found − promised| / (`error` · |slope at the start|),

    as an ODE solver chooses its steps. On full batches the two differ by the bend of the network alone, and
    the damping falls to nothing near the end. On batches of samples they differ by the noise, and it rises to `most`,
    where few directions of each batch are fitted; what is left to choose is a learning rate, and its schedule.

    Relative: λ = damping · trace(DDᵀ)/QN.

    **Arguments:**

    - `initial`: damping of the first step.
    - `most`, `least`: its bounds.
    - `error`: relative error of the promise to aim at.
    - `decrease`, `increase`: the largest factors by which it falls and rises.
    """

    initial: float = 50.0
    most: float = 50.0
    least: float = 1e-16
    error: float = 0.3
    decrease: float = 10.0
    increase: float = 10.0

    def __check_init__(self):
        for name in ("initial", "most", "least", "error"):
            check_positive(name, vars(self)[name])
        for name in ("decrease", "increase"):
            check_number(name, vars(self)[name], least=1)

    def init(self, dtype: jnp.dtype) -> Agreement:
        """Before the first step."""
        zero = jnp.zeros((), dtype)
        return Agreement(jnp.asarray(self.initial, dtype), zero, zero, zero)

    def learn(self, state: Agreement, found: Float[Array, ""]) -> Float[Array, ""]:
        """The damping of this step, from the slope that its batch finds along the last update."""
        wrong = jnp.abs(found - state.promised)
        steep = self.error * jnp.abs(state.slope)
        factor = jnp.where(steep > 0, wrong / jnp.where(steep > 0, steep, 1), 1)
        factor = jnp.where(jnp.isfinite(factor), factor, self.increase)
        factor = jnp.clip(factor, 1 / self.decrease, self.increase)
        known: Bool[Array, ""] = state.rate > 0
        return jnp.clip(jnp.where(known, state.damping * factor, state.damping), self.least, self.most)
