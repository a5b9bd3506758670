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

    - `count`: number of updates so far.
    - `remaining`: number of steps left on the line; 1 once its end is reached.
    - `info`: report of the last update.
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
        # Corrections reuse the factorisation, unless it cannot be trusted.
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
    """Interpolate the data in a small number of solves, known in advance, along the straight line to the targets.

    Use it if K ≥ QN and D has full rank. After `num_steps` updates the outputs are close enough for Newton's method to
    converge quadratically, and a handful of further solves reaches round-off. The first steps may raise the cost; later
    steps make up for it. A step is refused only if it would multiply the cost by more than `max_growth`, or make it not
    finite.

    The steps solve dθ/dt = D⁺(y − x)/(1 − t) by Euler's method in t, and each corrects the errors of those before it.
    With `remaining` steps to go the outputs move by (y − x)/remaining; at the end of the line every update is a full
    step. A refused step doubles `remaining`, so that the next step is half as long. The incoming gradients only
    determine the structure of the updates.

    Reference: T. Chen, P. Muñoz Ewald, Gradient flow in parameter space is equivalent to linear interpolation in
    output space, 2024, arXiv 2408.01517

    **Arguments:**

    - `num_steps`: number of steps on the line, at least 1.
    - `max_growth`: the largest factor by which a step may multiply the cost.
    - `corrections`: the most corrections in a step. Each lifts what is missing at its end, by the same factorisation.
    - the others, and the extra arguments of `update`: as for `scale_by_adapted_metric`.

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
