"""Damping for minibatches: the next batch judges the last update."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxgeo._checks import check_number, check_positive


class Agreement(NamedTuple):
    """The damping of the next step, and the prediction that the next batch checks.

    - `damping`: damping of the last step.
    - `own`: damping of the next step if the batch of a step judges it itself.
    - `slope`: dC/dt of the last batch at θ + tδ, t = 0, for the last update δ.
    - `promised`: the same slope at t = 1, predicted by the linearised outputs. The next batch measures its own.
    - `rate`: learning rate of the last update; 0 before the first update and after a rejected one.
    """

    damping: Float[Array, ""]
    own: Float[Array, ""]
    slope: Float[Array, ""]
    promised: Float[Array, ""]
    rate: Float[Array, ""]


class NextBatchDamping(eqx.Module):
    """Damping for noisy minibatches, adapted by how well the next batch confirms the last update.

    Use it when a batch is a sample of the data, so that fitting the batch exactly would fit its noise. You then only
    choose a learning rate and its schedule.

    A step that fits the noise of its batch looks good on that batch, so only another batch can judge it. The
    linearised outputs predict the slope of the cost at the end of the update. The next batch measures this slope, at
    the price of one product with D. The damping is multiplied by

        |measured − predicted| / (`error` · |slope at the start|),

    just as an ODE solver adapts its step size. With full batches the two slopes differ only because the network is
    nonlinear, and the damping tends to zero near the minimum. With minibatches they also differ by the noise, and the
    damping rises to `most`, where each batch determines only a few directions.

    The damping is relative: λ = damping · trace(DDᵀ)/QN.

    **Arguments:**

    - `initial`: damping of the first step.
    - `most`, `least`: upper and lower bound of the damping.
    - `error`: the relative error of the predicted slope to aim at.
    - `decrease`, `increase`: the largest factors by which the damping falls and rises in a step. A slope that one batch
        measures is noisy, so a single agreement lowers the damping only a little.
    """

    initial: float = 25.0
    most: float = 25.0
    least: float = 1e-16
    error: float = 0.3
    decrease: float = 1.2
    increase: float = 10.0

    def __check_init__(self):
        for name in ("initial", "most", "least", "error"):
            check_positive(name, vars(self)[name])
        for name in ("decrease", "increase"):
            check_number(name, vars(self)[name], least=1)

    def init(self, dtype: jnp.dtype) -> Agreement:
        """Before the first step."""
        # Each in a buffer of its own, so that the state can be donated.
        return Agreement(*(jnp.full((), value, dtype) for value in (self.initial, self.initial, 0, 0, 0)))

    def learn(self, state: Agreement, found: Float[Array, ""]) -> Float[Array, ""]:
        """The damping of this step, from the slope that its batch measures along the last update."""
        wrong = jnp.abs(found - state.promised)
        steep = self.error * jnp.abs(state.slope)
        factor = jnp.where(steep > 0, wrong / jnp.where(steep > 0, steep, 1), 1)
        factor = jnp.where(jnp.isfinite(factor), factor, self.increase)
        factor = jnp.clip(factor, 1 / self.decrease, self.increase)
        known: Bool[Array, ""] = state.rate > 0
        return jnp.clip(jnp.where(known, state.damping * factor, state.damping), self.least, self.most)
