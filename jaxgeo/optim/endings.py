"""How a run ends: when an optimizer is at the end of what it can do, and the words for it."""

import enum
from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxgeo._fields import COUNT, NOT_NEGATIVE, Checked
from jaxgeo.linalg.linearisation import Linearisation
from jaxgeo.linalg.precision import without_tf32
from jaxgeo.linalg.solvers.base import FAILED
from jaxgeo.linalg.tangents import freeze, norm
from jaxgeo.optim.info import StepInfo
from jaxgeo.optim.scaling import column_norms

# Residuals of so small a part of the outputs are those of the last steps of an exact fit.
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
        """What that means."""
        return _OUTCOMES[self]


_OUTCOMES = {
    Outcome.REACHED: "the cost is at the tolerance",
    Outcome.CONVERGED: "there is no lower cost nearby",
    Outcome.STALLED: "the cost does not fall any more",
    Outcome.MAX_STEPS: "the allowed steps are used up",
    Outcome.MAX_SECONDS: "the allowed time is used up",
    Outcome.FAILED: "the run failed",
    Outcome.INTERRUPTED: "the run was interrupted",
    Outcome.EARLY: "the cost of what is held out has no new minimum any more",
    Outcome.STOPPED: "a callback ended the run",
}


class Ending(enum.IntEnum):
    """Why an optimizer has nothing more to do; `NONE` while it has."""

    NONE = 0
    GRADIENT = 1
    STEP = 2
    DECREASE = 3
    PRECISION = 4
    STALLED = 5
    FAILED = 6

    @property
    def words(self) -> str:
        """The reason."""
        return _WORDS[self]

    @property
    def outcome(self) -> Outcome | None:
        """How a run ends for it; None while it goes on."""
        if self in (Ending.STALLED, Ending.FAILED):
            return Outcome[self.name]
        return None if self is Ending.NONE else Outcome.CONVERGED


_WORDS = {
    Ending.NONE: "",
    Ending.GRADIENT: "the residual is orthogonal to what the parameters can change",
    Ending.STEP: "steps no longer change the parameters",
    Ending.DECREASE: "the cost no longer falls by a part of it that counts",
    Ending.PRECISION: "the cost is exact to the round-off of the outputs",
    Ending.STALLED: "no step lowers the cost any more, though the gradient asks for one",
    Ending.FAILED: "the cost or its derivatives are not finite",
}


class Start(NamedTuple):
    """Where one of several starts led.

    - `cost`: at the end. `num_steps`: updates until then.
    - `outcome`: how it ended; None where the run ended before it. `message` says why.
    """

    cost: float
    outcome: Outcome | None
    message: str
    num_steps: int


def told_of(starts: Sequence[Start]) -> str:
    """Where several starts led, in words."""
    return f"the best of {len(starts)} starts, which led to {', '.join(f'{start.cost:.6g}' for start in starts)}"


class EndState(NamedTuple):
    """What an end is judged by from update to update.

    - `ending`: an `Ending`, 0 while there is more to do.
    - `small`: updates in a row that hardly lowered the cost. `rejected`: updates in a row that were rejected.
    """

    ending: Int[Array, ""]
    small: Int[Array, ""]
    rejected: Int[Array, ""]

    def unless(self, goes_on: Bool[Array, ""]) -> "EndState":
        """Without an end but failure where what is minimised still changes."""
        ending = jnp.where(goes_on & (self.ending != Ending.FAILED), 0, self.ending)
        return EndState(ending, jnp.where(goes_on, 0, self.small), jnp.where(goes_on, 0, self.rejected))


class Ends(Checked):
    """When an optimizer on one and the same batch is at the end of what it can do, by MINPACK's criteria.

    It says so in its state and goes on if it is asked to. On minibatches it means nothing. The tolerances are at least
    round-off of the dtype.

    **Arguments:**

    - `gtol`: converged where the cosine of the angle between the residual and each column of D is at most this; where
        D is built, as for few parameters.
    - `xtol`: converged where a step is at most this part of the parameters.
    - `ftol`: converged where the cost falls by at most this part, and should have by no more, in each of `small`
        updates.
    - `small`: so many, in which a fast method gets the last digits of the parameters.
    - `rejected`: stalled after so many rejected updates in a row.
    """

    gtol: float = eqx.field(default=0.0, metadata=NOT_NEGATIVE)
    xtol: float = eqx.field(default=0.0, metadata=NOT_NEGATIVE)
    ftol: float = eqx.field(default=1e-10, metadata=NOT_NEGATIVE)
    small: int = eqx.field(static=True, default=4, metadata=COUNT)
    rejected: int = eqx.field(static=True, default=12, metadata=COUNT)

    def init(self) -> EndState:
        """Before the first update."""
        zero = jnp.zeros((), jnp.int32)
        return EndState(zero, zero, zero)

    def __call__(
        self, state: EndState, linear: Linearisation, info: StepInfo, matrix: Float[Array, "rows K"] | None = None
    ) -> EndState:
        """The state after an update with this report; `matrix` is D where it is at hand."""
        linear, info, matrix = freeze((linear, info, matrix))
        eps = float(jnp.finfo(linear.outputs.dtype).eps)
        jacobian, residual, params = linear.jacobian, linear.residual, linear.trainable
        cosine = jnp.asarray(jnp.inf) if matrix is None else _largest_cosine(matrix, residual)
        # What round-off of the outputs and of the parameters makes of the cost.
        outputs = linear.measure(linear.outputs)
        sizes = [norm(rows) ** 2 for rows in (outputs, outputs - residual, jacobian.mv(params))]
        noise = 0.5 * eps**2 * sum(sizes) / linear.total_weight
        # From far away, where outputs are larger, this is too much.
        exact = (info.new_cost <= noise) & (info.cost <= (NEAR / eps) ** 2 * noise)
        least = jnp.asarray(max(self.ftol, 4 * eps), info.cost.dtype) * info.cost
        little = (jnp.abs(info.predicted) <= least) & (info.cost - info.new_cost <= least)
        # A step that was cut short says little, unless the gradient does.
        little &= info.accepted | (cosine <= self.ftol**0.5)
        small = jnp.where(little, state.small + 1, 0)
        rejected = jnp.where(info.accepted, 0, state.rejected + 1)
        fraction = info.norm / jnp.where(norm(params) > 0, norm(params), 1)
        ends = (
            (~jnp.isfinite(info.new_cost) | (info.outcome == FAILED), Ending.FAILED),
            (cosine <= max(self.gtol, 4 * eps), Ending.GRADIENT),
            ((jnp.abs(info.predicted) <= noise) | exact, Ending.PRECISION),
            (info.accepted & (fraction <= max(self.xtol, 2 * eps)), Ending.STEP),
            (small >= self.small, Ending.DECREASE),
            (rejected >= self.rejected, Ending.STALLED),
        )
        ending = jnp.select([met for met, _ in ends], [jnp.int32(kind) for _, kind in ends], jnp.int32(0))
        return EndState(ending, small.astype(jnp.int32), rejected.astype(jnp.int32))


@without_tf32
def _largest_cosine(matrix: Float[Array, "rows K"], residual: Float[Array, "..."]) -> Float[Array, ""]:
    """That of the angle between the residual and a column of D; 0 where there is no residual."""
    size, norms = norm(residual), column_norms(matrix)
    slopes = jnp.abs((residual.reshape(-1) / jnp.where(size > 0, size, 1)) @ matrix)
    return jnp.max(jnp.where(norms > 0, slopes / jnp.where(norms > 0, norms, 1), 0))
