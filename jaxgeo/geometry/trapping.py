"""Trapping of the standard flow: where Dᵀ removes most of the output gradient, the cost can only fall slowly."""

from dataclasses import dataclass
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jaxtyping import Array, Float

from jaxgeo._checks import check_kind, check_positive
from jaxgeo.integrate import FlowSolution
from jaxgeo.outputs import Params
from jaxgeo.problem import Problem


class TrappingRecord(NamedTuple):
    """The standard flow at one moment.

    - `ratio`: |Dᵀ∇ₓC| / |∇ₓC|; 0 for ∇ₓC = 0.
    - `gradient`: |∇ₓC|.
    - `speed`: |Dᵀ∇ₓC| = |∂ₛθ|, the speed of the parameters.
    """

    ratio: Float[Array, ""]
    gradient: Float[Array, ""]
    speed: Float[Array, ""]


@eqx.filter_jit
def trapping_record(s: float | Float[Array, ""], params: Params, problem: Problem) -> TrappingRecord:
    """|Dᵀ∇ₓC|/|∇ₓC|, for `solve_flow(..., record=trapping_record)`.

    Paper: (3.4)

    **Arguments:**

    - `s`: flow time, which is not used.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: a**2 * x, jnp.array([1.0]), jg.L2(jnp.array([4.0])))
    >>> float(jg.geometry.trapping_record(0.0, jnp.array(0.25), problem).ratio)
    0.5

    ```
    """
    del s
    jacobian = problem.jacobian(params)
    rows = problem.loss.gradient(jacobian.outputs)
    gradient, speed = jnp.linalg.norm(rows), optx.two_norm(jacobian.pull(rows))
    ratio = jnp.where(gradient > 0, speed / jnp.where(gradient > 0, gradient, 1), 0)
    return TrappingRecord(ratio, gradient, speed)


@dataclass(frozen=True)
class TrappedInterval:
    """A stretch of an orbit of the standard flow on which |Dᵀ∇ₓC| ≤ ε|∇ₓC|.

    Paper: Prop. 3.1, (3.4)–(3.6)

    - `epsilon`: ε.
    - `start`, `end`: flow times.
    - `length`: the length of the orbit in parameter space, ∫ |∂ₛθ| ds.
    - `cost_in`, `cost_out`: C at both ends.
    - `bound`: length / (ε |∇ₓC| at `start`), a lower bound on `duration`, because |∂ₛθ| ≤ ε|∇ₓC| and |∇ₓC| falls with
        the L2 cost.
    - `cost_bound`: (N/2ε²) log(cost_in/cost_out), another lower bound on `duration`, because
        −∂ₛC = |Dᵀ∇ₓC|² ≤ ε²·2C/N.
    """

    epsilon: float
    start: float
    end: float
    length: float
    cost_in: float
    cost_out: float
    bound: float
    cost_bound: float

    @property
    def duration(self) -> float:
        """The time spent there, in the same unit as flow time, in which the adapted cost falls as e^{-2s/N}."""
        return self.end - self.start


def trapped_intervals(solution: FlowSolution, epsilon: float) -> list[TrappedInterval]:
    """The stretches of an orbit of the standard flow with |Dᵀ∇ₓC| ≤ ε|∇ₓC|, and lower bounds on the time they take.

    Paper: Prop. 3.1, (3.4)–(3.6)

    The bounds hold for the L2 cost. Between recorded moments the ratio is taken as linear in s, and lengths are summed
    by the trapezoidal rule; `save_at` sets how fine the record is.

    **Arguments:**

    - `solution`: what `solve_flow(problem, StandardFlow(), ..., record=trapping_record)` returned.
    - `epsilon`: ε.

    **Raises:** `ValueError` if the solution has no such record, or if ε is not positive.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: a**2 * x, jnp.array([1.0]), jg.L2(jnp.array([4.0])))
    >>> record = jg.geometry.trapping_record
    >>> sol = jg.solve_flow(problem, jg.StandardFlow(), jnp.array(1e-3), s1=2.0, record=record)
    >>> (trapped,) = jg.geometry.trapped_intervals(sol, 1.0)
    >>> trapped.cost_bound < trapped.bound < trapped.duration
    True

    ```
    """
    check_kind("solution", solution, FlowSolution, "what `solve_flow` returned")
    records = solution.records
    if not isinstance(records, TrappingRecord):
        raise ValueError(
            f"`solution.records` must come from `trapping_record`; got {type(records).__name__}. Pass "
            "`record=jaxgeo.geometry.trapping_record` to `solve_flow`."
        )
    check_positive("epsilon", epsilon)
    columns = [np.asarray(column, np.float64) for column in (solution.s, solution.costs, *records)]
    times, costs, ratio, gradient, speed = _with_crossings(columns, epsilon)
    inside = (ratio[:-1] <= epsilon) & (ratio[1:] <= epsilon)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], inside.astype(int), [0]])))
    found = []
    for first, last in edges.reshape(-1, 2):
        piece = slice(first, last + 1)
        length = float(np.sum(np.diff(times[piece]) * (speed[piece][1:] + speed[piece][:-1]) / 2))
        fall = np.log(costs[first] / costs[last]) if costs[last] > 0 else np.inf
        found.append(
            TrappedInterval(
                epsilon=epsilon,
                start=float(times[first]),
                end=float(times[last]),
                length=length,
                cost_in=float(costs[first]),
                cost_out=float(costs[last]),
                bound=length / (epsilon * float(gradient[first])) if gradient[first] > 0 else 0.0,
                cost_bound=float(solution.num_samples / (2 * epsilon**2) * fall),
            )
        )
    return found


def _with_crossings(columns: list[np.ndarray], epsilon: float) -> list[np.ndarray]:
    """The recorded columns (s, C, ratio, …) with an extra row wherever the ratio crosses ε."""
    ratio = columns[2]
    before = np.flatnonzero((ratio[:-1] - epsilon) * (ratio[1:] - epsilon) < 0)
    weight = (epsilon - ratio[before]) / (ratio[before + 1] - ratio[before])
    crossed = [column[before] + weight * (column[before + 1] - column[before]) for column in columns]
    crossed[2] = np.full(len(before), epsilon)
    return [np.insert(column, before + 1, extra) for column, extra in zip(columns, crossed, strict=True)]
