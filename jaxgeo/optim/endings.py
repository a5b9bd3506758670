"""How a run ends: when an optimizer is at the end of what it can do, and the words for it."""

import enum
from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxgeo._fields import COUNT, NOT_NEGATIVE, Checked
from jaxgeo.linalg.linearisation import Linearisation
from jaxgeo.linalg.precision import without_tf32
from jaxgeo.linalg.solvers.base import FAILED
from jaxgeo.linalg.tangents import freeze, norm
from jaxgeo.optim.info import StepInfo
from jaxgeo.optim.scaling import column_norms

# Residuals this small, relative to the outputs, only occur in the last steps of an exact fit.
NEAR = 1e-3


class Outcome(enum.Enum):
    """How a run ended."""

    REACHED = "reached"
    CONVERGED = "converged"
    STALLED = "stalled"
    MAX_STEPS = "max_steps"
    MAX_SECONDS = "max_seconds"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    EARLY = "early"
    STOPPED = "stopped"

    @property
    def words(self) -> str:
        """The outcome in words."""
        return _OUTCOMES[self]


_OUTCOMES = {
    Outcome.REACHED: "the cost reached the tolerance",
    Outcome.CONVERGED: "there is no lower cost nearby",
    Outcome.STALLED: "the cost stopped falling",
    Outcome.MAX_STEPS: "all allowed steps are used up",
    Outcome.MAX_SECONDS: "the allowed time is used up",
    Outcome.FAILED: "the run failed",
    Outcome.INTERRUPTED: "the run was interrupted",
    Outcome.EARLY: "the held-out cost stopped improving",
    Outcome.STOPPED: "a callback stopped the run",
}


class Ending(enum.IntEnum):
    """Why an optimizer can make no more progress; `NONE` while it can."""

    NONE = 0
    GRADIENT = 1
    STEP = 2
    DECREASE = 3
    PRECISION = 4
    STALLED = 5
    FAILED = 6
    UNRESOLVED = 7

    @property
    def words(self) -> str:
        """The reason in words."""
        return _WORDS[self]

    @property
    def outcome(self) -> Outcome | None:
        """The outcome of a run that ends for this reason; None while the run continues."""
        match self:
            case Ending.NONE:
                return None
            case Ending.STALLED:
                return Outcome.STALLED
            case Ending.FAILED | Ending.UNRESOLVED:
                return Outcome.FAILED
            case _:
                return Outcome.CONVERGED


_WORDS = {
    Ending.NONE: "",
    Ending.GRADIENT: "the residual is orthogonal to every change that the parameters can make",
    Ending.STEP: "steps no longer change the parameters",
    Ending.DECREASE: "the relative decrease of the cost became negligible",
    Ending.PRECISION: "the cost is exact up to round-off of the outputs",
    Ending.STALLED: "no step lowers the cost any more, although the gradient is not zero",
    Ending.FAILED: "the cost or its derivatives are not finite",
    Ending.UNRESOLVED: (
        "the derivatives are so large that the last digit of the parameters decides the outputs, so no step can lower "
        "the cost. This is no minimum: start elsewhere, or with more damping"
    ),
}


class Start(NamedTuple):
    """The result of one of several starts.

    - `cost`: final cost. `num_steps`: number of updates.
    - `outcome`: how this start ended; None if the run ended first. `message` says why.
    """

    cost: float
    outcome: Outcome | None
    message: str
    num_steps: int


def told_of(starts: Sequence[Start]) -> str:
    """The results of several starts, in words."""
    return f"the best of {len(starts)} starts, whose costs are {', '.join(f'{start.cost:.6g}' for start in starts)}"


class EndState(NamedTuple):
    """What `Ends` carries from update to update.

    - `ending`: an `Ending`; 0 while the optimizer can make progress.
    - `small`: number of updates in a row that hardly lowered the cost.
    - `rejected`: number of updates in a row that were rejected.
    - `scale`: the largest norm so far of the outputs plus that of the targets.
    """

    ending: Int[Array, ""]
    small: Int[Array, ""]
    rejected: Int[Array, ""]
    scale: Float[Array, ""]

    def unless(self, goes_on: Bool[Array, ""]) -> "EndState":
        """Clear every ending except failure while the objective itself still changes."""
        ending = jnp.where(goes_on & (self.ending != Ending.FAILED), 0, self.ending)
        small, rejected = (jnp.where(goes_on, 0, count) for count in (self.small, self.rejected))
        return self._replace(ending=ending, small=small, rejected=rejected)


class Ends(Checked):
    """MINPACK's criteria for when an optimizer that always sees the same batch can make no more progress.

    The optimizer records the ending in its state; further updates remain possible. On minibatches the criteria are
    meaningless. No tolerance is taken smaller than round-off of the dtype.

    **Arguments:**

    - `gtol`: converged when the cosine of the angle between the residual and every column of D is at most `gtol`. Used
        only where D is built, as with few parameters.
    - `xtol`: converged when the length of a step is at most `xtol` times that of the parameters.
    - `ftol`: converged when both the decrease of the cost and the predicted decrease are at most `ftol` times the cost
        in `small` updates in a row.
    - `small`: that number of updates; in it a fast method finds the last digits of the parameters.
    - `rejected`: stalled after this number of rejected updates in a row.
    """

    gtol: float = eqx.field(default=0.0, metadata=NOT_NEGATIVE)
    xtol: float = eqx.field(default=0.0, metadata=NOT_NEGATIVE)
    ftol: float = eqx.field(default=1e-10, metadata=NOT_NEGATIVE)
    small: int = eqx.field(static=True, default=4, metadata=COUNT)
    rejected: int = eqx.field(static=True, default=12, metadata=COUNT)

    def init(self, dtype: jnp.dtype) -> EndState:
        """Before the first update."""
        zero = jnp.zeros((), jnp.int32)
        return EndState(zero, zero, zero, jnp.zeros((), dtype))

    def __call__(
        self, state: EndState, linear: Linearisation, info: StepInfo, matrix: Float[Array, "rows K"] | None = None
    ) -> EndState:
        """The state after an update with this report; `matrix` is D if it was built."""
        linear, info, matrix = freeze((linear, info, matrix))
        eps = float(jnp.finfo(linear.outputs.dtype).eps)
        jacobian, residual, params = linear.jacobian, linear.residual, linear.trainable
        cosine = jnp.asarray(jnp.inf) if matrix is None else _largest_cosine(matrix, residual)
        # The cost that round-off of the outputs and of the parameters alone would cause.
        outputs = linear.measure(linear.outputs)
        sizes = jax.vmap(norm)(jnp.stack([outputs, outputs - residual, jacobian.mv(params)]))
        noise = 0.5 * eps**2 * jnp.sum(sizes**2) / linear.total_weight
        # The outputs at the minimum alone are no scale: those of residuals vanish there.
        scale = jnp.maximum(state.scale, (sizes[0] + sizes[1]).astype(state.scale.dtype))
        coarse = (eps * sizes[2] > scale) & (info.cost > 0)
        # Far from the solution the outputs are larger, and `noise` would be too large a bound.
        exact = (info.new_cost <= noise) & (info.cost <= (NEAR / eps) ** 2 * noise)
        least = jnp.asarray(max(self.ftol, 4 * eps), info.cost.dtype) * info.cost
        little = (jnp.abs(info.predicted) <= least) & (info.cost - info.new_cost <= least)
        # A small decrease in a shortened step proves little, unless the gradient is small too.
        little &= info.accepted | (cosine <= self.ftol**0.5)
        small = jnp.where(little, state.small + 1, 0)
        rejected = jnp.where(info.accepted, 0, state.rejected + 1)
        still = info.norm <= max(self.xtol, 2 * eps) * jnp.where(norm(params) > 0, norm(params), 1)
        ends = (
            (~jnp.isfinite(info.new_cost) | (info.outcome == FAILED), Ending.FAILED),
            (coarse & (~info.accepted | still), Ending.UNRESOLVED),
            (cosine <= max(self.gtol, 4 * eps), Ending.GRADIENT),
            (((jnp.abs(info.predicted) <= noise) | exact) & ~coarse, Ending.PRECISION),
            (info.accepted & still, Ending.STEP),
            (small >= self.small, Ending.DECREASE),
            (rejected >= self.rejected, Ending.STALLED),
        )
        ending = jnp.zeros((), jnp.int32)
        for met, kind in reversed(ends):
            ending = jnp.where(met, jnp.int32(kind), ending)
        return EndState(ending, small.astype(jnp.int32), rejected.astype(jnp.int32), scale)


@without_tf32
def _largest_cosine(matrix: Float[Array, "rows K"], residual: Float[Array, "..."]) -> Float[Array, ""]:
    """The largest cosine of an angle between the residual and a column of D; 0 if the residual is 0."""
    size, norms = norm(residual), column_norms(matrix)
    slopes = jnp.abs((residual.reshape(-1) / jnp.where(size > 0, size, 1)) @ matrix)
    return jnp.max(jnp.where(norms > 0, slopes / jnp.where(norms > 0, norms, 1), 0))
