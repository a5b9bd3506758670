"""Levenberg–Marquardt: damped adapted steps, tried before they are taken."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxgeo._checks import MOST, check_count, check_kind, check_number
from jaxgeo.linalg.lifting import check_solver
from jaxgeo.linalg.linearisation import Linearisation, Trial
from jaxgeo.linalg.planning.auto import Auto
from jaxgeo.linalg.precision import cond_any
from jaxgeo.linalg.singular import SingularValues, svd_of_triangle
from jaxgeo.linalg.solvers import AbstractLiftSolver, GramCholesky
from jaxgeo.linalg.solvers.base import DECOMPOSED, SOLVED, conclude
from jaxgeo.linalg.tangents import forward_only, freeze, norm
from jaxgeo.metrics import AbstractMetric
from jaxgeo.optim.attempt import Attempt, shorten
from jaxgeo.optim.base import AbstractTransformation, chosen_metric, next_count, zero_count
from jaxgeo.optim.damping import GainRatioDamping
from jaxgeo.optim.info import StepInfo, empty_step, step_info
from jaxgeo.optim.rank_cutoff import CutoffState, RankCutoff
from jaxgeo.optim.scaling import ColumnScaling
from jaxgeo.optim.source import CostOfTargets, Source, source
from jaxgeo.optim.trust_region import TrustRegion
from jaxgeo.problem import Problem

# Up to so many bytes D is held, for its leading singular values.
MOST_BYTES = 2**30
# Up to this many rows DDᵀ is formed and factored in float64, in at most 2 GiB.
MOST_DOUBLE_ROWS = 16384

SEARCH_IN_REVERSE = (
    "`adapted_levenberg_marquardt` with a `linesearch` has derivatives in forward mode only, as the search does not "
    "say beforehand how long it goes on. Take them by `jax.jvp` or `jax.jacfwd`, or leave `linesearch` out: steps that "
    "do not lower the cost are halved all the same, and that has both modes."
)


class LevenbergMarquardtState(NamedTuple):
    """State of `adapted_levenberg_marquardt`: `damping`, `radius` and `cutoff` are those of the next step."""

    count: Int[Array, ""]
    damping: Float[Array, ""]
    radius: Float[Array, ""]
    cutoff: CutoffState
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
    cutoff: RankCutoff
    acceleration: float | Float[Array, ""] | None
    linesearch: optax.GradientTransformationExtraArgs | None
    corrections: int = eqx.field(static=True)
    least_gain: float = 1e-4
    halvings: int = eqx.field(static=True, default=6)

    @property
    def problems(self) -> Source:
        return self.source

    def init(self, params: PyTree) -> LevenbergMarquardtState:
        dtype = self.source.dtype(params)
        largest = self.scaling.init(self.source.size(params), dtype)
        search = () if self.linesearch is None else self.linesearch.init(self.source.partition(params))
        damping, cutoff = jnp.asarray(self.damping.initial, dtype), self.cutoff.init(dtype)
        zero = jnp.zeros((), dtype)
        return LevenbergMarquardtState(zero_count(), damping, zero, cutoff, largest, search, empty_step(dtype))

    @eqx.filter_jit
    def step(
        self, updates: PyTree, state: LevenbergMarquardtState, params: PyTree, problem: Problem
    ) -> tuple[PyTree, LevenbergMarquardtState]:
        del updates
        linear = Linearisation(problem, params, self.metric)
        rows, columns = linear.jacobian.out_size(), linear.jacobian.in_size()
        method = self._many
        if self.solver is None and columns < rows:
            if state.largest.size == columns:
                method = self._few
            elif rows * columns * linear.outputs.dtype.itemsize <= MOST_BYTES:
                method = self._leading
        step, state = method(linear, state)
        return linear.embed(step), state._replace(count=next_count(state.count))

    def _many(self, linear: Linearisation, state: LevenbergMarquardtState) -> tuple[PyTree, LevenbergMarquardtState]:
        """A lift with damping by the last gain ratio."""
        dtype, damping = state.damping.dtype, state.damping.astype(linear.outputs.dtype)
        solver = _default_solver(linear) if self.solver is None else self.solver
        shift = linear.relative(damping)
        factorised = solver.factorise(linear.jacobian, shift)
        velocity, lift = factorised.lift(-linear.residual)
        step, search = self._bend(linear, velocity, lambda rows: factorised.lift(rows)[0], state.linesearch)
        # Corrections would undo the acceleration.
        correct = factorised.correct if self.acceleration is None else None
        attempt = Attempt(linear, step, correct, self.corrections)
        trial, fraction, accepted = shorten(attempt, self._good, self.halvings)
        info = step_info(linear, trial, fraction, accepted, damping, lift, dtype)
        following = self.damping.update(state.damping, info.gain_ratio, accepted)
        return trial.step, state._replace(damping=following, linesearch=search, info=info)

    def _few(self, linear: Linearisation, state: LevenbergMarquardtState) -> tuple[PyTree, LevenbergMarquardtState]:
        """By the singular values of D: within a trust region, or where it has lost rank those above a cut-off."""
        matrix = linear.jacobian.as_matrix()
        scale, largest = self.scaling(matrix, state.largest)
        orthogonal, triangle = jnp.linalg.qr(freeze(matrix))
        state = state._replace(largest=largest)

        # After a cut step that could not be taken, the next is bounded: it also goes where a column of D has vanished.
        failed = (state.info.outcome == DECOMPOSED) & ~state.info.accepted
        deficient = self.cutoff.is_deficient(triangle * freeze(scale)[None], len(matrix))
        factors = matrix, orthogonal, triangle
        return cond_any(deficient & ~failed, self._cut, self._bounded, linear, state, factors, scale)

    def _leading(self, linear: Linearisation, state: LevenbergMarquardtState) -> tuple[PyTree, LevenbergMarquardtState]:
        """By the leading singular values of D where the rest is little, otherwise by a lift with damping."""
        return cond_any(state.cutoff.rung < 0, self._until_failure, self._through_leading, linear, state)

    def _through_leading(
        self, linear: Linearisation, state: LevenbergMarquardtState
    ) -> tuple[PyTree, LevenbergMarquardtState]:
        svd, rung = self.cutoff.leading(linear.jacobian.as_matrix(), state.cutoff, state.count)
        step, state = self._through(linear, state, svd)
        return step, state._replace(cutoff=state.cutoff._replace(rung=rung))

    def _until_failure(
        self, linear: Linearisation, state: LevenbergMarquardtState
    ) -> tuple[PyTree, LevenbergMarquardtState]:
        """A damped lift; after one that is not taken D is looked at again."""
        step, state = self._many(linear, state)
        top = len(self.cutoff.ladder(linear.jacobian.out_size(), linear.jacobian.in_size())) - 1
        rung = jnp.where(state.info.accepted, state.cutoff.rung, top).astype(jnp.int32)
        return step, state._replace(cutoff=state.cutoff._replace(rung=rung))

    def _bounded(
        self,
        linear: Linearisation,
        state: LevenbergMarquardtState,
        factors: tuple[Array, Array, Array],
        scale: Float[Array, " K"],
    ) -> tuple[PyTree, LevenbergMarquardtState]:
        """A damped lift of bounded length, in parameters in units of `scale`; `factors` are D, and its Q and R."""
        scaled = svd_of_triangle(*factors, scale)
        jacobian, work = linear.jacobian, linear.outputs.dtype
        start = norm(ravel_pytree(linear.trainable)[0] / scale)
        radius = jnp.where(state.radius > 0, state.radius.astype(work), self.trust_region.first(start))
        aim = -linear.residual.reshape(-1)
        shift = scaled.damping_for_length(aim, radius)

        def lift(rows: Array) -> PyTree:
            return jacobian.unravel(scale * scaled.damped_lift(rows.reshape(-1), shift))

        velocity, report = conclude(
            jacobian, lift(aim), -linear.residual, jnp.asarray(SOLVED), jnp.asarray(scaled.values.size)
        )
        step, search = self._bend(linear, velocity, lift, state.linesearch)
        trial, fraction, accepted = shorten(Attempt(linear, step), self._good, halvings=0)
        damping = shift * len(aim) / (scaled.values.size * scaled.mean_square())
        info = step_info(linear, trial, fraction, accepted, damping, report, state.radius.dtype)
        length = norm(ravel_pytree(step)[0] / scale)
        slope = jnp.sum(linear.residual * jacobian.mv(step)) / linear.total_weight
        held = length > 0.9 * radius
        radius = self.trust_region.update(radius, length, trial.gain_ratio, slope, trial.decrease, held, trial.finite)
        return trial.step, state._replace(radius=radius.astype(state.radius.dtype), linesearch=search, info=info)

    def _cut(
        self,
        linear: Linearisation,
        state: LevenbergMarquardtState,
        factors: tuple[Array, Array, Array],
        scale: Float[Array, " K"],
    ) -> tuple[PyTree, LevenbergMarquardtState]:
        """A lift through the singular values above the cut-off, of D itself, which `factors` are with its Q and R."""
        del scale
        return self._through(linear, state, svd_of_triangle(*factors))

    def _through(
        self, linear: Linearisation, state: LevenbergMarquardtState, svd: SingularValues
    ) -> tuple[PyTree, LevenbergMarquardtState]:
        """A lift through those of the singular values that are above the cut-off."""
        trial, fraction, accepted, cutoff, rank = self.cutoff.step(linear, svd, state.cutoff, self._good)
        zero = jnp.zeros((), linear.outputs.dtype)
        _, report = conclude(linear.jacobian, trial.step, -linear.residual, jnp.asarray(DECOMPOSED), rank)
        info = step_info(linear, trial, fraction, accepted, zero, report, state.damping.dtype)
        return trial.step, state._replace(cutoff=cutoff, info=info)

    def _good(self, trial: Trial) -> Bool[Array, ""]:
        return trial.finite & (trial.gain_ratio >= self.least_gain)

    def _bend(
        self, linear: Linearisation, velocity: PyTree, lift: Callable[[Array], PyTree], search: PyTree
    ) -> tuple[PyTree, PyTree]:
        """The step of a velocity, with the geodesic acceleration and through the line search that were asked for.

        Half the acceleration is added where it is small beside the velocity.

        **Returns:** the step, and the state of the line search.
        """
        if self.acceleration is not None:

            def speed(step: PyTree) -> Array:
                return jax.jvp(linear.rows_at, (step,), (velocity,))[1]

            still = jax.tree.map(jnp.zeros_like, velocity)
            _, curvature = jax.jvp(speed, (still,), (velocity,))
            correction = lift(-0.5 * curvature)
            small = 2 * optax.tree.norm(correction) <= self.acceleration * optax.tree.norm(velocity)
            velocity = jax.tree.map(lambda v, a: jnp.where(small, v + a, v), velocity, correction)
        if self.linesearch is None:
            return velocity, search

        def cost(trainable: PyTree) -> Float[Array, ""]:
            return linear.problem.cost(eqx.combine(trainable, linear.frozen))

        found = self.linesearch.update(
            velocity, search, linear.trainable, value=linear.cost, grad=linear.gradient, value_fn=cost
        )
        return forward_only(found, SEARCH_IN_REVERSE)


def _default_solver(linear: Linearisation) -> AbstractLiftSolver:
    """For K ≥ QN by DDᵀ in float64, whatever the dtype of the parameters.

    Its condition number is that of D squared, so a DDᵀ in float32 asks for more damping than the last steps have.
    """
    rows = linear.jacobian.out_size()
    if linear.jacobian.in_size() >= rows and rows <= MOST_DOUBLE_ROWS:
        return GramCholesky(dtype=jnp.dtype(jnp.float64))
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
    cutoff: RankCutoff | None = None,
    acceleration: float | Float[Array, ""] | None = None,
    linesearch: optax.GradientTransformationExtraArgs | None = None,
    corrections: int = 8,
    trainable: PyTree = None,
    per_sample: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Damped adapted steps, each tried before it is taken: the optimizer for the lowest cost without any tuning.

    θ ← θ − Dᵀ(DDᵀ + λ)⁻¹(x − y) for L2, and the same in the cost's own metric for other costs. A step is taken if the
    cost falls; otherwise the update is zero, parameters and all but the damping stay as they are. One update makes one
    factorisation. How much it is damped follows from the last gain ratio, the decrease of the cost in units of what the
    linearised outputs predicted, summed from output differences so that it means something down to round-off:

    - for K ≥ QN by `damping`. The network bends away from the straight line on which D says that the
      outputs go; what is missing at its end is lifted by the same factorisation, up to `corrections` times.
      A step that does not lower the cost is halved, up to 6 times, before it is rejected: both cost forward passes,
      where a new solve costs a factorisation;
    - for K < QN with few parameters, as MINPACK does: the length of the step is bounded by `trust_region` with each
      parameter in units of its own (`scaling`), so that parameters may differ by any orders of magnitude;
    - where with few parameters D has lost rank, as in networks trained on the residuals of a differential equation: by
      the singular values above a `cutoff`, with corrections for the curvature of the network's outputs;
    - for K < QN with more than 1024 parameters likewise, through the leading singular values, of which only as many are
      computed as the cut-off asks for, as long as the rest is little; by `damping` where D is not of low rank, or takes
      more than 1 GiB.

    Meant for one batch, the whole data, at every update; for minibatches see `adapted_momentum`. The incoming
    gradients only give the form of the updates: pass zeros to save their computation, and chain what changes
    gradients after this transformation.

    **Arguments:**

    - `apply`, `cost`, `metric`, `trainable`, `per_sample`: as for `scale_by_adapted_metric`.
    - `solver`: of the lift, always by `damping` then; by default singular values of D for K < QN, all or the leading
        ones, for K ≥ QN a Cholesky factorisation of DDᵀ in float64, else `jaxgeo.linalg.Auto()`.
    - `damping`, `trust_region`, `scaling`, `cutoff`: the policies above.
    - `acceleration`: add the geodesic acceleration a/2 of the step v where 2|a/2| ≤ `acceleration` |v|, for example
        0.75, in place of corrections; one more solve a step. None (the default) for not.
    - `linesearch`: an optax transformation that takes `value`, `grad` and `value_fn`, such as
        `optax.scale_by_backtracking_linesearch`, through which the step goes before it is tried. With it an update has
        derivatives in forward mode only.
    - `corrections`: at most how many in a step by `damping`.

    The last three are not for steps by `cutoff`, which have corrections and halvings of their own.

    **Returns:** an `optax.GradientTransformationExtraArgs`, whose state has a `StepInfo`.

    **Raises:** `ValueError` if `acceleration` or `corrections` is negative or no number, or another argument is not of
    its kind.

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
    if acceleration is not None:
        check_number("acceleration", acceleration, least=0, most=MOST)
    check_count("corrections", corrections, least=0)
    parts = (
        ("damping", damping, GainRatioDamping),
        ("trust_region", trust_region, TrustRegion),
        ("scaling", scaling, ColumnScaling),
        ("cutoff", cutoff, RankCutoff),
        ("linesearch", linesearch, optax.GradientTransformation),
    )
    for name, value, kind in parts:
        if value is not None:
            check_kind(name, value, kind, f"a `{kind.__name__}`")
    transformation = LevenbergMarquardt(
        source(apply, cost, trainable, per_sample),
        chosen_metric(metric),
        None if solver is None else check_solver(solver),
        GainRatioDamping() if damping is None else damping,
        TrustRegion() if trust_region is None else trust_region,
        ColumnScaling() if scaling is None else scaling,
        RankCutoff() if cutoff is None else cutoff,
        acceleration,
        linesearch,
        corrections,
    )
    return transformation.as_optax()
