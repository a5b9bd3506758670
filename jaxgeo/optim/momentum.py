"""Adapted steps with momentum, for minibatches."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from jaxgeo._checks import check_number, is_trainable_leaf
from jaxgeo._sums import totals
from jaxgeo.costs import SampleWeighted
from jaxgeo.costs.squares import AbstractSquares
from jaxgeo.linalg.lifting import check_solver
from jaxgeo.linalg.linearisation import Linearisation
from jaxgeo.linalg.solvers import AbstractLiftSolver, LiftInfo
from jaxgeo.linalg.tangents import norm
from jaxgeo.linalg.widths import cast_up
from jaxgeo.metrics import AbstractMetric
from jaxgeo.optim.agreement import (
    AbstractBatchDamping,
    Agreement,
    GivenDamping,
    NextBatchDamping,
    OwnBatchDamping,
    SmallBatchDamping,
)
from jaxgeo.optim.attempt import Attempt, scaled, shorten_growth
from jaxgeo.optim.base import AbstractTransformation, dtype_of
from jaxgeo.optim.damping import Value, check_value, value_at
from jaxgeo.optim.info import StepInfo, empty_step, step_info
from jaxgeo.optim.prior import Prior, read_prior
from jaxgeo.optim.problem_maker import CostOfTargets, ProblemMaker, like
from jaxgeo.optim.steepness import Steepness
from jaxgeo.prior import without_prior
from jaxgeo.problem import Problem

# Momentum amplifies steps along ker D by 1/(1 − μ); above this value they no longer average over few batches.
LARGEST_MOMENTUM = 0.99

# From this damping on, λ is at least the mean eigenvalue of DDᵀ, and a Cauchy step replaces the lift. Further steps of
# conjugate gradients take time, and did not train better on small images.
LARGE_DAMPING = 1.0

# For other costs. As λ never falls below, no exact lift is compiled, which would take several times the memory.
NOISY = NextBatchDamping(least=LARGE_DAMPING)


class MomentumState(NamedTuple):
    """State of `adapted_momentum`.

    - `count`: number of updates so far.
    - `velocity`: φ, the last update at learning rate 1; 0 before the first update and after a rejected step.
    - `steepness`: the metric on parameter space in which strongly damped steps are short; 0 until it is needed.
    - `agreement`: the damping, and the prediction by which the next batch judges it.
    - `info`: report of the last update.
    """

    count: Int[Array, ""]
    velocity: PyTree
    steepness: Steepness
    agreement: Agreement
    info: StepInfo


class Lifted(NamedTuple):
    """A lift, D times it, its report, and how to lift corrections of the step, if the solver can."""

    solution: PyTree
    moved: Float[Array, "rows R"]
    report: LiftInfo
    correct: Callable[[Float[Array, "rows R"]], PyTree] | None


class AdaptedMomentum(AbstractTransformation):
    """See `adapted_momentum`."""

    solver: AbstractLiftSolver | None
    learning_rate: Value
    momentum: Value | None
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
        # Each in a buffer of its own, so that the state can be donated.
        agreement = Agreement(*(jnp.zeros((), dtype) for _ in Agreement._fields))
        steepness = Steepness(zeros, jnp.zeros((), dtype))
        return MomentumState(jnp.zeros((), jnp.int32), zeros, steepness, agreement, empty_step(dtype))

    def step(self, updates: PyTree, state: MomentumState, linear: Linearisation) -> tuple[PyTree, MomentumState]:
        del updates
        work = linear.outputs.dtype
        chosen = self._chosen(linear)
        momentum = chosen.momentum if self.momentum is None else self.momentum
        momentum = jnp.clip(value_at(momentum, state.count, work), 0, LARGEST_MOMENTUM)
        rate = value_at(self.learning_rate, state.count, work)
        last = linear.restrict(state.velocity)
        moving = linear.jacobian.mv(last)
        damping, own = chosen.damping(state.agreement, linear, moving, state.count)
        missing = -linear.residual - momentum * moving
        lifted, steepness = self._lift(chosen, linear, state, damping, missing)
        velocity = jax.tree.map(jnp.add, scaled(momentum, last), lifted.solution)
        moved = momentum * moving + lifted.moved
        capped = rate * self._fraction(linear, rate * norm(moved))
        # A batch that judges its own step also corrects it for the curvature of the network.
        correct = lifted.correct if chosen.corrections else None
        attempt = Attempt(
            linear, scaled(capped, velocity), correct, chosen.corrections, line=capped * moved, allowed=own
        )
        tried = shorten_growth(attempt, self.max_growth)
        fraction = tried.fraction * jnp.where(rate > 0, capped / jnp.where(rate > 0, rate, 1), 1)
        # Keep only the part of the velocity that the cap and the halvings let through.
        held = jax.tree.map(
            lambda leaf: jnp.where(tried.accepted, leaf, jnp.zeros_like(leaf)), scaled(fraction, velocity)
        )
        taken = rate * fraction * moved
        slope, square = (each / linear.total_weight for each in totals(linear.residual * taken, taken**2))
        promised = slope + square
        allowed = jnp.where(tried.accepted, rate, 0)
        agreement = damping, chosen.after(damping, tried), slope, promised, allowed, tried.trial.cost
        return tried.trial.step, MomentumState(
            state.count,
            like(state.velocity, state.velocity, linear.embed(held)),
            steepness._replace(
                squares=like(state.velocity, state.velocity, linear.embed(steepness.squares)),
            ),
            # The damping is judged by data that are not differentiated.
            Agreement(*(jax.lax.stop_gradient(value).astype(steepness.trace.dtype) for value in agreement)),
            step_info(state.info, linear, tried._replace(fraction=fraction), damping, lifted.report),
        )

    def _chosen(self, linear: Linearisation) -> AbstractBatchDamping:
        """The requested damping, or the default for this kind of cost."""
        if isinstance(self.damping, NextBatchDamping):
            return self.damping
        if self.damping is not None:
            return GivenDamping(self.damping)
        loss = without_prior(linear.problem).loss
        loss = loss.cost if isinstance(loss, SampleWeighted) else loss
        if not isinstance(loss, AbstractSquares):
            return NOISY
        determined = linear.jacobian.out_size() >= linear.jacobian.in_size()
        return OwnBatchDamping() if determined else SmallBatchDamping()

    def _fraction(self, linear: Linearisation, length: Float[Array, ""]) -> Float[Array, ""]:
        """The fraction of a step that the cap allows, if the whole step moves the rows by `length`."""
        if self.max_change is None and linear.root is None:
            return jnp.ones_like(length)
        most = jnp.asarray(1.0 if self.max_change is None else self.max_change, length.dtype)
        most = most * jnp.sqrt(jnp.asarray(linear.total_weight, length.dtype))
        return jnp.where(length > most, most / jnp.where(length > most, length, 1), 1)

    def _lift(
        self,
        chosen: AbstractBatchDamping,
        linear: Linearisation,
        state: MomentumState,
        damping: Float[Array, ""],
        missing: Float[Array, "rows R"],
    ) -> tuple[Lifted, Steepness]:
        """Lift `missing`, and update the steepness."""
        jacobian = linear.jacobian
        steepness = Steepness(linear.restrict(state.steepness.squares), state.steepness.trace)

        def exactly() -> Lifted:
            factorised = check_solver(self.solver).factorise(jacobian, linear.relative(damping))
            solution, report = factorised.lift(missing)
            return Lifted(solution, jacobian.mv(solution), report, factorised.correct)

        # If all values are on one side, only one of the two branches is compiled.
        least, most = chosen.bounds
        if self.solver is not None or most < LARGE_DAMPING:
            return exactly(), steepness
        pulled = jacobian.T.mv(missing)
        steepness = steepness.after(linear, state.count, pulled)

        def roughly() -> Lifted:
            return Lifted(*steepness.lift(linear, state.count, damping, missing, pulled), None)

        if least >= LARGE_DAMPING:
            return roughly(), steepness
        try:
            either = jax.lax.cond(damping >= LARGE_DAMPING, roughly, lambda: exactly()._replace(correct=None))
        except MemoryError:
            # An exact lift would need too much memory, so Cauchy steps are taken at any damping.
            either = roughly()
        return either, steepness


def adapted_momentum(
    apply: Callable[[PyTree, PyTree], Array] | None = None,
    *,
    learning_rate: Value = 1.0,
    momentum: Value | None = None,
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
    """Train on minibatches: adapted steps with a momentum that remembers earlier batches.

    Use it with a learning rate of order 1 and a schedule that ends at 0, for least squares and cross-entropy, with
    small and large batches. Compare it with AdamW, which may be faster on dense networks, and is on a small
    transformer. On a full batch the fixed points are those of the adapted flow.

    The step is φ ← μφ + W⁻¹Dᵀ(DW⁻¹Dᵀ + λ)⁻¹(v − μDφ), θ ← θ + ηφ, with v = −(x − y) for L2. So φ is the velocity
    closest to μφ that moves the outputs of this batch by v (SPRING). Along the directions that this batch determines,
    the new velocity replaces the momentum; along all others the momentum persists. The incoming gradients only
    determine the structure of the updates, so place transformations that change gradients after this one in a chain.

    Least squares are damped as little as each batch allows. If a batch has at least as many rows as there are
    parameters, it determines the whole step, and λ follows the gain ratio, as in Levenberg–Marquardt: without noise
    the error falls to round-off. So it does if each update gets the same batch, of any size, at the parameters where
    the last update ended. Other small batches would move what they do not determine too far, so λ is at most 0.1, and
    smaller only if the next batch confirms the updates. All are without momentum, unless you ask for it.

    With other costs a batch is a random sample, and fitting it exactly would fit its noise. So λ is adapted by how well
    the next batch confirms the last update (`NextBatchDamping`), and stays at least the mean eigenvalue of DW⁻¹Dᵀ. The
    Cauchy step then replaces the lift: the multiple of W⁻¹Dᵀ(v − μDφ) that comes closest, in Adam's metric W, the root
    mean squares of the gradients. An update takes a few gradients of the batch, and its state has twice the size of the
    parameters. If you pass a solver, or a damping that may be smaller, the lift for a smaller λ is exact and W = 1,
    unless the memory does not suffice.

    Reference: G. Goldshlager, N. Abrahamsen, L. Lin, A Kaczmarz-inspired approach to accelerate the optimization of
    neural network wavefunctions, 2024, arXiv 2401.10190

    **Arguments:**

    - `learning_rate`: η in units of N, as for `adapted_gradient_descent`: a number or an optax schedule.
    - `momentum`: μ in [0, 0.99], a number or an optax schedule. By default 0 for least squares with the default
        damping, and 0.8 otherwise.
    - `damping`: λ relative to trace(DW⁻¹Dᵀ)/QN: a number, an optax schedule or a `NextBatchDamping`. By default
        adapted, for least squares as above, and by `NextBatchDamping(least=1.0)` for other costs. Use
        `NextBatchDamping()` for noisy targets of least squares too.
    - `max_change`: how far the linearised outputs may move in an update: the root mean square over the samples in the
        metric of the cost, which for cross-entropy measures a change of log-probabilities. The default is 1, but no
        bound in the Euclidean metric of L2, because your outputs have units of their own.
    - `prior`: a Gaussian prior on the parameters as part of the objective: a number, a pytree prefix of `params` with
        numbers, or a `jaxgeo.optim.Prior`, which also holds the total number of samples.
    - the others, and the extra arguments of `update`: as for `adapted_gradient_descent`.

    **Returns:** an `optax.GradientTransformationExtraArgs`, whose state has a `StepInfo`.

    **Raises:** `ValueError` unless `momentum` is a schedule, None or in [0, 0.99], and `max_change` is positive.

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
