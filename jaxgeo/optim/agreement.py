"""Damping for minibatches, and which batch judges an update: the next one, its own, or none."""

import abc
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxgeo._checks import check_number, check_positive
from jaxgeo._sums import total
from jaxgeo.linalg.linearisation import Linearisation
from jaxgeo.optim.attempt import LEAST_GAIN, Tried
from jaxgeo.optim.damping import GainRatioDamping, Value, value_at

# Round-off of the outputs, in units of the last place, by which the cost of the same batch may seem to differ.
ROUND_OFF = 128


class Agreement(NamedTuple):
    """The damping of the next step, and the prediction that the next batch checks. All 0 before the first update.

    - `damping`: damping of the last step.
    - `own`: damping of the next step if the batch of a step judges it itself.
    - `slope`: dC/dt of the last batch at θ + tδ, t = 0, for the last update δ.
    - `promised`: the same slope at t = 1, predicted by the linearised outputs. The next batch measures its own.
    - `rate`: learning rate of the last update; 0 after a rejected one.
    - `cost`: the cost of the last batch after its update.
    """

    damping: Float[Array, ""]
    own: Float[Array, ""]
    slope: Float[Array, ""]
    promised: Float[Array, ""]
    rate: Float[Array, ""]
    cost: Float[Array, ""]


class AbstractBatchDamping(eqx.Module):
    """How much the updates of minibatches are damped.

    - `momentum`: the momentum that suits it.
    - `corrections`: the most corrections of an update that its own batch judges.
    """

    momentum: ClassVar[float] = 0.8
    corrections: ClassVar[int] = 0

    @property
    @abc.abstractmethod
    def bounds(self) -> tuple[float, float]:
        """Bounds of the damping that are known when the program is traced."""

    @abc.abstractmethod
    def damping(
        self, kept: Agreement, linear: Linearisation, moving: Float[Array, "rows R"], count: Int[Array, ""]
    ) -> tuple[Float[Array, ""], bool | Bool[Array, ""]]:
        """The damping of update number `count`, and whether its own batch judges it.

        **Arguments:**

        - `moving`: D times the last update at learning rate 1.
        """

    def after(self, damping: Float[Array, ""], tried: Tried) -> Float[Array, ""]:
        """The damping of the next update if this one's batch has judged it."""
        del tried
        return damping


class GivenDamping(AbstractBatchDamping):
    """A number or an optax schedule, which no batch judges."""

    value: Value

    @property
    def bounds(self) -> tuple[float, float]:
        return (self.value, self.value) if isinstance(self.value, float | int) else (0.0, float("inf"))

    def damping(self, kept, linear, moving, count):
        return value_at(self.value, count, linear.outputs.dtype), False


class NextBatchDamping(AbstractBatchDamping):
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

    @property
    def bounds(self) -> tuple[float, float]:
        return self.least, self.most

    def damping(self, kept, linear, moving, count):
        found = kept.rate * (total(linear.residual * moving) / linear.total_weight).astype(kept.rate.dtype)
        return self.learn(kept, found).astype(linear.outputs.dtype), False

    def learn(self, kept: Agreement, found: Float[Array, ""]) -> Float[Array, ""]:
        """The damping of this step, from the slope that its batch measures along the last update."""
        before = _or_initial(kept.damping, self.initial)
        wrong = jnp.abs(found - kept.promised)
        steep = self.error * jnp.abs(kept.slope)
        factor = jnp.where(steep > 0, wrong / jnp.where(steep > 0, steep, 1), 1)
        factor = jnp.where(jnp.isfinite(factor), factor, self.increase)
        factor = jnp.clip(factor, 1 / self.decrease, self.increase)
        known: Bool[Array, ""] = kept.rate > 0
        return jnp.clip(jnp.where(known, before * factor, before), self.least, self.most)


class OwnBatchDamping(AbstractBatchDamping):
    """By the gain ratio, for batches of least squares that determine all parameters: each judges its own update."""

    # A fresh batch confirms less of a long step than the batch itself, so the error to aim at is smaller than by
    # default.
    by: ClassVar[GainRatioDamping] = GainRatioDamping(error=0.3)
    # Along damped directions it would outlive the linearisation that it came from.
    momentum: ClassVar[float] = 0.0
    corrections: ClassVar[int] = by.corrections

    @property
    def bounds(self) -> tuple[float, float]:
        return 0.0, 0.0

    def damping(self, kept, linear, moving, count):
        return _or_initial(kept.own, self.by.initial).astype(linear.outputs.dtype), True

    def after(self, damping: Float[Array, ""], tried: Tried) -> Float[Array, ""]:
        # A step that made the batch worse counts as rejected, though it may have been taken.
        return self.by.after(damping, tried._replace(accepted=tried.accepted & (tried.gain_ratio >= LEAST_GAIN)))


class SmallBatchDamping(OwnBatchDamping):
    """For batches of least squares that do not determine all parameters.

    If it is the same in each update, a batch judges its own update. Otherwise the next batch must, and a damping of at
    most 0.1 keeps what a batch does not determine from moving far.
    """

    by_next: ClassVar[NextBatchDamping] = NextBatchDamping(initial=0.1, most=0.1, decrease=10.0)

    def damping(self, kept, linear, moving, count):
        own, _ = super().damping(kept, linear, moving, count)
        learnt, _ = self.by_next.damping(kept, linear, moving, count)
        same = _is_same_batch(linear, kept.cost)
        return jnp.where(same, own, learnt), same


def _or_initial(damping: Float[Array, ""], initial: float | Float[Array, ""]) -> Float[Array, ""]:
    """The damping, or before the first update, when it is 0, the initial one."""
    return jnp.where(damping > 0, damping, jnp.asarray(initial, damping.dtype))


def _is_same_batch(linear: Linearisation, last: Float[Array, ""]) -> Bool[Array, ""]:
    """Whether the cost is that at the end of the last update, up to round-off in the outputs."""
    cost = linear.cost
    size = cost + total(linear.outputs**2) / linear.total_weight
    round_off = ROUND_OFF * jnp.finfo(last.dtype).eps * jnp.sqrt(cost * size)
    return jnp.abs(cost - last.astype(cost.dtype)) <= round_off.astype(cost.dtype)
