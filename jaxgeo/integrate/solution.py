"""The result of integrating a flow."""

import dataclasses
import math
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from jaxgeo import theory
from jaxgeo._checks import is_concrete
from jaxgeo._trainable import path_name
from jaxgeo.integrate.field import PathLengths
from jaxgeo.outputs import Params


class RESULTS(dfx.RESULTS):  # pyright: ignore[reportGeneralTypeIssues]
    """How an integration ended: the results of diffrax, and those specific to flows."""

    cost_tol_not_reached = (
        "The cost did not reach `cost_tol` by the end of the integration. If D loses rank or K < QN, the cost may have "
        "a positive lower bound: compare `theory.critical_cost`. Otherwise integrate longer, with a larger `s1`."
    )
    stalled = (
        "The cost stopped falling above `cost_tol`: the flow is near a critical point. If D loses rank or K < QN, the "
        "cost may have a positive lower bound: compare `theory.critical_cost`. Choose a larger `cost_tol`, fewer "
        "samples or a larger network."
    )
    step_size_vanished = (
        "No step was short enough: the velocity is not finite or not continuous here. If D has lost rank, use "
        "`RankAdaptiveFlow`; if `rtol` is smaller than the dtype of the parameters allows, increase it."
    )
    rank_lost = (
        "The orbit ends where D loses rank, or jumps at a kink of the network: from there on the outputs do not follow "
        "the flow, however short the step (`rank_lost_at`). `RankAdaptiveFlow` continues along what D still reaches, "
        "and `rank_report` says which outputs that leaves out. If singular values go to zero, give it a cut-off well "
        "above round-off: `RankAdaptiveFlow(jg.linalg.SVD(jg.linalg.SmoothCutoff(1e-3)))`. Or start elsewhere, with a "
        "larger network or fewer samples. `jaxgeo.integrate.explain_defect` estimates the causes."
    )
    left_law = (
        "The outputs left their law by more than the tolerances of the steps allow (`left_law_at`). Lower `rtol`, or "
        "wrap the ODE solver in `OrbitCorrector`; `jaxgeo.integrate.explain_defect` estimates the causes."
    )
    precision_reached = (
        "The cost reached the smallest value that the dtype of the parameters can represent, which is above "
        "`cost_tol`. Choose a larger `cost_tol`, or parameters in float64."
    )


# A larger defect of the cost than this is not an error of the steps.
LARGEST_DEFECT = 0.01
# How many components of a direction to print.
_SHOWN = 3


def _never() -> Float[Array, ""]:
    return jnp.asarray(jnp.inf)


class FlowSolution(eqx.Module):
    """The result of integrating a flow. Printing it says how the integration ended.

    - `params`: θ at the end.
    - `s`: flow times of the record: those of all accepted steps from `s0` to the end, or those of `save_at`.
    - `costs`: C at those times.
    - `num_samples`: N.
    - `initial_s`, `initial_cost`, `final_s`, `final_cost`: flow time and cost at the start, and at the end.
    - `cost_tol`: the cost to stop at, if one was given.
    - `stopping_time`: s_ε of (2.18) for this `cost_tol`, known before the integration; None without one, and unless
        `lawful`. It holds while D has full rank.
    - `records`: what `record` returned at those times, stacked; None without one.
    - `path_lengths`: lengths of the path in θ and in x up to those times; None unless asked for.
    - `event`: which of `events` ended the integration, −1 for none; None without any.
    - `result`: how it ended, one of `jaxgeo.RESULTS`.
    - `stats`: diffrax's counts of steps.
    - `lawful`: whether the cost falls by the law of (2.6) while D has full rank. Whether D has full rank at the start,
        `rank_report` says; the flows that need it check it.
    - `left_law_at`: flow time at which the outputs had left (2.7) by more than the tolerances of the steps allow;
        infinity if they never did, if there is no law or no tolerance for the outputs, and for `RankAdaptiveFlow`.
    - `rank_lost_at`: flow time from which D no longer reached where the flow had to go; infinity if it always did. The
        orbit of a flow that needs full rank ends there. `RankAdaptiveFlow` continues; this is its first such time, and
        infinity if D lacked rank from the start and kept it.
    - `continuation`: along `RankAdaptiveFlow`, the direction of length 1 in which θ left the last place where D had
        lost rank and the outputs turned back. Several directions may obey the flow equally well; round-off chooses one.
        Zero if there was no such place; None for other flows.
    """

    params: Params
    s: Float[Array, " steps"]
    costs: Float[Array, " steps"]
    num_samples: int = eqx.field(static=True)
    initial_s: Float[Array, ""]
    initial_cost: Float[Array, ""]
    final_s: Float[Array, ""]
    final_cost: Float[Array, ""]
    cost_tol: Float[Array, ""] | None
    stopping_time: Float[Array, ""] | None
    records: PyTree
    path_lengths: PathLengths | None
    event: Int[Array, ""] | None
    result: RESULTS
    stats: dict[str, Any]
    lawful: bool = eqx.field(static=True, default=False)
    left_law_at: Float[Array, ""] = eqx.field(default_factory=_never)
    rank_lost_at: Float[Array, ""] = eqx.field(default_factory=_never)
    continuation: PyTree = None

    @property
    def ending(self) -> str:
        """`result` in words, and where the orbit left its law or D lost rank."""
        return ending(self)

    def __str__(self) -> str:
        return describe(self)

    def __repr__(self) -> str:
        return describe(self)

    @property
    def predicted_costs(self) -> Float[Array, " steps"]:
        """e^{-2(s−s₀)/N} C(s₀), the costs predicted by the law of the L2 cost under the adapted flow.

        Paper: (2.6)
        """
        return theory.cost_at(self.s - self.initial_s, self.initial_cost, self.num_samples)

    @property
    def defect(self) -> Float[Array, " steps"]:
        """C(s) / (e^{-2s/N} C(0)) − 1: how far each recorded cost is off the law."""
        return self.costs / self.predicted_costs - 1

    def followed_by(self, other: "FlowSolution") -> "FlowSolution":
        """Join this solution with one that continued from its end, perhaps from other parameters."""
        records = jax.tree.map(lambda *parts: jnp.concatenate(parts), self.records, other.records)
        lengths = other.path_lengths
        if lengths is not None:
            lengths = jax.tree.map(
                lambda before, after: jnp.concatenate([before, before[-1] + after]), self.path_lengths, lengths
            )
        return dataclasses.replace(
            other,
            s=jnp.concatenate([self.s, other.s]),
            costs=jnp.concatenate([self.costs, other.costs]),
            initial_s=self.initial_s,
            initial_cost=self.initial_cost,
            stopping_time=self.stopping_time,
            records=records,
            path_lengths=lengths,
            stats=jax.tree.map(lambda before, after: before + after, self.stats, other.stats),
            left_law_at=jnp.minimum(self.left_law_at, other.left_law_at),
            rank_lost_at=jnp.minimum(self.rank_lost_at, other.rank_lost_at),
            continuation=jax.tree.map(
                lambda before, after: jnp.where(jnp.isfinite(other.rank_lost_at), after, before),
                self.continuation,
                other.continuation,
            ),
        )


def describe(found: FlowSolution) -> str:
    """Say how an integration ended: where, at which cost, how far off its law, and after how many steps."""
    name = type(found).__name__
    if not is_concrete(found):
        return f"{name}, traced: how it ended is not known before the program has run"
    if jnp.ndim(found.final_s) > 0:
        # From `jax.vmap`.
        def member(leaf: Any, i: int) -> Any:
            return leaf[i] if jnp.ndim(leaf) > 0 else leaf

        each = [describe(jax.tree.map(lambda leaf, i=i: member(leaf, i), found)) for i in range(len(found.final_s))]
        return "\n".join(f"{i}: {text}" for i, text in enumerate(each))
    lines = [f"{name}: {ending(found)}"]
    lines.append(
        f"s = {float(found.final_s):.6g}, s/N = {float(found.final_s) / found.num_samples:.4g}; "
        f"cost {float(found.final_cost):.3g}, {float(found.initial_cost):.3g} at the start"
    )
    # Below this floor the costs are round-off.
    floor = 1e4 * float(jnp.finfo(found.costs.dtype).eps) ** 2 * found.initial_cost
    used = jnp.isfinite(found.s) & jnp.isfinite(found.costs) & (found.predicted_costs > floor)
    if found.lawful and bool(jnp.any(used)):
        defect = float(jnp.max(jnp.where(used, jnp.abs(found.defect), 0)))
        if found.continuation is None or defect < LARGEST_DEFECT or float(found.rank_lost_at) < math.inf:
            lines.append(f"largest defect of the cost from its law: {defect:.1e}")
        else:
            lines.append(
                "the cost did not fall by the law of full rank: D lacked rank from the start, and the outputs follow "
                "−𝒫∇ₓC (`rank_report`)"
            )
    if {"num_accepted_steps", "num_rejected_steps"} <= found.stats.keys():
        accepted, rejected = (int(found.stats[f"num_{kind}_steps"]) for kind in ("accepted", "rejected"))
        lines.append(f"{accepted} steps, {rejected} more rejected")
    return "\n    ".join(lines)


def ending(found: FlowSolution) -> str:
    """The words for `result`, with its details. A new cause gets its words here."""
    words = RESULTS[found.result]
    if found.result == RESULTS.successful:
        words = "It reached `s1`." if found.cost_tol is None else "The cost reached `cost_tol`."
    elif found.result == RESULTS.event_occurred:
        words = "An event ended it." if found.event is None else f"Event {int(found.event)} ended it."
    elif found.result == RESULTS.max_steps_reached and float(found.rank_lost_at) < math.inf:
        words += (
            " Steps are short where singular values of D go to zero: a cut-off well above round-off helps, "
            "`RankAdaptiveFlow(jg.linalg.SVD(jg.linalg.SmoothCutoff(1e-3)))`."
        )
    elif found.result == RESULTS.precision_reached:
        dtype = found.final_cost.dtype
        words = f"{words} The dtype is {dtype}, with a relative precision of {float(jnp.finfo(dtype).eps):.1e}."
    left, lost = float(found.left_law_at), float(found.rank_lost_at)
    if left < math.inf:
        words += f" It left the law that holds for full rank at s = {left:.6g}."
    if lost < math.inf:
        words += f" D lost rank at s = {lost:.6g}."
        if found.continuation is not None:
            words += f" {_went_on(found.continuation)}"
    return words


def _went_on(continuation: PyTree) -> str:
    parts = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(continuation):
        sizes = np.abs(np.asarray(leaf, np.float64))
        for flat in np.argsort(sizes, axis=None)[-_SHOWN:]:
            place = [int(index) for index in np.unravel_index(flat, sizes.shape)]
            name = f"{path_name(path)}{place if place else ''}"
            parts.append((sizes.flat[flat], f"{name} {np.asarray(leaf).flat[flat]:+.2f}"))
    largest = sorted(parts, reverse=True)[:_SHOWN]
    if not largest or largest[0][0] == 0:
        return "It continued along what D still reaches."
    also = ", …" if sum(jnp.size(leaf) for leaf in jax.tree.leaves(continuation)) > len(largest) else ""
    return (
        "It continued; several continuations may obey the flow equally well, and round-off decides: it took the one "
        f"along {', '.join(text for _, text in largest)}{also}."
    )
