"""What may stop an integration before its end, and what did."""

from typing import Any

import diffrax as dfx
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jaxgeo.integrate.events import CostReached, Crossed, DownwardCrossing, Stalled, Threshold, is_narrow
from jaxgeo.integrate.solution import RESULTS
from jaxgeo.problem import Problem


class Stops(eqx.Module):
    """The thresholds of an integration: the user's events, the cost, and a cost that stops falling."""

    events: tuple[Threshold, ...]
    cost: CostReached | None = None
    stalled: Stalled | None = None

    @property
    def thresholds(self) -> list[Threshold]:
        """All of them, in the order in which diffrax checks them; the first that is crossed in a step counts."""
        return [threshold for threshold in (self.cost, *self.events, self.stalled) if threshold is not None]

    def event(self, eps: float) -> dfx.Event | None:
        """All of them as one event of diffrax, which finds the moment by bisection."""
        if not self.thresholds:
            return None
        crossed = [Crossed(threshold) for threshold in self.thresholds]
        return dfx.Event(crossed, DownwardCrossing(rtol=4 * eps), direction=False)

    def holding(self, s: Float[Array, ""], trainable: PyTree, problem: Problem) -> Int[Array, ""]:
        """Which of the user's events already holds at the start, −1 for none; one past the last for a stalled cost."""
        # diffrax itself checks boolean events before the first step.
        looked_at = (*self.events, self.stalled) if self.stalled is not None and is_narrow(s) else self.events
        return _first([Crossed(event).holds(s, trainable, problem) for event in looked_at])

    def outcome(
        self, solution: dfx.Solution, cost0: Float[Array, ""], holding: Int[Array, ""]
    ) -> tuple[RESULTS, Int[Array, ""] | None]:
        """How the integration ended, and which of the user's events fired: −1 for none, None if there are no events."""
        result: Any = RESULTS.promote(solution.result)
        result = RESULTS.where(result == RESULTS.dt_min_reached, RESULTS.step_size_vanished, result)
        if solution.event_mask is None:
            return result, None
        fired = None
        mask = list(solution.event_mask)
        held = (holding >= 0) & (holding < len(self.events))
        if self.events:
            first = 0 if self.cost is None else 1
            fired = jnp.where(held, holding, _first(mask[first : first + len(self.events)]))
            occurred: Any = RESULTS.event_occurred
            result = RESULTS.where(held, occurred, result)
        if self.cost is None:
            return result, fired
        ended = result == RESULTS.successful
        if self.stalled is not None:
            result = RESULTS.where((result == RESULTS.event_occurred) & mask[-1], RESULTS.stalled, result)
        result = RESULTS.where(ended, RESULTS.cost_tol_not_reached, result)
        stalled: Any = RESULTS.stalled
        result = RESULTS.where(holding == len(self.events), stalled, result)
        successful: Any = RESULTS.successful
        return RESULTS.where(mask[0] | (cost0 <= self.cost.cost_tol), successful, result), fired


def _first(holds: list[Array]) -> Int[Array, ""]:
    """The index of the first one that is true, −1 for none."""
    if not holds:
        return jnp.asarray(-1, jnp.int32)
    array = jnp.stack(holds)
    return jnp.where(jnp.any(array), jnp.argmax(array), -1).astype(jnp.int32)
