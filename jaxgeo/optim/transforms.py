"""The adapted direction and the Euler step of the adapted flow, as optax transformations."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from jaxgeo._checks import check_number
from jaxgeo.linalg.lifting import check_solver, lift_gradient
from jaxgeo.linalg.linearisation import Linearisation
from jaxgeo.linalg.solvers import AbstractLiftSolver, LiftInfo
from jaxgeo.metrics import AbstractMetric
from jaxgeo.optim.attempt import Attempt, scaled, shorten_growth
from jaxgeo.optim.base import AbstractTransformation, dtype_of
from jaxgeo.optim.damping import Value, check_value, value_at
from jaxgeo.optim.info import DirectionInfo, StepInfo, direction_info, empty_direction, empty_step, step_info
from jaxgeo.optim.problem_maker import CostOfTargets, ProblemMaker


class Direction(eqx.Module):
    """Turns a gradient into a direction, by a solver and a damping relative to trace(DDᵀ)/QN."""

    solver: AbstractLiftSolver = eqx.field(converter=check_solver)
    damping: Value | None

    def __check_init__(self):
        check_value("damping", self.damping)

    def __call__(
        self, gradient: PyTree | None, linear: Linearisation, count: Int[Array, ""]
    ) -> tuple[PyTree, Float[Array, ""], LiftInfo]:
        """w(DᵀgD + λ)⁻¹ times a gradient, with the metric g and the total weight w; the damping; and the report.

        The part of the gradient along ∇C = Dᵀ∇ₓC is lifted from output space, which is more precise and needs one
        solve. A gradient that differs from it by more than round-off needs a second solve, for the difference.
        """
        dtype = linear.outputs.dtype
        value = None if self.damping is None else value_at(self.damping, count, dtype)
        damping = None if value is None else linear.relative(value)
        own = linear.gradient
        ours = own if gradient is None else linear.restrict(gradient, own)
        rest = jax.tree.map(jnp.subtract, ours, own)
        main, lift = self.solver.solve(linear.jacobian, linear.residual, damping)
        weight = linear.total_weight

        def whole(rest: PyTree) -> PyTree:
            extra, _ = lift_gradient(linear.jacobian, rest, damping, self.solver)
            return jax.tree.map(lambda a, b: a + weight * b, main, extra)

        differs = optax.tree.norm(rest) > 1e3 * jnp.finfo(dtype).eps * optax.tree.norm(own)
        direction = jax.lax.cond(differs, whole, lambda rest: main, rest)
        return direction, jnp.zeros((), dtype) if value is None else value, lift


class DirectionState(NamedTuple):
    """State of `scale_by_adapted_metric`.

    - `count`: number of updates so far.
    - `info`: report of the last update.
    """

    count: Int[Array, ""]
    info: DirectionInfo


class AdaptedMetric(AbstractTransformation):
    """See `scale_by_adapted_metric`."""

    direction: Direction

    def init(self, params: PyTree) -> DirectionState:
        return DirectionState(jnp.zeros((), jnp.int32), empty_direction(dtype_of(self.problems.partition(params))))

    def step(self, updates: PyTree, state: DirectionState, linear: Linearisation) -> tuple[PyTree, DirectionState]:
        direction, damping, lift = self.direction(updates, linear, state.count)
        info = direction_info(state.info, linear, direction, damping, lift)
        return direction, state._replace(info=info)


class StepState(NamedTuple):
    """State of `adapted_gradient_descent`.

    - `count`: number of updates so far.
    - `info`: report of the last update.
    """

    count: Int[Array, ""]
    info: StepInfo


class AdaptedGradientDescent(AbstractTransformation):
    """See `adapted_gradient_descent`."""

    direction: Direction
    learning_rate: Value
    max_growth: float | Float[Array, ""]

    def __check_init__(self):
        check_value("learning_rate", self.learning_rate)
        check_number("max_growth", self.max_growth, above=0)

    def init(self, params: PyTree) -> StepState:
        return StepState(jnp.zeros((), jnp.int32), empty_step(dtype_of(self.problems.partition(params))))

    def step(self, updates: PyTree, state: StepState, linear: Linearisation) -> tuple[PyTree, StepState]:
        direction, damping, lift = self.direction(updates, linear, state.count)
        rate = value_at(self.learning_rate, state.count, linear.outputs.dtype)
        tried = shorten_growth(Attempt(linear, scaled(-rate, direction)), self.max_growth)
        return tried.trial.step, state._replace(info=step_info(state.info, linear, tried, damping, lift))


def scale_by_adapted_metric(
    apply: Callable[[PyTree, PyTree], Array] | None = None,
    *,
    cost: CostOfTargets | None = None,
    metric: AbstractMetric | None = None,
    solver: AbstractLiftSolver | None = None,
    damping: Value | None = None,
    trainable: PyTree = None,
    per_sample: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Replace the gradient by the gradient in the metric of the outputs, for your own chain, schedule or line search.

    Use it in `optax.chain`. It leaves sign and step size to optax, for example to `optax.scale_by_learning_rate`. For
    every batch size, learning rate 1 is a full Gauss–Newton step, and learning rate η multiplies the residuals of L2 by
    1 − η, to first order.

    N(DᵀD + λ)⁻¹∇C replaces ∇C. In the source's unit of flow time, a step is s = ηN.

    Paper: (2.4), (5.2), for ∇C = Dᵀ∇ₓC

    Other gradients (clipped, averaged, decayed) are treated in the same way: the part in range(Dᵀ) is lifted. The rest
    is dropped without damping, and divided by λ with damping. So place weight decay and momentum after this
    transformation in a chain, not before.

    Besides optax's arguments, `update` takes the batch as `inputs=` and `targets=`, or as `problem=`. With `weights=`
    of shape (N,) you can weight the samples; use 0 for padding. Pass `full_params=` if `optax.masked` removed leaves.
    All other extra arguments are ignored.

    **Arguments:**

    - `apply`: the network, `apply(params, x_j)` for one sample; not needed if you pass `problem=`.
    - `cost`: makes the cost of a batch from its targets: `jaxgeo.L2` (the default), `jaxgeo.SoftmaxCrossEntropy`, ….
    - `metric`: metric on output space; by default the cost's own curvature, which for L2 is the Euclidean metric.
    - `solver`: solver of the lift; `jaxgeo.linalg.Auto()` by default.
    - `damping`: λ relative to trace(DDᵀ)/QN, a number or an optax schedule; no damping by default.
    - `trainable`, `per_sample`: as for `jaxgeo.Problem`.

    **Returns:** an `optax.GradientTransformationExtraArgs`, whose state has a `DirectionInfo`.

    **Raises:** `ValueError` if `update` gets no params or no batch.

    ```python
    >>> import jax, jax.numpy as jnp, jaxgeo as jg, optax
    >>> def line(params, x):
    ...     return params["slope"] * x + params["offset"]
    >>> tx = optax.chain(jg.optim.scale_by_adapted_metric(line), optax.scale_by_learning_rate(1.0))
    >>> params = {"slope": jnp.array(0.0), "offset": jnp.array(0.0)}
    >>> grads = {"slope": jnp.array(-2.0), "offset": jnp.array(-2.5)}
    >>> batch = dict(inputs=jnp.array([0.0, 1.0]), targets=jnp.array([1.0, 4.0]))
    >>> updates, state = tx.update(grads, tx.init(params), params, **batch)
    >>> jax.tree.map(lambda leaf: round(float(leaf), 6), optax.apply_updates(params, updates))
    {'offset': 1.0, 'slope': 3.0}

    ```
    """
    problems = ProblemMaker(apply, cost, trainable, per_sample)
    return AdaptedMetric(problems, metric, Direction(solver, damping)).as_optax()


def adapted_gradient_descent(
    apply: Callable[[PyTree, PyTree], Array] | None = None,
    *,
    learning_rate: Value,
    cost: CostOfTargets | None = None,
    metric: AbstractMetric | None = None,
    solver: AbstractLiftSolver | None = None,
    damping: Value | None = None,
    max_growth: float | Float[Array, ""] = 2.0,
    trainable: PyTree = None,
    per_sample: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Follow the adapted flow by Euler steps; the number of steps to a tolerance is known in advance.

    Each step multiplies the residuals of L2 by 1 − η, to first order, so `theory.num_steps(cost0, tol, learning_rate)`
    steps suffice. If a step would make the cost not finite, or more than `max_growth` times as large, it is halved
    until it does not, and dropped after 30 halvings. `info.fraction` reports the fraction that was taken.

    θ ← θ − ηN D⁺∇ₓC, from gradients as optax passes them.

    Paper: (2.4), (5.2), by one explicit step of flow time ηN

    **Arguments:**

    - `learning_rate`: η in units of N (s = ηN in the source's unit of flow time): 1 is a full Gauss–Newton step. A
        number or an optax schedule.
    - `max_growth`: the largest factor by which a step may multiply the cost of its batch.
    - the others: as for `scale_by_adapted_metric`.

    **Returns:** an `optax.GradientTransformationExtraArgs`, whose state has a `StepInfo`.

    ```python
    >>> import jax, jax.numpy as jnp, jaxgeo as jg, optax
    >>> def line(slope, x):
    ...     return slope * x
    >>> tx = jg.optim.adapted_gradient_descent(line, learning_rate=0.5)
    >>> slope = jnp.array(0.0)
    >>> updates, state = tx.update(jnp.array(-16.0), tx.init(slope), slope, inputs=jnp.array([2.0]),
    ...     targets=jnp.array([8.0]))
    >>> float(updates), float(state.info.gain_ratio)
    (2.0, 1.0)

    ```
    """
    problems = ProblemMaker(apply, cost, trainable, per_sample)
    return AdaptedGradientDescent(problems, metric, Direction(solver, damping), learning_rate, max_growth).as_optax()
