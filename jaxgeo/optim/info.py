"""Reports about a step. Their schema is fixed, so that a state can be the carry of a scan."""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxgeo.linalg.linearisation import Linearisation
from jaxgeo.linalg.solvers import LiftInfo
from jaxgeo.linalg.solvers.base import FAILED
from jaxgeo.linalg.tangents import norm
from jaxgeo.optim.attempt import Tried


class DirectionInfo(NamedTuple):
    """Report of a direction; a later transformation decides the step size.

    - `cost`: C on the batch.
    - `predicted`: decrease of C in a full step (learning rate 1), predicted by the linearised outputs.
    - `damping`: relative to trace(DDᵀ)/QN; 0 for none.
    - `outcome`, `rank`, `residual`, `mismatch`: of the lift, as in `jaxgeo.linalg.LiftInfo`.
    """

    cost: Float[Array, ""]
    predicted: Float[Array, ""]
    damping: Float[Array, ""]
    outcome: Int[Array, ""]
    rank: Int[Array, ""]
    residual: Float[Array, ""]
    mismatch: Float[Array, ""]


class StepInfo(NamedTuple):
    """Report of a step that was tried on its batch.

    - `cost`: C on the batch before the step.
    - `new_cost`: C on the batch after the step; equal to `cost` if the step was rejected.
    - `predicted`: decrease of C predicted by the linearised outputs.
    - `gain_ratio`: actual decrease divided by `predicted`. It is computed from differences of outputs, so it stays
        meaningful at costs near round-off. It belongs to the last trial, even a rejected one; −∞ if that was not
        finite.
    - `damping`: relative to trace(DDᵀ)/QN; 0 for none.
    - `fraction`: fraction of the computed step that was taken; below 1 after a cap or halvings, 0 if rejected.
    - `norm`: length of the update in parameter space.
    - `accepted`: whether the parameters moved.
    - `outcome`, `rank`, `residual`, `mismatch`: of the lift, as in `jaxgeo.linalg.LiftInfo`.
    """

    cost: Float[Array, ""]
    new_cost: Float[Array, ""]
    predicted: Float[Array, ""]
    gain_ratio: Float[Array, ""]
    damping: Float[Array, ""]
    fraction: Float[Array, ""]
    norm: Float[Array, ""]
    accepted: Bool[Array, ""]
    outcome: Int[Array, ""]
    rank: Int[Array, ""]
    residual: Float[Array, ""]
    mismatch: Float[Array, ""]


def empty_direction(dtype: jnp.dtype) -> DirectionInfo:
    """Before the first update."""
    return DirectionInfo(_zero(dtype), _zero(dtype), _zero(dtype), *_lift_before(dtype))


def empty_step(dtype: jnp.dtype) -> StepInfo:
    """Before the first update."""
    costs = _zero(dtype), _zero(dtype), _zero(dtype), _zero(dtype)
    return StepInfo(*costs, _zero(dtype), _zero(dtype), _zero(dtype), jnp.zeros((), bool), *_lift_before(dtype))


def _zero(dtype: jnp.dtype) -> Float[Array, ""]:
    """A zero in a new buffer, so that a state can be donated."""
    return jnp.zeros((), dtype)


def _lift_before(dtype: jnp.dtype) -> LiftInfo:
    return LiftInfo(jnp.zeros((), jnp.int32), jnp.full((), -1, jnp.int32), _zero(dtype), _zero(dtype))


def direction_info(
    last: DirectionInfo, linear: Linearisation, direction: PyTree, damping: Float[Array, ""], lift: LiftInfo
) -> DirectionInfo:
    """The report of a direction, in the dtypes of the last report."""
    predicted = linear.predicted_decrease(-linear.jacobian.mv(direction))
    return _cast_like(last, DirectionInfo(linear.cost, predicted, damping, *_failed_if_undefined(lift, predicted)))


def step_info(
    last: StepInfo, linear: Linearisation, tried: Tried, damping: Float[Array, ""], lift: LiftInfo
) -> StepInfo:
    """The report of a step that was tried, in the dtypes of the last report."""
    _, trial, fraction, accepted, gain_ratio = tried
    change, length = (linear.cost, trial.cost, trial.predicted, gain_ratio), norm(trial.step)
    moved, lift = length > 0, _failed_if_undefined(lift, trial.predicted)
    report = StepInfo(*change, damping, jnp.where(moved, fraction, 0), length, accepted & moved, *lift)
    return _cast_like(last, report)


def _failed_if_undefined(lift: LiftInfo, predicted: Float[Array, ""]) -> LiftInfo:
    """The report of a lift; it says failed if D or the residual is not finite."""
    return lift._replace(outcome=jnp.where(jnp.isnan(predicted), FAILED, lift.outcome))


Info = TypeVar("Info", DirectionInfo, StepInfo)


def _cast_like(last: Info, info: Info) -> Info:
    return jax.tree.map(lambda old, new: new.astype(old.dtype), last, info)
