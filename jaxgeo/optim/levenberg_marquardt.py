"""Levenberg–Marquardt: damped adapted steps, tried before they are taken."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from jaxgeo._checks import is_trainable_leaf
from jaxgeo.costs import L2
from jaxgeo.linalg.solvers import QR, AbstractLiftSolver, Auto
from jaxgeo.linalg.trust_region import damping_for_length
from jaxgeo.metrics import AbstractMetric, CostHessian
from jaxgeo.optim.damping import GainRatioDamping
from jaxgeo.optim.info import StepInfo, empty_step, gain_ratio, of_lift
from jaxgeo.optim.linearisation import Linearisation
from jaxgeo.optim.scaling import ColumnScaling
from jaxgeo.optim.source import Batch, CostOfTargets, Source, like
from jaxgeo.optim.trust_region import TrustRegion
from jaxgeo.problem import Problem


class LevenbergMarquardtState(NamedTuple):
    """State of `adapted_levenberg_marquardt`; `damping` is that of the next step."""

    count: Int[Array, ""]
    damping: Float[Array, ""]
    run: Float[Array, ""]
    radius: Float[Array, ""]
    largest: Float[Array, " K"]
    linesearch: PyTree
    info: StepInfo


class LevenbergMarquardt(eqx.Module):
    """See `adapted_levenberg_marquardt`."""

    source: Source
    metric: AbstractMetric
    solver: AbstractLiftSolver | None
    damping: GainRatioDamping
    trust_region: TrustRegion
    scaling: ColumnScaling
    acceleration: float | None
    linesearch: optax.GradientTransformationExtraArgs | None
    least_gain: float = 1e-4

    def init(self, params: PyTree) -> LevenbergMarquardtState:
        dtype = self.source.dtype(params)
        zero = jnp.zeros((), dtype)
        largest = self.scaling.init(self.source.size(params), dtype)
        search = () if self.linesearch is None else self.linesearch.init(self.source.partition(params))
        damping = jnp.asarray(self.damping.initial, dtype)
        return LevenbergMarquardtState(
            jnp.zeros((), jnp.int32), damping, zero, zero, largest, search, empty_step(dtype)
        )

    @eqx.filter_jit
    def step(
        self, state: LevenbergMarquardtState, params: PyTree, problem: Problem
    ) -> tuple[PyTree, LevenbergMarquardtState]:
        dtype = state.damping.dtype
        linear, largest = self.scaling(Linearisation(problem, params, self.metric), state.largest)
        few = linear.scale is not None
        solver = (QR() if few else Auto()) if self.solver is None else self.solver
        damping, radius = state.damping.astype(linear.outputs.dtype), state.radius.astype(linear.outputs.dtype)
        if few:
            start = optax.global_norm(linear.rescale(linear.trainable))
            radius = jnp.where(state.count == 0, self.trust_region.first(start), radius)
            damping = damping_for_length(linear.jacobian, -linear.residual, radius)
        velocity, lift = solver.solve(linear.jacobian, -linear.residual, damping)
        if self.acceleration is not None:
            velocity = self._accelerate(solver, linear, velocity, damping)
        step, search = self._search(state.linesearch, linear, linear.unscale(velocity))
        if self.linesearch is not None:
            velocity = linear.rescale(step)
        predicted = linear.predicted_decrease(velocity)
        trial = linear.move(step)
        ratio = gain_ratio(trial.decrease, predicted, trial.finite)
        accepted = trial.finite & (ratio >= self.least_gain)
        if few:
            length = optax.global_norm(velocity)
            held = length > 0.9 * radius
            radius = self.trust_region.update(
                radius, length, ratio, linear.slope(velocity), trial.decrease, held, trial.finite
            )
            next_damping, run = damping.astype(dtype), state.run
        else:
            next_damping, run = self.damping.update(state.damping, state.run, ratio.astype(dtype), accepted)
        step = jax.tree.map(lambda leaf: jnp.where(accepted, leaf, jnp.zeros_like(leaf)), step)
        cost = linear.cost
        info = StepInfo(
            cost.astype(dtype),
            jnp.where(accepted, trial.cost, cost).astype(dtype),
            predicted.astype(dtype),
            ratio.astype(dtype),
            damping.astype(dtype),
            accepted.astype(dtype),
            optax.global_norm(step).astype(dtype),
            accepted,
            *of_lift(lift, dtype),
        )
        count = optax.safe_increment(state.count)
        state = LevenbergMarquardtState(count, next_damping, run, radius.astype(dtype), largest, search, info)
        return linear.embed(step), state

    def _accelerate(
        self, solver: AbstractLiftSolver, linear: Linearisation, velocity: PyTree, damping: Float[Array, ""]
    ) -> PyTree:
        """velocity + half the geodesic acceleration, where that is small beside it."""
        jacobian = linear.jacobian
        start = linear.trainable if linear.scale is None else jax.tree.map(jnp.zeros_like, linear.trainable)
        frozen = linear.frozen if linear.scale is None else None

        def outputs(theta: PyTree) -> Array:
            return jacobian.problem.outputs(eqx.combine(theta, frozen))

        def speed(theta: PyTree) -> Array:
            return jax.jvp(outputs, (theta,), (velocity,))[1]

        _, curvature = jax.jvp(speed, (start,), (velocity,))
        correction, _ = solver.solve(jacobian, -0.5 * curvature, damping)
        small = 2 * optax.global_norm(correction) <= self.acceleration * optax.global_norm(velocity)
        return jax.tree.map(lambda v, a: jnp.where(small, v + a, v), velocity, correction)

    def _search(self, state: PyTree, linear: Linearisation, step: PyTree) -> tuple[PyTree, PyTree]:
        if self.linesearch is None:
            return step, state

        def cost(trainable: PyTree) -> Float[Array, ""]:
            return linear.problem.cost(eqx.combine(trainable, linear.frozen))

        gradient = linear.gradient
        if linear.scale is not None:
            gradient = jax.tree.map(jnp.divide, gradient, linear.scale)
        return self.linesearch.update(step, state, linear.trainable, value=linear.cost, grad=gradient, value_fn=cost)

    def update(
        self,
        updates: PyTree,
        state: LevenbergMarquardtState,
        params: PyTree = None,
        *,
        problem: Problem | None = None,
        inputs: PyTree = None,
        targets: PyTree = None,
        weights: PyTree = None,
        full_params: PyTree = None,
        **extra_args: object,
    ) -> tuple[PyTree, LevenbergMarquardtState]:
        del extra_args
        this, full = self.source(params, Batch(problem, inputs, targets, weights, full_params))
        step, state = self.step(state, full, this)
        return like(params, updates, step), state


def adapted_levenberg_marquardt(
    apply: Callable[[PyTree, PyTree], Array] | None = None,
    *,
    cost: CostOfTargets = L2,
    metric: AbstractMetric | None = None,
    solver: AbstractLiftSolver | None = None,
    damping: GainRatioDamping | None = None,
    trust_region: TrustRegion | None = None,
    scaling: ColumnScaling | None = None,
    acceleration: float | None = None,
    linesearch: optax.GradientTransformationExtraArgs | None = None,
    trainable: PyTree = is_trainable_leaf,
) -> optax.GradientTransformationExtraArgs:
    """Damped adapted steps that are tried before they are taken."""
    transformation = LevenbergMarquardt(
        Source(apply, cost, trainable),
        CostHessian() if metric is None else metric,
        solver,
        GainRatioDamping() if damping is None else damping,
        TrustRegion() if trust_region is None else trust_region,
        ColumnScaling() if scaling is None else scaling,
        acceleration,
        linesearch,
    )
    return optax.GradientTransformationExtraArgs(transformation.init, transformation.update)
