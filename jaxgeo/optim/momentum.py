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
from jaxgeo.linalg.widths import cast_up
from jaxgeo.metrics import AbstractMetric
from jaxgeo.optim.attempt import Attempt, scaled, shorten_growth
from jaxgeo.optim.base import AbstractTransformation, dtype_of
from jaxgeo.optim.damping import Value, check_value, value_at
from jaxgeo.optim.info import StepInfo, empty_step, step_info
from jaxgeo.optim.problem_maker import CostOfTargets, ProblemMaker, like

# Above it, what momentum keeps along ker D, 1/(1 − μ) times what comes in, is no longer an average of few batches.
LARGEST_MOMENTUM = 0.99


class MomentumState(NamedTuple):
    """State of `adapted_momentum`.

    - `count`: how many updates were made.
    - `velocity`: φ, by which the last update moved the parameters at learning rate 1; 0 before the first, and after a
        step that was rejected.
    - `info`: how the last update went.
    """

    count: Int[Array, ""]
    velocity: PyTree
    info: StepInfo


class AdaptedMomentum(AbstractTransformation):
    """See `adapted_momentum`."""

    solver: AbstractLiftSolver = eqx.field(converter=check_solver)
    learning_rate: Value
    momentum: Value
    damping: Value
    norm_cap: float | Float[Array, ""]
    max_growth: float | Float[Array, ""]

    def __check_init__(self):
        check_value("learning_rate", self.learning_rate)
        check_value("momentum", self.momentum, most=LARGEST_MOMENTUM)
        check_value("damping", self.damping)
        check_number("norm_cap", self.norm_cap, above=0)
        check_number("max_growth", self.max_growth, above=0)

    def init(self, params: PyTree) -> MomentumState:
        velocity = cast_up(eqx.filter(params, is_trainable_leaf), jnp.dtype(jnp.float32))
        velocity = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), velocity)
        return MomentumState(jnp.zeros((), jnp.int32), velocity, empty_step(dtype_of(self.problems.partition(params))))

    def step(self, updates: PyTree, state: MomentumState, linear: Linearisation) -> tuple[PyTree, MomentumState]:
        del updates
        work = linear.outputs.dtype
        momentum = jnp.clip(value_at(self.momentum, state.count, work), 0, LARGEST_MOMENTUM)
        damping = value_at(self.damping, state.count, work)
        kept = scaled(momentum, linear.restrict(state.velocity))
        missing = -linear.residual - linear.jacobian.mv(kept)
        correction, lift = self.solver.solve(linear.jacobian, missing, linear.relative(damping))
        velocity = jax.tree.map(jnp.add, kept, correction)
        rate = value_at(self.learning_rate, state.count, work)
        length = rate * norm(velocity).astype(work)
        cap = jnp.asarray(self.norm_cap, work)
        capped = rate * jnp.where(length > cap, cap / jnp.where(length > cap, length, 1), 1)
        tried = shorten_growth(Attempt(linear, scaled(capped, velocity)), self.max_growth)
        fraction = tried.fraction * jnp.where(rate > 0, capped / jnp.where(rate > 0, rate, 1), 1)
        # A velocity that a cap or a halving had to hold back is not kept at its full length.
        held = jax.tree.map(
            lambda leaf: jnp.where(tried.accepted, leaf, jnp.zeros_like(leaf)), scaled(fraction, velocity)
        )
        info = step_info(state.info, linear, tried._replace(fraction=fraction), damping, lift)
        after = like(state.velocity, state.velocity, linear.embed(held))
        return tried.trial.step, MomentumState(state.count, after, info)


def adapted_momentum(
    apply: Callable[[PyTree, PyTree], Array] | None = None,
    *,
    learning_rate: Value,
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
    """Training by minibatches: adapted steps that keep what earlier batches said wherever the present one says nothing.

    Use it where the samples do not fit one batch. An update costs one lift for the samples of its batch. On a full
    batch the fixed points are those of the adapted flow.

    φ ← μφ + Dᵀ(DDᵀ + λ)⁻¹(v − μDφ), θ ← θ + ηφ, with v = −(x − y) for L2: the velocity closest to μφ that moves the
    present outputs by v (SPRING). The momentum is replaced, not added to, along the directions that this batch decides.
    The incoming gradients only give the form of the updates: chain what changes gradients after it.

    Reference: G. Goldshlager, N. Abrahamsen, L. Lin, A Kaczmarz-inspired approach to accelerate the optimization of
    neural network wavefunctions, 2024, arXiv 2401.10190

    **Arguments:**

    - `learning_rate`: η in units of N, as for `adapted_gradient_descent`.
    - `momentum`: μ in [0, 0.99], a number or an optax schedule.
    - `damping`: λ relative to trace(DDᵀ)/QN, a number or an optax schedule.
    - `norm_cap`: the longest update, in parameter space.
    - the others: as for `adapted_gradient_descent`, and the same extra arguments of `update`.

    **Returns:** an `optax.GradientTransformationExtraArgs`, whose state has a `StepInfo`.

    **Raises:** `ValueError` unless `momentum` is a schedule or in [0, 0.99], and `norm_cap` is positive.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> tx = jg.optim.adapted_momentum(lambda slope, x: slope * x, learning_rate=0.5, damping=0.0)
    >>> slope = jnp.array(0.0)
    >>> updates, state = tx.update(slope, tx.init(slope), slope, inputs=jnp.array([2.0]), targets=jnp.array([2.0]))
    >>> float(updates)
    0.5

    ```
    """
    problems = ProblemMaker(apply, cost, trainable, per_sample)
    return AdaptedMomentum(problems, metric, solver, learning_rate, momentum, damping, norm_cap, max_growth).as_optax()
