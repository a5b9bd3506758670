"""What an integrated flow gives back."""

from typing import Any

import diffrax as dfx
import equinox as eqx
from jaxtyping import Array, Float, PyTree

from jaxgeo import theory
from jaxgeo.problem import Params


class RESULTS(dfx.RESULTS):  # pyright: ignore[reportGeneralTypeIssues]
    """How an integration ended: diffrax's results, and those of a flow."""

    cost_tol_not_reached = (
        "The cost did not come down to `cost_tol` by the end of the integration. Where D loses rank or K < QN the "
        "cost may have a positive lower bound: compare `theory.critical_cost`; or integrate longer with a larger `s1`."
    )
    stalled = (
        "The cost has ceased to fall, above `cost_tol`: the flow is near a critical point. Where D loses rank or "
        "K < QN the cost may have a positive lower bound: compare `theory.critical_cost`. Choose a larger `cost_tol`, "
        "fewer samples or a larger network."
    )
    step_size_vanished = (
        "No step was short enough: the velocity is not finite or not continuous here. D may have lost rank, for "
        "which there is `RankAdaptiveFlow`; or `rtol` asks for more than the dtype of the parameters can give."
    )


class FlowSolution(eqx.Module):
    """An integrated flow.

    - `params`: θ at the end.
    - `s`: flow times of the record: those of every accepted step from 0 to the end, or those of `save_at`.
    - `costs`: C at those times.
    - `num_samples`: N.
    - `initial_cost`, `final_s`, `final_cost`: C(0), and the flow time and the cost at the end.
    - `stopping_time`: s_ε of (2.18) for the given `cost_tol`, known before the integration; None without one.
    - `records`: what `record` gave at those times, stacked; None without one.
    - `result`: how it ended, one of `jaxgeo.RESULTS`.
    - `stats`: diffrax's counts of steps.
    """

    params: Params
    s: Float[Array, " steps"]
    costs: Float[Array, " steps"]
    num_samples: int = eqx.field(static=True)
    initial_cost: Float[Array, ""]
    final_s: Float[Array, ""]
    final_cost: Float[Array, ""]
    stopping_time: Float[Array, ""] | None
    records: PyTree
    result: RESULTS
    stats: dict[str, Any]

    @property
    def predicted_costs(self) -> Float[Array, " steps"]:
        """e^{-2s/N} C(0), the costs by the law of the L2 cost under the adapted flow.

        Paper: (2.6)
        """
        return theory.cost_at(self.s, self.initial_cost, self.num_samples)

    @property
    def defect(self) -> Float[Array, " steps"]:
        """C(s) / (e^{-2s/N} C(0)) − 1, how far each recorded cost is off the law."""
        return self.costs / self.predicted_costs - 1
