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
    """How a gradient becomes a direction: by a solver, with a damping relative to trace(DDᵀ)/QN."""

    solver: AbstractLiftSolver = eqx.field(converter=check_solver)
    damping: Value | None

    def __check_init__(self):
        check_value("damping", self.damping)

    def __call__(
        self, gradient: PyTree | None, linear: Linearisation, count: Int[Array, ""]
    ) -> tuple[PyTree, Float[Array, ""], LiftInfo]:
        """w(DᵀgD + λ)⁻¹ of a gradient, g the metric and w what C divides by; the damping; and how it went.

        What the gradient shares with ∇C = Dᵀ∇ₓC is lifted from output space, which is more precise and needs one
        solve. Only a gradient that differs by more than round-off needs a second one, for the difference.
        """
        dtype = linear.outputs.dtype
        value = None if self.damping is None else value_at(self.damping, count, dtype)
        damping = None if value is None else linear.relative(value)
        own = linear.gradient
        given = own if gradient is None else linear.restrict(gradient)
        ours = jax.tree.map(lambda mine, given: mine if given is None else given.astype(mine.dtype), own, given)
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

    - `count`: how many updates were made.
    - `info`: how the last update went.
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

    - `count`: how many updates were made.
    - `info`: how the last update went.
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
    """A direction for a chain, schedule or line search of yours: the gradient in the metric of the outputs.

    Use it in `optax.chain`; sign and step size are left to optax, as by `optax.scale_by_learning_rate`. For every batch
    size learning rate 1 is a full Gauss–Newton step, and η lets the residuals of L2 shrink by 1 − η to first order.

    N(DᵀD + λ)⁻¹∇C in place of ∇C; in the source's unit of flow time, a step is s = ηN.

    Paper: (2.4), (5.2), for ∇C = Dᵀ∇ₓC

    A gradient other than ∇C (clipped, averaged, decayed) is handled alike: in range(Dᵀ) it is lifted; what is left
    outside is dropped without damping, and divided by λ with it. So put weight decay and momentum after this
    transformation in a chain, not before.

    `update` takes, beside optax's arguments, `inputs=` and `targets=` of the batch (and `weights=`, of shape (N,), to
    give samples weights, 0 for padding), or `problem=`; and `full_params=` where `optax.masked` took leaves out.
    Other extra arguments are ignored.

    **Arguments:**

    - `apply`: the network, `apply(params, x_j)` for one sample; may be left out where `problem=` is passed.
    - `cost`: makes the cost of a batch from its targets: `jaxgeo.L2` (the default), `jaxgeo.SoftmaxCrossEntropy`, ….
    - `metric`: on output space; by default the cost's own curvature, which for L2 is the Euclidean metric.
    - `solver`: of the lift; `jaxgeo.linalg.Auto()` by default.
    - `damping`: λ relative to trace(DDᵀ)/QN, a number or an optax schedule; none by default.
    - `trainable`, `per_sample`: as for `jaxgeo.Problem`.

    **Returns:** an `optax.GradientTransformationExtraArgs`, whose state has a `DirectionInfo`.

    **Raises:** `ValueError` from `update` without params or a batch.

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
    """The adapted flow by Euler steps, at a rate that says beforehand how many steps a tolerance takes.

    Use it to follow the flow step by step: residuals of L2 shrink by 1 − η a step to first order, so that
    `theory.num_steps(cost0, tol, learning_rate)` steps do. A step that would leave the cost not finite, or more than
    `max_growth` times as large, is halved until it does not, and dropped after 30 halvings; `info.fraction` says so.

    θ ← θ − ηN D⁺∇ₓC, from gradients as optax passes them.

    Paper: (2.4), (5.2), by one explicit step of flow time ηN

    **Arguments:**

    - `learning_rate`: η in units of N (s = ηN in the source's unit of flow time): 1 is a full Gauss–Newton step. A
        number or an optax schedule.
    - `max_growth`: by how much a step may raise the cost of its batch.
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
