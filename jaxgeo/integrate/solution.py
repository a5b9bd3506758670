"""What an integrated flow gives back."""

from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jaxgeo import theory
from jaxgeo.integrate.field import PathLengths
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
    - `initial_s`, `initial_cost`, `final_s`, `final_cost`: flow time and cost at the start, and at the end.
    - `stopping_time`: s_ε of (2.18) for the given `cost_tol`, known before the integration; None without one.
    - `records`: what `record` gave at those times, stacked; None without one.
    - `path_lengths`: lengths of the path in θ and in x up to those times; None unless asked for.
    - `event`: which of `events` ended the integration, −1 for none; None without any.
    - `result`: how it ended, one of `jaxgeo.RESULTS`.
    - `stats`: diffrax's counts of steps.
    """

    params: Params
    s: Float[Array, " steps"]
    costs: Float[Array, " steps"]
    num_samples: int = eqx.field(static=True)
    initial_s: Float[Array, ""]
    initial_cost: Float[Array, ""]
    final_s: Float[Array, ""]
    final_cost: Float[Array, ""]
    stopping_time: Float[Array, ""] | None
    records: PyTree
    path_lengths: PathLengths | None
    event: Int[Array, ""] | None
    result: RESULTS
    stats: dict[str, Any]

    @property
    def predicted_costs(self) -> Float[Array, " steps"]:
        """e^{-2(s−s₀)/N} C(s₀), the costs by the law of the L2 cost under the adapted flow.

        Paper: (2.6)
        """
        return theory.cost_at(self.s - self.initial_s, self.initial_cost, self.num_samples)

    @property
    def defect(self) -> Float[Array, " steps"]:
        """C(s) / (e^{-2s/N} C(0)) − 1, how far each recorded cost is off the law."""
        return self.costs / self.predicted_costs - 1

    def followed_by(self, other: "FlowSolution") -> "FlowSolution":
        """This solution and one that went on from its end, perhaps from other parameters, as one."""
        records = jax.tree.map(lambda *parts: jnp.concatenate(parts), self.records, other.records)
        lengths = other.path_lengths
        if lengths is not None:
            lengths = jax.tree.map(
                lambda before, after: jnp.concatenate([before, before[-1] + after]), self.path_lengths, lengths
            )
        return FlowSolution(
            params=other.params,
            s=jnp.concatenate([self.s, other.s]),
            costs=jnp.concatenate([self.costs, other.costs]),
            num_samples=self.num_samples,
            initial_s=self.initial_s,
            initial_cost=self.initial_cost,
            final_s=other.final_s,
            final_cost=other.final_cost,
            stopping_time=self.stopping_time,
            records=records,
            path_lengths=lengths,
            event=other.event,
            result=other.result,
            stats=jax.tree.map(lambda before, after: before + after, self.stats, other.stats),
        )
