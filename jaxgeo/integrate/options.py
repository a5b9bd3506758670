"""The options of an integration, each checked by the field that holds it."""

from collections.abc import Callable, Sequence
from typing import Any

import diffrax as dfx
import equinox as eqx
from jaxtyping import Array, Float, PyTree

from jaxgeo._checks import check_function, plain
from jaxgeo._fields import COUNT, NOT_NEGATIVE, POSITIVE, Checked, kind
from jaxgeo.flows import AbstractFlow
from jaxgeo.integrate.events import Threshold
from jaxgeo.integrate.times import Scalar
from jaxgeo.integrate.wrapped import SOLVER
from jaxgeo.outputs import Params
from jaxgeo.problem import Problem

Record = Callable[[Float[Array, ""], Params, Problem], PyTree]


class Whole(eqx.Module):
    """Calls a user's function `(s, params, problem)` with all parameters, given the trainable ones."""

    function: Callable[[Float[Array, ""], Params, Problem], Any]

    def __call__(self, s: Float[Array, ""], trainable: PyTree, problem: Problem) -> Any:
        problem, params = problem.extend(trainable)
        return self.function(s, params, problem)


def _as_events(events: Sequence[Threshold]) -> tuple[Whole, ...]:
    if not isinstance(events, Sequence) or not all(callable(event) for event in events):
        raise ValueError(f"`events` must be a list of functions (s, params, problem); got {events!r}.")
    return tuple(Whole(event) for event in events)


def _as_record(record: Record | None) -> Whole | None:
    if record is None:
        return None
    check_function("record", record)
    return Whole(record)


class Options(Checked):
    """The options of `solve_flow` that stay the same over all restarts; None means the default."""

    flow: AbstractFlow = eqx.field(metadata=kind(AbstractFlow, "a flow, such as `jaxgeo.AdaptedFlow()`"))
    s1: Scalar | None = eqx.field(metadata=POSITIVE)
    cost_tol: Scalar | None = eqx.field(metadata=POSITIVE)
    events: tuple[Whole, ...] = eqx.field(converter=_as_events)
    solver: dfx.AbstractSolver | None = eqx.field(metadata=SOLVER)
    rtol: Scalar | None = eqx.field(metadata=POSITIVE)
    atol: Scalar | None = eqx.field(metadata=NOT_NEGATIVE)
    stepsize_controller: dfx.AbstractStepSizeController | None = eqx.field(
        metadata=kind(dfx.AbstractStepSizeController, "a step-size controller of diffrax")
    )
    dt0: Scalar | None = eqx.field(metadata=POSITIVE)
    record: Whole | None = eqx.field(converter=_as_record)
    path_lengths: bool
    max_steps: int | None = eqx.field(converter=plain, metadata=COUNT)
    adjoint: dfx.AbstractAdjoint | None = eqx.field(metadata=kind(dfx.AbstractAdjoint, "an adjoint of diffrax"))
    progress_meter: dfx.AbstractProgressMeter | None = eqx.field(
        metadata=kind(dfx.AbstractProgressMeter, "a progress meter of diffrax")
    )
