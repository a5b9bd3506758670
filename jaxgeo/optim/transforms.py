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
from jaxgeo.optim.attempt import Attempt, shorten_growth
from jaxgeo.optim.base import AbstractTransformation, chosen_metric, next_count, zero_count
from jaxgeo.optim.damping import Value, check_value, value_at
from jaxgeo.optim.info import DirectionInfo, StepInfo, empty_direction, empty_step, of_lift, step_info
from jaxgeo.optim.source import CostOfTargets, Source, source
from jaxgeo.problem import Problem


class DirectionState(NamedTuple):
    """State of `scale_by_adapted_metric`."""

    count: Int[Array, ""]
    info: DirectionInfo


class StepState(NamedTuple):
    """State of `adapted_gradient_descent`."""

    count: Int[Array, ""]
    info: StepInfo


class AdaptedMetric(AbstractTransformation):
    """See `scale_by_adapted_metric`."""

    source: Source
    metric: AbstractMetric
    solver: AbstractLiftSolver
    damping: Value | None

    @property
    def problems(self) -> Source:
        return self.source

    def init(self, params: PyTree) -> DirectionState:
        return DirectionState(zero_count(), empty_direction(self.source.dtype(params)))

    def direction(
        self, gradient: PyTree, linear: Linearisation, count: Int[Array, ""]
    ) -> tuple[PyTree, Float[Array, ""], LiftInfo]:
        """w(DᵀgD + λ)⁻¹ of a gradient, g the metric and w what C divides by; the damping; and how it went.

        What the gradient shares with ∇C = Dᵀ∇ₓC is lifted from output space, which is more precise and needs one
        solve. Only a gradient that differs by more than round-off needs a second one, for the difference.
        """
        dtype = linear.outputs.dtype
        value = None if self.damping is None else value_at(self.damping, count, dtype)
        damping = None if value is None else linear.relative(value)
        own = linear.gradient
        ours = jax.tree.map(lambda mine, given: mine if given is None else given.astype(mine.dtype), own, gradient)
        rest = jax.tree.map(jnp.subtract, ours, own)
        main, lift = self.solver.solve(linear.jacobian, linear.residual, damping)
        weight = linear.total_weight

        def whole(rest: PyTree) -> PyTree:
            extra, _ = lift_gradient(linear.jacobian, rest, damping, self.solver)
            return jax.tree.map(lambda a, b: a + weight * b, main, extra)

        differs = optax.tree.norm(rest) > 1e3 * jnp.finfo(dtype).eps * optax.tree.norm(own)
        direction = jax.lax.cond(differs, whole, lambda rest: main, rest)
        return direction, jnp.zeros((), dtype) if value is None else value, lift

    @eqx.filter_jit
    def step(
        self, gradient: PyTree, state: DirectionState, params: PyTree, problem: Problem
    ) -> tuple[PyTree, DirectionState]:
        dtype = state.info.cost.dtype
        linear = Linearisation(problem, params, self.metric)
        direction, damping, lift = self.direction(linear.restrict(gradient), linear, state.count)
        predicted = linear.predicted_decrease(-linear.jacobian.mv(direction))
        info = DirectionInfo(
            linear.cost.astype(dtype), predicted.astype(dtype), damping.astype(dtype), *of_lift(lift, dtype)
        )
        return linear.embed(direction), DirectionState(next_count(state.count), info)


class AdaptedGradientDescent(AbstractTransformation):
    """See `adapted_gradient_descent`."""

    metric: AdaptedMetric
    learning_rate: Value
    max_growth: float | Float[Array, ""]

    @property
    def problems(self) -> Source:
        return self.metric.source

    def init(self, params: PyTree) -> StepState:
        return StepState(zero_count(), empty_step(self.metric.source.dtype(params)))

    @eqx.filter_jit
    def step(self, gradient: PyTree, state: StepState, params: PyTree, problem: Problem) -> tuple[PyTree, StepState]:
        dtype = state.info.cost.dtype
        linear = Linearisation(problem, params, self.metric.metric)
        direction, damping, lift = self.metric.direction(linear.restrict(gradient), linear, state.count)
        rate = value_at(self.learning_rate, state.count, linear.outputs.dtype)
        step = jax.tree.map(lambda leaf: -rate.astype(leaf.dtype) * leaf, direction)
        trial, fraction, accepted = shorten_growth(Attempt(linear, step), self.max_growth)
        info = step_info(linear, trial, fraction, accepted, damping, lift, dtype)
        return linear.embed(trial.step), StepState(next_count(state.count), info)


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
    """Gradients in parameter space, made gradients in the metric of the outputs: N(DᵀD + λ)⁻¹∇C.

    Paper: (2.4), (5.2), for ∇C = Dᵀ∇ₓC

    Sign and step size are left to optax: chain with `optax.scale_by_learning_rate`. The factor N makes the
    learning rate the same for every batch size: rate 1 is a full Gauss–Newton step, and rate η lets the residuals
    of L2 shrink by 1 − η to first order. In the source's unit of flow time, a step is s = ηN.

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
    check_value("damping", damping)
    transformation = AdaptedMetric(
        source(apply, cost, trainable, per_sample),
        chosen_metric(metric),
        check_solver(solver),
        damping,
    )
    return transformation.as_optax()


def adapted_gradient_descent(
    learning_rate: Value,
    apply: Callable[[PyTree, PyTree], Array] | None = None,
    *,
    cost: CostOfTargets | None = None,
    metric: AbstractMetric | None = None,
    solver: AbstractLiftSolver | None = None,
    damping: Value | None = None,
    max_growth: float | Float[Array, ""] = 2.0,
    trainable: PyTree = None,
    per_sample: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """The Euler step of the adapted flow, θ ← θ − ηN D⁺∇ₓC, from gradients as optax passes them.

    Paper: (2.4), (5.2), by one explicit step of flow time ηN

    Residuals of L2 shrink by 1 − η a step to first order, so `theory.num_steps(cost0, tol, learning_rate)` says
    beforehand how many steps a tolerance takes. A step that would leave the cost not finite, or more than
    `max_growth` times as large, is halved until it does not, and dropped after 30 halvings; `info.fraction` says so.

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
    >>> tx = jg.optim.adapted_gradient_descent(0.5, line)
    >>> slope = jnp.array(0.0)
    >>> updates, state = tx.update(jnp.array(-16.0), tx.init(slope), slope, inputs=jnp.array([2.0]),
    ...     targets=jnp.array([8.0]))
    >>> float(updates), float(state.info.gain_ratio)
    (2.0, 1.0)

    ```
    """
    check_value("learning_rate", learning_rate)
    check_value("damping", damping)
    check_number("max_growth", max_growth, above=0)
    transformation = AdaptedGradientDescent(
        AdaptedMetric(
            source(apply, cost, trainable, per_sample),
            chosen_metric(metric),
            check_solver(solver),
            damping,
        ),
        learning_rate,
        max_growth,
    )
    return transformation.as_optax()
