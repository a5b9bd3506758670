"""Steps along the straight line from the outputs to their targets."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from jaxgeo._checks import check_count, check_number
from jaxgeo.linalg.lifting import check_solver
from jaxgeo.linalg.linearisation import Linearisation
from jaxgeo.linalg.solvers import AbstractLiftSolver
from jaxgeo.metrics import AbstractMetric
from jaxgeo.optim.attempt import Attempt, shorten_growth
from jaxgeo.optim.base import AbstractTransformation, chosen_metric, next_count, zero_count
from jaxgeo.optim.info import StepInfo, empty_step, step_info
from jaxgeo.optim.source import CostOfTargets, Source, source
from jaxgeo.problem import Problem


class InterpolationState(NamedTuple):
    """State of `linear_interpolation`; `remaining` steps lead to the end of the line, 1 at the end itself."""

    count: Int[Array, ""]
    remaining: Float[Array, ""]
    info: StepInfo


class LinearInterpolation(AbstractTransformation):
    """See `linear_interpolation`."""

    source: Source
    num_steps: int
    metric: AbstractMetric
    solver: AbstractLiftSolver
    max_growth: float | Float[Array, ""]
    corrections: int = eqx.field(static=True)

    @property
    def problems(self) -> Source:
        return self.source

    def init(self, params: PyTree) -> InterpolationState:
        dtype = self.source.dtype(params)
        remaining = jnp.asarray(self.num_steps, dtype)
        return InterpolationState(zero_count(), remaining, empty_step(dtype))

    @eqx.filter_jit
    def step(
        self, updates: PyTree, state: InterpolationState, params: PyTree, problem: Problem
    ) -> tuple[PyTree, InterpolationState]:
        del updates
        dtype = state.remaining.dtype
        linear = Linearisation(problem, params, self.metric)
        fraction = 1 / state.remaining.astype(linear.outputs.dtype)
        factorised = self.solver.factorise(linear.jacobian)
        velocity, lift = factorised.lift(-linear.residual)
        step = jax.tree.map(lambda leaf: fraction.astype(leaf.dtype) * leaf, velocity)
        # A factor that could not be trusted is none to correct by.
        solved = linear.is_trusted(lift)
        attempt = Attempt(linear, step, factorised.correct, self.corrections, allowed=solved)
        trial, _, accepted = shorten_growth(attempt, self.max_growth, halvings=0)
        fraction = jnp.where(accepted, fraction, 0)
        zero = jnp.zeros((), linear.outputs.dtype)
        info = step_info(linear, trial, fraction, accepted, zero, lift, dtype)
        remaining = jnp.where(accepted, jnp.maximum(state.remaining - 1, 1), jnp.minimum(2 * state.remaining, 1e6))
        return linear.embed(trial.step), InterpolationState(next_count(state.count), remaining, info)


def linear_interpolation(
    num_steps: int = 5,
    apply: Callable[[PyTree, PyTree], Array] | None = None,
    *,
    cost: CostOfTargets | None = None,
    metric: AbstractMetric | None = None,
    solver: AbstractLiftSolver | None = None,
    max_growth: float | Float[Array, ""] = 100.0,
    corrections: int = 8,
    trainable: PyTree = None,
    per_sample: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Walk the outputs along the straight line to their targets in `num_steps` steps, then Newton steps at the end.

    dθ/dt = D⁺(y − x)/(1 − t), by Euler steps of t that correct each other.

    Reference: T. Chen, P. Muñoz Ewald, Gradient flow in parameter space is equivalent to linear interpolation in
    output space, 2024, arXiv 2408.01517

    With `remaining` steps to go the outputs move by (y − x)/remaining; after `num_steps` updates they are where
    Newton's method converges quadratically, and every further update is a full step. For K ≥ QN and D of full rank
    a handful of solves reaches round-off. The first steps may well raise the cost, which later steps make good. Only
    one that would raise it more than `max_growth` times, or make it not finite, is not taken: then `remaining` doubles,
    so that the next one is half as long. The incoming gradients only give the form of the updates.

    **Arguments:**

    - `num_steps`: steps on the line, at least 1.
    - `max_growth`: by how much a step may raise the cost.
    - `corrections`: at most how many in a step, of what is missing at its end, by the factorisation that is there.
    - the others: as for `scale_by_adapted_metric`, and the same extra arguments of `update`.

    **Returns:** an `optax.GradientTransformationExtraArgs`, whose state has a `StepInfo`.

    **Raises:** `ValueError` if `num_steps` < 1, `max_growth` ≤ 0 or `corrections` < 0.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> tx = jg.optim.linear_interpolation(2, lambda slope, x: slope * x)
    >>> slope = jnp.array(0.0)
    >>> state = tx.init(slope)
    >>> for _ in range(2):
    ...     updates, state = tx.update(slope, state, slope, inputs=jnp.array([2.0]), targets=jnp.array([2.0]))
    ...     slope = slope + updates
    ...     print(float(slope))
    0.5
    1.0

    ```
    """
    check_count("num_steps", num_steps)
    check_number("max_growth", max_growth, above=0)
    check_count("corrections", corrections, least=0)
    transformation = LinearInterpolation(
        source(apply, cost, trainable, per_sample),
        num_steps,
        chosen_metric(metric),
        check_solver(solver),
        max_growth,
        corrections,
    )
    return transformation.as_optax()
