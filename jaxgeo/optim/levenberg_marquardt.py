"""Levenberg–Marquardt: damped adapted steps, tried before they are taken."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from jaxgeo.linalg.solvers import QR, AbstractLiftSolver, Auto, GramCholesky
from jaxgeo.linalg.trust_region import damping_for_length
from jaxgeo.metrics import AbstractMetric, CostHessian
from jaxgeo.optim.base import AbstractTransformation, next_count, zero_count
from jaxgeo.optim.damping import GainRatioDamping
from jaxgeo.optim.info import StepInfo, empty_step, gain_ratio, step_info
from jaxgeo.optim.linearisation import Linearisation
from jaxgeo.optim.scaling import ColumnScaling
from jaxgeo.optim.source import CostOfTargets, Source, source
from jaxgeo.optim.trust_region import TrustRegion
from jaxgeo.problem import Problem

# Up to this many rows DDᵀ is formed and factored in float64, in at most 2 GiB.
MOST_DOUBLE_ROWS = 16384


class LevenbergMarquardtState(NamedTuple):
    """State of `adapted_levenberg_marquardt`; `damping` is that of the next step."""

    count: Int[Array, ""]
    damping: Float[Array, ""]
    radius: Float[Array, ""]
    largest: Float[Array, " K"]
    linesearch: PyTree
    info: StepInfo


class LevenbergMarquardt(AbstractTransformation):
    """See `adapted_levenberg_marquardt`."""

    source: Source
    metric: AbstractMetric
    solver: AbstractLiftSolver | None
    damping: GainRatioDamping
    trust_region: TrustRegion
    scaling: ColumnScaling
    acceleration: float | Float[Array, ""] | None
    linesearch: optax.GradientTransformationExtraArgs | None
    least_gain: float = 1e-4

    @property
    def problems(self) -> Source:
        return self.source

    def init(self, params: PyTree) -> LevenbergMarquardtState:
        dtype = self.source.dtype(params)
        zero = jnp.zeros((), dtype)
        largest = self.scaling.init(self.source.size(params), dtype)
        search = () if self.linesearch is None else self.linesearch.init(self.source.partition(params))
        damping = jnp.asarray(self.damping.initial, dtype)
        return LevenbergMarquardtState(zero_count(), damping, zero, largest, search, empty_step(dtype))

    @eqx.filter_jit
    def step(
        self, updates: PyTree, state: LevenbergMarquardtState, params: PyTree, problem: Problem
    ) -> tuple[PyTree, LevenbergMarquardtState]:
        del updates
        dtype = state.damping.dtype
        linear, largest = self.scaling(Linearisation(problem, params, self.metric), state.largest)
        few = linear.scale is not None
        solver = _default_solver(linear, few) if self.solver is None else self.solver
        damping, radius = state.damping.astype(linear.outputs.dtype), state.radius.astype(linear.outputs.dtype)
        if few:
            start = optax.tree.norm(linear.rescale(linear.trainable))
            radius = jnp.where(state.count == 0, self.trust_region.first(start), radius)
            shift = damping = damping_for_length(linear.jacobian, -linear.residual, radius)
        else:
            shift = linear.relative(damping)
        velocity, lift = solver.solve(linear.jacobian, -linear.residual, shift)
        if self.acceleration is not None:
            velocity = self._accelerate(solver, linear, velocity, shift, self.acceleration)
        step, search = self._search(state.linesearch, linear, linear.unscale(velocity))
        if self.linesearch is not None:
            velocity = linear.rescale(step)
        predicted = linear.predicted_decrease(velocity)
        trial = linear.move(step)
        ratio = gain_ratio(trial.decrease, predicted, trial.finite)
        accepted = trial.finite & (ratio >= self.least_gain)
        if few:
            length = optax.tree.norm(velocity)
            held = length > 0.9 * radius
            radius = self.trust_region.update(
                radius, length, ratio, linear.slope(velocity), trial.decrease, held, trial.finite
            )
            next_damping = damping.astype(dtype)
        else:
            next_damping = self.damping.update(state.damping, ratio.astype(dtype), accepted)
        trial = trial.taken_if(accepted, linear)
        info = step_info(linear, trial, accepted.astype(dtype), accepted, damping, lift, dtype)
        count = next_count(state.count)
        state = LevenbergMarquardtState(count, next_damping, radius.astype(dtype), largest, search, info)
        return linear.embed(trial.step), state

    def _accelerate(
        self,
        solver: AbstractLiftSolver,
        linear: Linearisation,
        velocity: PyTree,
        damping: Float[Array, ""],
        limit: float | Float[Array, ""],
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
        small = 2 * optax.tree.norm(correction) <= limit * optax.tree.norm(velocity)
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


def _default_solver(linear: Linearisation, few: bool) -> AbstractLiftSolver:
    """QR for few parameters; on the side of the rows DDᵀ in float64, whatever the dtype of the parameters.

    Its condition number is that of D squared, so a DDᵀ in float32 asks for more damping than the last steps have.
    """
    if few:
        return QR()
    rows = linear.jacobian.out_size()
    if linear.jacobian.in_size() >= rows and rows <= MOST_DOUBLE_ROWS:
        return GramCholesky(gram_dtype=jnp.dtype(jnp.float64))
    return Auto()


def adapted_levenberg_marquardt(
    apply: Callable[[PyTree, PyTree], Array] | None = None,
    *,
    cost: CostOfTargets | None = None,
    metric: AbstractMetric | None = None,
    solver: AbstractLiftSolver | None = None,
    damping: GainRatioDamping | None = None,
    trust_region: TrustRegion | None = None,
    scaling: ColumnScaling | None = None,
    acceleration: float | Float[Array, ""] | None = None,
    linesearch: optax.GradientTransformationExtraArgs | None = None,
    trainable: PyTree = None,
) -> optax.GradientTransformationExtraArgs:
    """Damped adapted steps, each tried before it is taken: the optimizer for the lowest cost without any tuning.

    θ ← θ − Dᵀ(DDᵀ + λ)⁻¹(x − y) for L2, and the same in the cost's own metric for other costs. A step is taken if the
    cost falls; otherwise the update is zero, parameters and all but the damping stay as they are. One update makes one
    solve. How much it is damped follows from the last gain ratio, the decrease of the cost in units of what the
    linearised outputs predicted, summed from output differences so that it means something down to round-off:

    - for K ≥ QN, or K > 1024, by `damping`;
    - for K < QN with few parameters, as MINPACK does: the length of the step is bounded by `trust_region` with each
      parameter in units of its own (`scaling`), so that parameters may differ by any orders of magnitude.

    Meant for one batch, the whole data, at every update; for minibatches see `adapted_momentum`. The incoming
    gradients only give the form of the updates: pass zeros to save their computation, and chain what changes
    gradients after this transformation.

    **Arguments:**

    - `apply`, `cost`, `metric`, `trainable`: as for `scale_by_adapted_metric`.
    - `solver`: of the lift; by default QR of D where `scaling` applies, for K ≥ QN a Cholesky factorisation of DDᵀ in
        float64, else `jaxgeo.linalg.Auto()`.
    - `damping`, `trust_region`, `scaling`: the policies above.
    - `acceleration`: add the geodesic acceleration a/2 of the step v where 2|a/2| ≤ `acceleration` |v|, for example
        0.75; one more solve a step. None (the default) for not.
    - `linesearch`: an optax transformation that takes `value`, `grad` and `value_fn`, such as
        `optax.scale_by_backtracking_linesearch`, through which the step goes before it is tried.

    **Returns:** an `optax.GradientTransformationExtraArgs`, whose state has a `StepInfo`.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg, optax
    >>> def decay(params, t):
    ...     return params["size"] * jnp.exp(-params["rate"] * t)
    >>> t = jnp.linspace(0.0, 1.0, 8)
    >>> tx = jg.optim.adapted_levenberg_marquardt(decay)
    >>> params = {"rate": jnp.array(1.0), "size": jnp.array(1.0)}
    >>> state = tx.init(params)
    >>> for _ in range(8):
    ...     updates, state = tx.update(params, state, params, inputs=t, targets=5 * jnp.exp(-3 * t))
    ...     params = optax.apply_updates(params, updates)
    >>> {name: round(float(value), 6) for name, value in params.items()}
    {'rate': 3.0, 'size': 5.0}

    ```
    """
    transformation = LevenbergMarquardt(
        source(apply, cost, trainable),
        CostHessian() if metric is None else metric,
        solver,
        GainRatioDamping() if damping is None else damping,
        TrustRegion() if trust_region is None else trust_region,
        ColumnScaling() if scaling is None else scaling,
        acceleration,
        linesearch,
    )
    return transformation.as_optax()
