"""Steps along the straight line from the outputs to their targets."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from jaxgeo._checks import check_count, check_number
from jaxgeo.linalg.lifting import check_solver
from jaxgeo.linalg.linearisation import Linearisation
from jaxgeo.linalg.solvers import AbstractLiftSolver
from jaxgeo.metrics import AbstractMetric
from jaxgeo.optim.attempt import Attempt, scaled, shorten_growth
from jaxgeo.optim.base import AbstractTransformation, dtype_of
from jaxgeo.optim.info import StepInfo, empty_step, step_info
from jaxgeo.optim.problem_maker import CostOfTargets, ProblemMaker


class InterpolationState(NamedTuple):
    """State of `linear_interpolation`.

    - `count`: how many updates were made.
    - `remaining`: steps that lead to the end of the line; 1 at the end itself.
    - `info`: how the last update went.
    """

    count: Int[Array, ""]
    remaining: Float[Array, ""]
    info: StepInfo


class LinearInterpolation(AbstractTransformation):
    """See `linear_interpolation`."""

    solver: AbstractLiftSolver = eqx.field(converter=check_solver)
    num_steps: int
    max_growth: float | Float[Array, ""]
    corrections: int = eqx.field(static=True)

    def __check_init__(self):
        check_count("num_steps", self.num_steps)
        check_number("max_growth", self.max_growth, above=0)
        check_count("corrections", self.corrections, least=0)

    def init(self, params: PyTree) -> InterpolationState:
        dtype = dtype_of(self.problems.partition(params))
        return InterpolationState(jnp.zeros((), jnp.int32), jnp.asarray(self.num_steps, dtype), empty_step(dtype))

    def step(
        self, updates: PyTree, state: InterpolationState, linear: Linearisation
    ) -> tuple[PyTree, InterpolationState]:
        del updates
        fraction = 1 / state.remaining.astype(linear.outputs.dtype)
        factorised = self.solver.factorise(linear.jacobian)
        velocity, lift = factorised.lift(-linear.residual)
        # Corrections go through the factorisation, unless it could not be trusted.
        step, allowed = scaled(fraction, velocity), linear.is_trusted(lift)
        attempt = Attempt(linear, step, factorised.correct, self.corrections, allowed=allowed)
        tried = shorten_growth(attempt, self.max_growth, halvings=0)
        tried = tried._replace(fraction=jnp.where(tried.accepted, fraction, 0))
        info = step_info(state.info, linear, tried, jnp.zeros_like(fraction), lift)
        nearer, further = jnp.maximum(state.remaining - 1, 1), jnp.minimum(2 * state.remaining, 1e6)
        remaining = jnp.where(tried.accepted, nearer, further)
        return tried.trial.step, InterpolationState(state.count, remaining, info)


def linear_interpolation(
    apply: Callable[[PyTree, PyTree], Array] | None = None,
    *,
    num_steps: int = 5,
    cost: CostOfTargets | None = None,
    metric: AbstractMetric | None = None,
    solver: AbstractLiftSolver | None = None,
    max_growth: float | Float[Array, ""] = 100.0,
    corrections: int = 8,
    trainable: PyTree = None,
    per_sample: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Interpolation of the data in a known, small number of solves: steps along the straight line to the targets.

    Use it for K ≥ QN and D of full rank: after `num_steps` updates the outputs are where Newton's method converges
    quadratically, and a handful of solves reaches round-off. The first steps may well raise the cost, which later ones
    make good. Only one that would raise it more than `max_growth` times, or make it not finite, is not taken.

    dθ/dt = D⁺(y − x)/(1 − t), by Euler steps of t that correct each other. With `remaining` steps to go the outputs
    move by (y − x)/remaining, and at the end of the line every update is a full step. A step that is not taken doubles
    `remaining`, so that the next one is half as long. The incoming gradients only give the form of the updates.

    Reference: T. Chen, P. Muñoz Ewald, Gradient flow in parameter space is equivalent to linear interpolation in
    output space, 2024, arXiv 2408.01517

    **Arguments:**

    - `num_steps`: steps on the line, at least 1.
    - `max_growth`: by how much a step may raise the cost.
    - `corrections`: at most how many in a step, each a lift of what is missing at its end by the same factorisation.
    - the others: as for `scale_by_adapted_metric`, and the same extra arguments of `update`.

    **Returns:** an `optax.GradientTransformationExtraArgs`, whose state has a `StepInfo`.

    **Raises:** `ValueError` unless `num_steps` ≥ 1, `max_growth` > 0 and `corrections` ≥ 0.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> tx = jg.optim.linear_interpolation(lambda slope, x: slope * x, num_steps=2)
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
    problems = ProblemMaker(apply, cost, trainable, per_sample)
    return LinearInterpolation(problems, metric, solver, num_steps, max_growth, corrections).as_optax()
