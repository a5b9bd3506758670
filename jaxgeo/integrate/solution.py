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


class FlowSolution(eqx.Module):
    """An integrated flow.

    - `params`: θ at the end.
    - `s`: flow times of the record, from 0 to the end.
    - `costs`: C at those times.
    - `stopping_time`: s_ε of (2.18) for the given `cost_tol`, known before the integration; None without one.
    - `records`: what `record` gave at those times, stacked; None without one.
    - `result`: how it ended, one of `jaxgeo.RESULTS`.
    - `stats`: diffrax's counts of steps.
    """

    params: Params
    s: Float[Array, " steps"]
    costs: Float[Array, " steps"]
    num_samples: int = eqx.field(static=True)
    stopping_time: Float[Array, ""] | None
    records: PyTree
    result: RESULTS
    stats: dict[str, Any]

    @property
    def predicted_costs(self) -> Float[Array, " steps"]:
        """e^{-2s/N} C(0), the costs by the law of the L2 cost under the adapted flow.

        Paper: (2.6)
        """
        return theory.cost_at(self.s, self.costs[0], self.num_samples)

    @property
    def defect(self) -> Float[Array, " steps"]:
        """C(s) / (e^{-2s/N} C(0)) − 1, how far each recorded cost is off the law."""
        return self.costs / self.predicted_costs - 1
