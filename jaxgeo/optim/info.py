"""What an optimizer reports about a step, with a fixed schema, so that a state can be a scan carry."""

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
    """A direction that was computed, before its size is decided elsewhere.

    - `cost`: C on the batch.
    - `predicted`: by how much C falls in a full step (learning rate 1), by the linearised outputs.
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
    """A step that was tried on its batch.

    - `cost`: C on the batch, at the parameters that the step started from.
    - `new_cost`: C on the batch where the step ends; equal to `cost` if it was rejected.
    - `predicted`: by how much C should have fallen, by the linearised outputs.
    - `gain_ratio`: by how much it did, in units of that; computed from output differences, so that it keeps its
        meaning at costs near round-off. Of the last trial, also of a rejected one; −∞ where that was not finite.
    - `damping`: relative to trace(DDᵀ)/QN; 0 for none.
    - `fraction`: how much of the computed step was taken; less than 1 after a cap or halvings, 0 if rejected.
    - `norm`: length of the update in parameter space.
    - `accepted`: whether the parameters move.
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
    """With memory of its own each time, so that a state can be donated."""
    return jnp.zeros((), dtype)


def _lift_before(dtype: jnp.dtype) -> LiftInfo:
    return LiftInfo(jnp.zeros((), jnp.int32), jnp.full((), -1, jnp.int32), _zero(dtype), _zero(dtype))


def direction_info(
    last: DirectionInfo, linear: Linearisation, direction: PyTree, damping: Float[Array, ""], lift: LiftInfo
) -> DirectionInfo:
    """The report of a direction, in the dtypes of the last one."""
    predicted = linear.predicted_decrease(-linear.jacobian.mv(direction))
    return _cast_like(last, DirectionInfo(linear.cost, predicted, damping, *_failed_if_undefined(lift, predicted)))


def step_info(
    last: StepInfo, linear: Linearisation, tried: Tried, damping: Float[Array, ""], lift: LiftInfo
) -> StepInfo:
    """The report of a step that was tried, in the dtypes of the last one."""
    _, trial, fraction, accepted, gain_ratio = tried
    change, length = (linear.cost, trial.cost, trial.predicted, gain_ratio), norm(trial.step)
    moved, lift = length > 0, _failed_if_undefined(lift, trial.predicted)
    report = StepInfo(*change, damping, jnp.where(moved, fraction, 0), length, accepted & moved, *lift)
    return _cast_like(last, report)


def _failed_if_undefined(lift: LiftInfo, predicted: Float[Array, ""]) -> LiftInfo:
    """The report of a lift; where D or the residual is not finite, that it failed."""
    return lift._replace(outcome=jnp.where(jnp.isnan(predicted), FAILED, lift.outcome))


Info = TypeVar("Info", DirectionInfo, StepInfo)


def _cast_like(last: Info, info: Info) -> Info:
    return jax.tree.map(lambda old, new: new.astype(old.dtype), last, info)
