"""A flow integrated in parts of a few steps, so that a run can be watched, kept and left at any time."""

import enum
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jaxgeo import RESULTS, solve_flow
from jaxgeo.flows import AbstractFlow
from jaxgeo.problem import Params, Problem
from jaxgeo.training.monitor import Monitor

# Attempted steps of a part. Starting anew costs one velocity of the six that a step of Tsit5 costs.
STEPS = 6


class Outcome(enum.Enum):
    """How a run ended."""

    REACHED = "reached"
    STALLED = "stalled"
    MAX_STEPS = "max_steps"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Part:
    """The state after a part of the integration.

    - `params`: θ. `steps`: steps attempted in this part.
    - `s`, `costs`, `scores`: what was recorded in this part, s from the start of the run.
    - `outcome`: how the run ended, None while it goes on; `message` says more where it failed.
    """

    params: Params
    steps: int
    s: NDArray[np.floating]
    costs: NDArray[np.floating]
    scores: dict[str, NDArray[np.floating]]
    outcome: Outcome | None
    message: str = ""


def integrate_in_parts(
    problem: Problem,
    flow: AbstractFlow,
    params: Params,
    monitor: Monitor,
    *,
    cost_tol: float,
    rtol: float,
    max_steps: int = 1000,
    rank_check: bool = True,
) -> Iterator[Part]:
    """Integrate until the cost is `cost_tol`, handing over every few steps. One compilation serves all parts.

    Each part starts with the last step size of the one before it, so that the steps are those of an integration
    in one go, but for the memory of the step-size controller. The first step of the run is recorded with s = 0;
    later parts leave out their first moment, which ended the part before.

    **Raises:** `ValueError` as `jaxgeo.solve_flow` does.
    """
    # The first step that `solve_flow` would choose along the adapted flow. Left to it, the parts that follow, which
    # are given a step, would be compiled anew.
    dt0 = 0.01 * problem.num_samples
    start, total = 0.0, 0
    outcome = None
    while outcome is None:
        solution = solve_flow(
            problem,
            flow,
            params,
            cost_tol=cost_tol,
            rtol=rtol,
            record=monitor,
            max_steps=STEPS,
            dt0=dt0,
            rank_check=rank_check,
            throw=False,
        )
        params, rank_check = solution.params, False
        s = np.asarray(solution.s)
        steps = int(solution.stats["num_steps"])
        total += steps
        message = ""
        if bool(solution.result == RESULTS.successful):
            outcome = Outcome.REACHED
        elif bool(solution.result == RESULTS.stalled):
            outcome = Outcome.STALLED
        elif not bool(
            (solution.result == RESULTS.max_steps_reached) | (solution.result == RESULTS.cost_tol_not_reached)
        ):
            outcome, message = Outcome.FAILED, RESULTS[solution.result]
        elif total >= max_steps:
            outcome = Outcome.MAX_STEPS
        # A part in which no step was accepted had all its steps cut.
        dt0 = float(s[-1] - s[-2]) if len(s) > 1 else 0.01 * dt0
        first = 0 if total == steps else 1
        scores = {name: np.asarray(values)[first:] for name, values in solution.records.items()}
        yield Part(params, steps, start + s[first:], np.asarray(solution.costs)[first:], scores, outcome, message)
        start += float(s[-1])
