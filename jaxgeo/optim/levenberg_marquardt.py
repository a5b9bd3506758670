"""Levenberg–Marquardt: adapted steps that are tried before they are taken."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

from jaxgeo._checks import check_kind
from jaxgeo.linalg.lifting import check_solver
from jaxgeo.linalg.linearisation import Linearisation
from jaxgeo.linalg.planning.auto import Auto
from jaxgeo.linalg.precision import cond_any
from jaxgeo.linalg.singular import SingularValues, svd_of_triangle
from jaxgeo.linalg.solvers import AbstractLiftSolver, GramCholesky, PriorLift
from jaxgeo.linalg.solvers.base import DECOMPOSED
from jaxgeo.linalg.tangents import freeze
from jaxgeo.metrics import AbstractMetric, CostHessian
from jaxgeo.optim.adjustment import Adjustment
from jaxgeo.optim.attempt import is_worth_taking, shorten
from jaxgeo.optim.base import AbstractTransformation, dtype_of
from jaxgeo.optim.damping import GainRatioDamping
from jaxgeo.optim.endings import Ends, EndState
from jaxgeo.optim.influence import unfixed_shares
from jaxgeo.optim.info import StepInfo, empty_step, step_info
from jaxgeo.optim.prior import SETTLED, Prior, PriorState, learn, read_prior
from jaxgeo.optim.problem_maker import CostOfTargets, ProblemMaker
from jaxgeo.optim.rank_cutoff import SLOW, CutState, RankCutoff
from jaxgeo.optim.scaling import ColumnScaling
from jaxgeo.optim.trust_region import TrustRegion
from jaxgeo.optim.way import AbstractWay
from jaxgeo.prior import has_prior
from jaxgeo.problem import Problem

# Hold D for its leading singular values if it takes at most this many bytes.
MOST_BYTES = 2**30
# Up to this many rows DDᵀ is formed and factored in float64, in at most 2 GiB.
MOST_DOUBLE_ROWS = 16384

Policy = TypeVar("Policy")


class LevenbergMarquardtState(NamedTuple):
    """State of `adapted_levenberg_marquardt`: what each kind of step has learnt, for the next step.

    - `count`: number of updates so far.
    - `damping`: damping of the next step by a solver, relative to trace(DDᵀ)/QN.
    - `radius`: trust-region bound on the next step, in scaled parameters; 0 before the first step.
    - `cutoff`: cut-off of the next step through singular values, and what damped steps have gained.
    - `largest`: the largest norm that each column of D has had; empty if parameters are not scaled.
    - `rung`: index into `RankCutoff.ladder`, the numbers of leading singular values to compute; −1 for a damped step.
    - `linesearch`: state of the line search; () without one.
    - `prior`: strength of a prior found by the evidence; () without one.
    - `unfixed`: share of each parameter in the directions that the data do not fix, at the last step. The shares sum to
        the number of these directions (`jaxgeo.optim.influence`). Computed if K ≤ QN and parameters are scaled.
    - `ends`: whether progress is still possible on this batch; `Ending(int(state.ends.ending))` says why not.
    - `info`: report of the last update.
    """

    count: Int[Array, ""]
    damping: Float[Array, ""]
    radius: Float[Array, ""]
    cutoff: CutState
    largest: Float[Array, " K"]
    rung: Int[Array, ""]
    linesearch: PyTree
    prior: PriorState | tuple[()]
    unfixed: Float[Array, " K"]
    ends: EndState
    info: StepInfo


Stepped = tuple[PyTree, LevenbergMarquardtState]


class LevenbergMarquardt(AbstractTransformation):
    """See `adapted_levenberg_marquardt`."""

    solver: AbstractLiftSolver | None
    damping: GainRatioDamping
    trust_region: TrustRegion
    scaling: ColumnScaling
    cutoff: RankCutoff
    adjustment: Adjustment
    ends: Ends
    prior: Prior | None

    def init(self, params: PyTree) -> LevenbergMarquardtState:
        trainable = self.problems.partition(params)
        dtype, size = dtype_of(trainable), sum(leaf.size for leaf in jax.tree.leaves(trainable))
        return LevenbergMarquardtState(
            count=jnp.zeros((), jnp.int32),
            damping=self.damping.init(dtype),
            radius=self.trust_region.init(dtype),
            cutoff=self.cutoff.init(dtype),
            largest=self.scaling.init(size, dtype),
            rung=jnp.array(-1, jnp.int32),
            linesearch=self.adjustment.init(trainable),
            prior=() if self.prior is None else self.prior.init(trainable, dtype),
            unfixed=self.scaling.init(size, dtype),
            ends=self.ends.init(dtype),
            info=empty_step(dtype),
        )

    def regularised(self, problem: Problem, params: PyTree, state: LevenbergMarquardtState) -> Problem:
        return problem if self.prior is None else self.prior.attach(problem, params, state.prior)

    def step(self, updates: PyTree, state: LevenbergMarquardtState, linear: Linearisation) -> Stepped:
        del updates
        step, after, matrix = self._stepped(state, linear)
        after = after._replace(ends=self.ends(state.ends, linear, after.info, matrix))
        if not isinstance(state.prior, PriorState):
            return step, after
        prior = learn(linear, state.prior, after.info)
        return step, after._replace(prior=prior, ends=after.ends.unless(prior.change > SETTLED))

    def _stepped(
        self, state: LevenbergMarquardtState, linear: Linearisation
    ) -> tuple[PyTree, LevenbergMarquardtState, Float[Array, "rows K"] | None]:
        """The step, the state apart from its `ends`, and D if it was built."""
        rows, columns = linear.rows_of_data, linear.jacobian.in_size()
        if self.trust_region.bounds is not None and (
            self.solver is not None or columns > rows or state.largest.size != columns
        ):
            raise ValueError(
                f"`bounds` need no more parameters than outputs, at most {self.scaling.max_params} parameters "
                f"(`ColumnScaling`) and no `solver`; there are {columns} parameters and {rows} outputs. Map a "
                "parameter into its bounds instead, for example with `jnp.exp`."
            )
        if self.solver is None and columns <= rows:
            if state.largest.size == columns:
                return self._by_rank(linear.holding(), state)
            if rows * columns * linear.outputs.dtype.itemsize <= MOST_BYTES and columns < rows:
                held = linear.holding()
                return *cond_any(state.rung < 0, self._while_fast, self._through_leading, held, state), None
        return *self._damped(linear, state), None

    def _try(
        self, way: AbstractWay, linear: Linearisation, by: Any, before: Any, state: LevenbergMarquardtState
    ) -> tuple[PyTree, Any, LevenbergMarquardtState]:
        """Propose a step, adjust it, try it, learn from the result, and report it.

        **Returns:** the step, 0 unless accepted; the next state of `way`; and the next state of the optimizer without
        it.
        """
        proposal = way.propose(linear, by, before)
        attempt, search = self.adjustment(proposal, state.linesearch)
        tried = shorten(attempt, is_worth_taking, proposal.halvings, proposal.first)
        taken, lift, after = proposal.learn(tried)
        info = step_info(state.info, linear, taken, proposal.damping, lift)
        return taken.trial.step, after, state._replace(linesearch=search, info=info)

    def _damped(self, linear: Linearisation, state: LevenbergMarquardtState) -> Stepped:
        """Step by a damped lift."""
        solver = _default_solver(linear) if self.solver is None else self.solver
        step, damping, state = self._try(self.damping, linear, solver, state.damping, state)
        return step, state._replace(damping=damping)

    def _by_rank(
        self, linear: Linearisation, state: LevenbergMarquardtState
    ) -> tuple[PyTree, LevenbergMarquardtState, Float[Array, "rows K"]]:
        """Step by all singular values of D: within a trust region, or through a cut-off if D has lost rank."""
        matrix, bounds, params = linear.jacobian.as_matrix(), self.trust_region.bounds, linear.as_tree(linear.trainable)
        held = None if bounds is None else bounds.held(params, linear.residual.reshape(-1) @ matrix)
        matrix = matrix if held is None else jnp.where(held[None], 0, matrix)
        scale, largest = self.scaling(matrix, state.largest, ravel_pytree(linear.trainable)[0], linear.residual)
        orthogonal, triangle = jnp.linalg.qr(freeze(matrix))
        if bounds is not None or len(scale) < self.cutoff.least:
            svd, way = svd_of_triangle(matrix, orthogonal, triangle, scale), self._within_radius
        else:
            # After a rejected step through the cut-off, use the trust region, which copes with vanished columns of D.
            failed = (state.info.outcome == DECOMPOSED) & ~state.info.accepted
            cut = self.cutoff.is_deficient(triangle, len(matrix)) & ~failed
            svd = svd_of_triangle(matrix, orthogonal, triangle, jnp.where(cut, 1, scale))
            way = eqx.Partial(cond_any, cut, self._through_all, self._within_radius)
        shares = unfixed_shares(linear, svd)
        # A parameter that a bound holds is fixed by the bound.
        unfixed = shares if held is None else jnp.where(held, 0, shares)
        step, state = way(linear, state._replace(largest=largest, unfixed=unfixed), svd)
        return step, state, matrix

    def _within_radius(self, linear: Linearisation, state: LevenbergMarquardtState, svd: SingularValues) -> Stepped:
        step, radius, state = self._try(self.trust_region, linear, svd, state.radius, state)
        return step, state._replace(radius=radius)

    def _through_all(self, linear: Linearisation, state: LevenbergMarquardtState, svd: SingularValues) -> Stepped:
        step, cutoff, state = self._try(self.cutoff, linear, svd, state.cutoff, state)
        return step, state._replace(cutoff=cutoff)

    def _through_leading(self, linear: Linearisation, state: LevenbergMarquardtState) -> Stepped:
        """Step by the leading singular values of D, as many as the cut-off needs."""
        svd, rung = self.cutoff.leading(linear.jacobian.as_matrix(), state.cutoff.relative, state.rung, state.count)
        step, cutoff, state = self._try(self.cutoff, linear, svd, state.cutoff, state)
        pace = jnp.where(rung < 0, SLOW, cutoff.pace).astype(cutoff.pace.dtype)
        return step, state._replace(cutoff=cutoff._replace(pace=pace), rung=rung)

    def _while_fast(self, linear: Linearisation, state: LevenbergMarquardtState) -> Stepped:
        """Step by a damped lift; when such steps no longer pay, examine D."""
        shape = linear.jacobian.out_size(), linear.jacobian.in_size()
        least = jnp.asarray(self.cutoff.least_damping(*shape), state.damping.dtype)
        step, state = self._damped(linear, state._replace(damping=jnp.maximum(state.damping, least)))
        cutoff, rung = self.cutoff.after_damped(state.cutoff, state.info, shape, state.damping)
        return step, state._replace(cutoff=cutoff, rung=rung)


def _default_solver(linear: Linearisation) -> AbstractLiftSolver:
    """For K ≥ QN: DDᵀ in float64, whatever the dtype of the parameters.

    The condition number of DDᵀ is that of D squared, so in float32 it would need more damping than the last steps have.
    """
    rows = linear.rows_of_data
    if linear.jacobian.in_size() >= rows and rows <= MOST_DOUBLE_ROWS:
        if has_prior(linear.problem):
            return PriorLift()
        # The optimizer answers a failure with more damping, so do not compile an eigendecomposition.
        return GramCholesky(dtype=jnp.dtype(jnp.float64), max_decomposition=0)
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
    ends: Ends | None = None,
    prior: Prior | float | PyTree | None = None,
    trainable: PyTree = None,
    per_sample: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Reach the lowest cost without any tuning, on data that fit into one batch.

    Pass the whole data at every update; for minibatches use `adapted_momentum`. An update takes one factorisation and
    a few forward passes. The cost never rises, up to round-off: each step is tried, and taken only if it lowers the
    cost. Otherwise the update is zero and the next step is more cautious.

    The step is θ ← θ − Dᵀ(DDᵀ + λ)⁻¹(x − y) for L2, and the same in the cost's own metric for other costs. The gain
    ratio, the actual decrease of the cost divided by the decrease that the linearised outputs predict, decides how
    cautious the next step is. It is summed from differences of outputs, so it stays meaningful down to round-off. There
    are three kinds of step:

    - `damping`, for K > QN: a damped lift, with corrections for the curvature of the network. A step that does not
      lower the cost is halved a few times before it is rejected; each halving only needs a forward pass.
    - `trust_region`, for K ≤ QN and few parameters: as in MINPACK, with geodesic acceleration. The length of the step
      is bounded, with each parameter in its own unit (`scaling`), so parameters may differ by any orders of magnitude.
      Shorter steps are tried in the same update and only need forward passes.
    - `cutoff`, if D has at least 32 columns and has lost rank, as in networks trained on the residuals of a
      differential equation: a step through the singular values above a cut-off, with corrections. With more than 1024
      parameters, only the singular values that the cut-off needs are computed. If D is not of low rank, or takes more
      than 1 GiB, `damping` is used instead.

    The incoming gradients only determine the structure of the updates. You can pass zeros to avoid computing them.
    Place transformations that change gradients after this one in a chain.

    **Arguments:**

    - `apply`, `cost`, `metric`, `trainable`, `per_sample`: as for `scale_by_adapted_metric`.
    - `solver`: solver of the lift; if given, all steps use `damping`. By default, singular values of D for K ≤ QN, and
        for K > QN a Cholesky factorisation of DDᵀ in float64, or `jaxgeo.linalg.Auto()` beyond 16384 rows.
    - `damping`, `trust_region`, `scaling`, `cutoff`: how each kind of step is chosen, bounded and adapted.
        `TrustRegion(bounds=Bounds(low, high))` keeps parameters within bounds.
    - `acceleration`: for `damping` steps, add the geodesic acceleration a/2 to the step v if 2|a/2| ≤ `acceleration`
        |v|, for example 0.75, instead of making corrections. It needs one more solve per step. None, the default, turns
        it off. Trust-region steps have their own setting.
    - `linesearch`: an optax transformation that takes `value`, `grad` and `value_fn`, such as
        `optax.scale_by_backtracking_linesearch`. It rescales the step before the step is tried. An update can then only
        be differentiated in forward mode.
    - `ends`: criteria for when no more progress is possible. The state records the ending, and `jaxgeo.fit` and
        `jaxgeo.curve_fit` stop there.
    - `prior`: a Gaussian prior on the parameters as part of the objective: a number, a pytree prefix of `params` with
        numbers, "evidence" to let the data choose its strength, or a `jaxgeo.optim.Prior`. The reported cost includes
        the prior. With "evidence", `state.prior` holds α, β and γ, and the run only ends once these have settled too.

    `cutoff` steps ignore `acceleration` and `linesearch`, because they have corrections and halvings of their own.

    **Returns:** an `optax.GradientTransformationExtraArgs`, whose state has a `StepInfo` and an `EndState`.

    **Raises:** `ValueError` unless `acceleration` is a number ≥ 0, and the other options have the right type.

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
    prior = read_prior(prior)
    if prior is not None and prior.by_evidence and metric is not None and not isinstance(metric, CostHessian):
        raise ValueError('`prior="evidence"` needs the metric of the likelihood, `CostHessian()`; leave `metric` out.')
    return LevenbergMarquardt(
        ProblemMaker(apply, cost, trainable, per_sample),
        metric,
        None if solver is None else check_solver(solver),
        _chosen("damping", damping, GainRatioDamping),
        _chosen("trust_region", trust_region, TrustRegion),
        _chosen("scaling", scaling, ColumnScaling),
        _chosen("cutoff", cutoff, RankCutoff),
        Adjustment(acceleration, linesearch),
        _chosen("ends", ends, Ends),
        prior,
    ).as_optax()


def _chosen(name: str, policy: Policy | None, kind: type[Policy]) -> Policy:
    """The policy, or the default for None; raises `ValueError` unless it has the right type."""
    if policy is None:
        return kind()
    check_kind(name, policy, kind, f"a `{kind.__name__}`")
    return policy
