"""Adapted steps with momentum, for minibatches."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from jaxgeo._checks import check_number, is_trainable_leaf
from jaxgeo.costs import SampleWeighted
from jaxgeo.costs.squares import AbstractSquares
from jaxgeo.linalg.lifting import check_solver
from jaxgeo.linalg.linearisation import Linearisation
from jaxgeo.linalg.solvers import AbstractLiftSolver, LiftInfo
from jaxgeo.linalg.tangents import norm
from jaxgeo.linalg.widths import cast_up
from jaxgeo.metrics import AbstractMetric
from jaxgeo.optim.agreement import Agreement, NextBatchDamping
from jaxgeo.optim.attempt import Attempt, scaled, shorten_growth
from jaxgeo.optim.base import AbstractTransformation, dtype_of
from jaxgeo.optim.damping import Value, check_value, value_at
from jaxgeo.optim.info import StepInfo, empty_step, step_info
from jaxgeo.optim.prior import Prior, read_prior
from jaxgeo.optim.problem_maker import CostOfTargets, ProblemMaker, like
from jaxgeo.optim.steepness import Steepness
from jaxgeo.prior import without_prior
from jaxgeo.problem import Problem

# Above it, what momentum keeps along ker D, 1/(1 − μ) times what comes in, is no longer an average of few batches.
LARGEST_MOMENTUM = 0.99

# Of least squares, whose batches can be fitted. Strong damping takes fewer gradients a step, and many more steps.
SQUARES_DAMPING = 1e-3

# Damping from which few products with D do for a lift: λ is then at least the mean eigenvalue of DDᵀ.
LARGE_DAMPING = 1.0

# Steps of conjugate gradients in such a lift. One more costs time, and trained no better on small images.
PRODUCTS = 2


class MomentumState(NamedTuple):
    """State of `adapted_momentum`.

    - `count`: how many updates were made.
    - `velocity`: φ, by which the last update moved the parameters at learning rate 1; 0 before the first, and after a
        step that was rejected.
    - `steepness`: the metric on parameter space in which strongly damped steps are short; 0 before it was needed.
    - `agreement`: the damping, and what the next batch is to judge it by.
    - `info`: how the last update went.
    """

    count: Int[Array, ""]
    velocity: PyTree
    steepness: Steepness
    agreement: Agreement
    info: StepInfo


class AdaptedMomentum(AbstractTransformation):
    """See `adapted_momentum`."""

    solver: AbstractLiftSolver | None
    learning_rate: Value
    momentum: Value
    damping: Value | NextBatchDamping | None
    max_change: float | Float[Array, ""] | None
    max_growth: float | Float[Array, ""]
    prior: Prior | None

    def __check_init__(self):
        check_value("learning_rate", self.learning_rate)
        check_value("momentum", self.momentum, most=LARGEST_MOMENTUM)
        if isinstance(self.damping, type):
            raise ValueError(f"`damping` must be a number, a schedule or `NextBatchDamping()`; got {self.damping!r}.")
        if self.damping is not None and not isinstance(self.damping, NextBatchDamping):
            check_value("damping", self.damping)
        if self.max_change is not None:
            check_number("max_change", self.max_change, above=0)
        check_number("max_growth", self.max_growth, above=0)
        if self.prior is not None and self.prior.by_evidence:
            raise ValueError(
                '`prior="evidence"` needs all data at every update: use `adapted_levenberg_marquardt`, or a number.'
            )

    def regularised(self, problem: Problem, params: PyTree, state: MomentumState) -> Problem:
        del state
        return problem if self.prior is None else self.prior.attach(problem, params, ())

    def init(self, params: PyTree) -> MomentumState:
        moving = cast_up(eqx.filter(params, is_trainable_leaf), jnp.dtype(jnp.float32))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), moving)
        dtype = dtype_of(self.problems.partition(params))
        agreement = (self.damping if isinstance(self.damping, NextBatchDamping) else NextBatchDamping()).init(dtype)
        steepness = Steepness(zeros, jnp.zeros((), dtype))
        return MomentumState(jnp.zeros((), jnp.int32), zeros, steepness, agreement, empty_step(dtype))

    def step(self, updates: PyTree, state: MomentumState, linear: Linearisation) -> tuple[PyTree, MomentumState]:
        del updates
        work = linear.outputs.dtype
        momentum = jnp.clip(value_at(self.momentum, state.count, work), 0, LARGEST_MOMENTUM)
        rate = value_at(self.learning_rate, state.count, work)
        last = linear.restrict(state.velocity)
        moving = linear.jacobian.mv(last)
        chosen = self._chosen(linear)
        damping = self._damping(chosen, state, linear, moving)
        missing = -linear.residual - momentum * moving
        correction, moved, report, steepness = self._lift(chosen, linear, state, damping, missing)
        velocity = jax.tree.map(jnp.add, scaled(momentum, last), correction)
        moved = momentum * moving + moved
        capped = rate * self._fraction(linear, rate * norm(moved))
        attempt = Attempt(linear, scaled(capped, velocity), line=capped * moved)
        tried = shorten_growth(attempt, self.max_growth)
        fraction = tried.fraction * jnp.where(rate > 0, capped / jnp.where(rate > 0, rate, 1), 1)
        # A velocity that a cap or a halving had to hold back is not kept at its full length.
        held = jax.tree.map(
            lambda leaf: jnp.where(tried.accepted, leaf, jnp.zeros_like(leaf)), scaled(fraction, velocity)
        )
        taken = rate * fraction * moved
        slope = jnp.sum(linear.residual * taken) / linear.total_weight
        promised = slope + jnp.sum(taken**2) / linear.total_weight
        agreement = damping, slope, promised, jnp.where(tried.accepted, rate, 0)
        return tried.trial.step, MomentumState(
            state.count,
            like(state.velocity, state.velocity, linear.embed(held)),
            steepness._replace(
                squares=like(state.velocity, state.velocity, linear.embed(steepness.squares)),
            ),
            # What the damping is judged by is data, without derivatives.
            Agreement(*(jax.lax.stop_gradient(value).astype(steepness.trace.dtype) for value in agreement)),
            step_info(state.info, linear, tried._replace(fraction=fraction), damping, report),
        )

    def _chosen(self, linear: Linearisation) -> Value | NextBatchDamping:
        """The damping that was asked for, or that of the kind of cost."""
        if self.damping is not None:
            return self.damping
        loss = without_prior(linear.problem).loss
        loss = loss.cost if isinstance(loss, SampleWeighted) else loss
        return SQUARES_DAMPING if isinstance(loss, AbstractSquares) else NextBatchDamping()

    def _damping(
        self,
        chosen: Value | NextBatchDamping,
        state: MomentumState,
        linear: Linearisation,
        moving: Float[Array, "rows R"],
    ) -> Float[Array, ""]:
        work = linear.outputs.dtype
        if not isinstance(chosen, NextBatchDamping):
            return value_at(chosen, state.count, work)
        found = state.agreement.rate.astype(work) * jnp.sum(linear.residual * moving) / linear.total_weight
        return chosen.learn(state.agreement, found.astype(state.agreement.rate.dtype)).astype(work)

    def _fraction(self, linear: Linearisation, length: Float[Array, ""]) -> Float[Array, ""]:
        """How much of a step that moves the rows by `length` the cap lets through."""
        if self.max_change is None and linear.root is None:
            return jnp.ones_like(length)
        most = jnp.asarray(1.0 if self.max_change is None else self.max_change, length.dtype)
        most = most * jnp.sqrt(jnp.asarray(linear.total_weight, length.dtype))
        return jnp.where(length > most, most / jnp.where(length > most, length, 1), 1)

    def _lift(
        self,
        chosen: Value | NextBatchDamping,
        linear: Linearisation,
        state: MomentumState,
        damping: Float[Array, ""],
        missing: Float[Array, "rows R"],
    ) -> tuple[PyTree, Float[Array, "rows R"], LiftInfo, Steepness]:
        """What moves the rows by what is missing, what D makes of it, how it went, and the steepness so far."""
        jacobian, steepness = (
            linear.jacobian,
            Steepness(linear.restrict(state.steepness.squares), state.steepness.trace),
        )

        def exactly() -> tuple[PyTree, Float[Array, "rows R"], LiftInfo]:
            correction, report = check_solver(self.solver).solve(jacobian, missing, linear.relative(damping))
            return correction, jacobian.mv(correction), report

        # A number is known before the program is made, which then needs only one of the two ways.
        number = chosen if isinstance(chosen, float | int) else None
        if self.solver is not None or (number is not None and number < LARGE_DAMPING):
            return *exactly(), steepness
        pulled = jacobian.T.mv(missing)
        steepness = steepness.after(linear, state.count, pulled)

        def roughly() -> tuple[PyTree, Float[Array, "rows R"], LiftInfo]:
            return steepness.lift(linear, state.count, damping, missing, pulled, PRODUCTS)

        if number is not None:
            return *roughly(), steepness
        return *jax.lax.cond(damping >= LARGE_DAMPING, roughly, exactly), steepness


def adapted_momentum(
    apply: Callable[[PyTree, PyTree], Array] | None = None,
    *,
    learning_rate: Value = 1.0,
    momentum: Value = 0.9,
    cost: CostOfTargets | None = None,
    metric: AbstractMetric | None = None,
    solver: AbstractLiftSolver | None = None,
    damping: Value | NextBatchDamping | None = None,
    max_change: float | Float[Array, ""] | None = None,
    max_growth: float | Float[Array, ""] = 2.0,
    prior: Prior | float | PyTree | None = None,
    trainable: PyTree = None,
    per_sample: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Training by minibatches: adapted steps that keep what earlier batches said wherever the present one says nothing.

    Use it with a learning rate of the order 1 and a schedule that ends at 0, for least squares and cross-entropy, small
    and large batches; race it against AdamW, which may be ahead on dense networks. On a full batch the fixed points are
    those of the adapted flow.

    φ ← μφ + W⁻¹Dᵀ(DW⁻¹Dᵀ + λ)⁻¹(v − μDφ), θ ← θ + ηφ, with v = −(x − y) for L2: the velocity closest to μφ that moves
    the present outputs by v (SPRING). The momentum is replaced, not added to, along the directions that this batch
    decides. The incoming gradients only give the form of the updates: chain what changes gradients after it.

    Least squares are damped little, and each batch is fitted. With other costs a batch is a sample, and fitting all of
    it fits its noise; so λ is adapted by how well the next batch agrees (`NextBatchDamping`). While λ is at least the
    mean eigenvalue of DW⁻¹Dᵀ, two steps of conjugate gradients do for the lift, in the metric W of Adam, the roots of
    mean squares of gradients: an update then costs a few gradients of the batch, and its state has twice the size of
    the parameters. Below, and wherever a solver is given, the lift is exact and W = 1.

    Reference: G. Goldshlager, N. Abrahamsen, L. Lin, A Kaczmarz-inspired approach to accelerate the optimization of
    neural network wavefunctions, 2024, arXiv 2401.10190

    **Arguments:**

    - `learning_rate`: η in units of N, as for `adapted_gradient_descent`: a number or an optax schedule.
    - `momentum`: μ in [0, 0.99], a number or an optax schedule.
    - `damping`: λ relative to trace(DW⁻¹Dᵀ)/QN: a number, an optax schedule or a `NextBatchDamping`. By default 1e-3
        for least squares, and `NextBatchDamping()` for other costs; noisy targets want the latter too.
    - `max_change`: how far an update may move the outputs, by the linearised network: the root mean square over the
        samples in the metric of the cost, which for cross-entropy is a change of log-probabilities. By default 1, and
        without bound in the Euclidean metric of L2, whose outputs have units of yours.
    - `prior`: a Gaussian prior on the parameters as a part of what is minimised: a number, a pytree prefix of `params`
        of numbers, or a `jaxgeo.optim.Prior`, which also says of how many samples a batch is a part.
    - the others: as for `adapted_gradient_descent`, and the same extra arguments of `update`.

    **Returns:** an `optax.GradientTransformationExtraArgs`, whose state has a `StepInfo`.

    **Raises:** `ValueError` unless `momentum` is a schedule or in [0, 0.99], and `max_change` is positive.

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
    solver = None if solver is None else check_solver(solver)
    return AdaptedMomentum(
        problems, metric, solver, learning_rate, momentum, damping, max_change, max_growth, read_prior(prior)
    ).as_optax()
