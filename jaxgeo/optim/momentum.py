"""Adapted steps with momentum, for minibatches."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from jaxgeo._checks import check_number, is_trainable_leaf
from jaxgeo.linalg.lifting import check_solver
from jaxgeo.linalg.linearisation import Linearisation
from jaxgeo.linalg.solvers import AbstractLiftSolver
from jaxgeo.linalg.tangents import norm
from jaxgeo.metrics import AbstractMetric
from jaxgeo.optim.attempt import Attempt, shorten_growth
from jaxgeo.optim.base import AbstractTransformation, chosen_metric, next_count, zero_count
from jaxgeo.optim.damping import Value, check_value, value_at
from jaxgeo.optim.info import StepInfo, empty_step, step_info
from jaxgeo.optim.source import CostOfTargets, Source, like, source
from jaxgeo.problem import Problem

# Above it, what momentum keeps along ker D, 1/(1 − μ) times what comes in, is no longer an average of few batches.
LARGEST_MOMENTUM = 0.99


class MomentumState(NamedTuple):
    """State of `adapted_momentum`; `velocity` is φ."""

    count: Int[Array, ""]
    velocity: PyTree
    info: StepInfo


class AdaptedMomentum(AbstractTransformation):
    """See `adapted_momentum`."""

    source: Source
    learning_rate: Value
    momentum: Value
    metric: AbstractMetric
    solver: AbstractLiftSolver
    damping: Value
    norm_cap: float | Float[Array, ""]
    max_growth: float | Float[Array, ""]

    @property
    def problems(self) -> Source:
        return self.source

    def init(self, params: PyTree) -> MomentumState:
        velocity = jax.tree.map(jnp.zeros_like, eqx.filter(params, is_trainable_leaf))
        return MomentumState(zero_count(), velocity, empty_step(self.source.dtype(params)))

    @eqx.filter_jit
    def step(
        self, updates: PyTree, state: MomentumState, params: PyTree, problem: Problem
    ) -> tuple[PyTree, MomentumState]:
        del updates
        dtype = state.info.cost.dtype
        linear = Linearisation(problem, params, self.metric)
        work = linear.outputs.dtype
        momentum = jnp.clip(value_at(self.momentum, state.count, work), 0, LARGEST_MOMENTUM)
        damping = value_at(self.damping, state.count, work)
        kept = jax.tree.map(lambda leaf: momentum.astype(leaf.dtype) * leaf, linear.restrict(state.velocity))
        missing = -linear.residual - linear.jacobian.mv(kept)
        correction, lift = self.solver.solve(linear.jacobian, missing, linear.relative(damping))
        velocity = jax.tree.map(jnp.add, kept, correction)
        rate = value_at(self.learning_rate, state.count, work)
        length = rate * norm(velocity).astype(work)
        cap = jnp.asarray(self.norm_cap, work)
        capped = rate * jnp.where(length > cap, cap / jnp.where(length > cap, length, 1), 1)
        step = jax.tree.map(lambda leaf: capped.astype(leaf.dtype) * leaf, velocity)
        trial, fraction, accepted = shorten_growth(Attempt(linear, step), self.max_growth)
        fraction = fraction * jnp.where(rate > 0, capped / jnp.where(rate > 0, rate, 1), 1)
        # A velocity that a cap or a halving had to hold back is not kept at its full length.
        velocity = jax.tree.map(
            lambda leaf: jnp.where(accepted, fraction.astype(leaf.dtype) * leaf, jnp.zeros_like(leaf)), velocity
        )
        info = step_info(linear, trial, fraction, accepted, damping, lift, dtype)
        velocity = like(state.velocity, state.velocity, linear.embed(velocity))
        return linear.embed(trial.step), MomentumState(next_count(state.count), velocity, info)


def adapted_momentum(
    learning_rate: Value,
    apply: Callable[[PyTree, PyTree], Array] | None = None,
    *,
    momentum: Value = 0.9,
    cost: CostOfTargets | None = None,
    metric: AbstractMetric | None = None,
    solver: AbstractLiftSolver | None = None,
    damping: Value = 1e-3,
    norm_cap: float | Float[Array, ""] = 1.0,
    max_growth: float | Float[Array, ""] = 2.0,
    trainable: PyTree = None,
    per_sample: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Adapted steps that keep what earlier batches said wherever the present one says nothing (SPRING).

    φ ← μφ + Dᵀ(DDᵀ + λ)⁻¹(v − μDφ), θ ← θ + ηφ, with v = −(x − y) for L2: the velocity closest to μφ that moves the
    present outputs by v. The momentum is replaced, not added to, along the directions that this batch decides;
    on a full batch the fixed points are those of the adapted flow. The incoming gradients only give the form of the
    updates: chain what changes gradients after it.

    Reference: G. Goldshlager, N. Abrahamsen, L. Lin, A Kaczmarz-inspired approach to accelerate the optimization of
    neural network wavefunctions, 2024, arXiv 2401.10190

    **Arguments:**

    - `learning_rate`: η in units of N, as for `adapted_gradient_descent`.
    - `momentum`: μ in [0, 0.99], a number or an optax schedule.
    - `damping`: λ relative to trace(DDᵀ)/QN, a number or an optax schedule.
    - `norm_cap`: the longest update, in parameter space.
    - the others: as for `adapted_gradient_descent`, and the same extra arguments of `update`.

    **Returns:** an `optax.GradientTransformationExtraArgs`, whose state has a `StepInfo`.

    **Raises:** `ValueError` if `momentum` is a number outside [0, 0.99], or `norm_cap` is not positive.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> tx = jg.optim.adapted_momentum(0.5, lambda slope, x: slope * x, damping=0.0)
    >>> slope = jnp.array(0.0)
    >>> updates, state = tx.update(slope, tx.init(slope), slope, inputs=jnp.array([2.0]), targets=jnp.array([2.0]))
    >>> float(updates)
    0.5

    ```
    """
    check_value("learning_rate", learning_rate)
    check_value("momentum", momentum, most=LARGEST_MOMENTUM)
    check_value("damping", damping)
    check_number("norm_cap", norm_cap, above=0)
    check_number("max_growth", max_growth, above=0)
    transformation = AdaptedMomentum(
        source(apply, cost, trainable, per_sample),
        learning_rate,
        momentum,
        chosen_metric(metric),
        check_solver(solver),
        damping,
        norm_cap,
        max_growth,
    )
    return transformation.as_optax()
