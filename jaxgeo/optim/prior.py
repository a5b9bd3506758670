"""A Gaussian prior on the parameters as part of the objective of an optimizer; its strength is given or found."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxgeo._checks import MOST, check_count, check_number
from jaxgeo.costs import AbstractCost, SampleWeighted, WeightedL2
from jaxgeo.costs.regularised import Regularised
from jaxgeo.costs.squares import AbstractSquares
from jaxgeo.linalg.determined import DeterminedByColumns, determined_by_rows
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.linearisation import Linearisation
from jaxgeo.linalg.precision import in_dtype
from jaxgeo.linalg.solvers.prior import DOUBLE, group_grams
from jaxgeo.linalg.tangents import freeze
from jaxgeo.optim.info import StepInfo
from jaxgeo.outputs import Params
from jaxgeo.prior import number, prior_of, spread, with_prior, without_prior
from jaxgeo.problem import Problem

# Initial noise relative to the initial residual. If all of the residual counted as noise, nothing would be learnt.
FIRST_NOISE = 0.01
# The largest factor by which a precision changes in a step.
MOST_CHANGE = 3.0
# A prior precision this many times larger than the precision of the data leaves the data no influence.
MOST_RATIO = 1e12
# The network has adapted to its prior once a step lowers the objective by at most this fraction.
FOLLOWS = 0.1
# The precisions of prior and noise have settled once a step changes them by less than this fraction.
SETTLED = 1e-3


class PriorState(NamedTuple):
    """The current strength of a prior.

    - `precisions`: α of each group, in the order in which the groups first appear among the leaves.
    - `beta`: β = 1/noise² of a target of weight 1; 1 for classes.
    - `determined`: γ of each group, the number of its parameters that the data determine.
    - `change`: the logarithm of the largest factor by which a precision changed in the last step.
    """

    precisions: Float[Array, " groups"]
    beta: Float[Array, ""]
    determined: Float[Array, " groups"]
    change: Float[Array, ""]


class Prior(eqx.Module):
    """A Gaussian prior around 0: minimise Σ_j c_j + Σ_k p_k θ_k²/2, where c_j is the cost of sample j.

    Use it against overfitting. It is weight decay as part of the objective: the steps, the gain ratio and the reported
    cost all include it. With "evidence" the data choose its strength, and no held-out data are needed.

    p = α/β is the precision of a parameter relative to the precision β of a target of weight 1. It equals α if the
    noise is 1, and for class labels. With "evidence", each step that hardly lowers the objective any more moves α and β
    towards the values under which the data are most probable,

        α_g = γ_g/|θ_g|², β = (n − Σγ_g)/|r|², γ_g = tr(1 − αΣ)_gg,

    with Σ = (βDᵀD + A)⁻¹ and r = x − y.

    Reference: D. J. C. MacKay, Bayesian interpolation, 1992, Neural Computation 4; F. D. Foresee and M. T. Hagan,
        Gauss–Newton approximation to Bayesian learning, 1997

    **Arguments:**

    - `precision`: p ≥ 0, one number or a pytree prefix of the parameters with numbers; or "evidence".
    - `groups`: with "evidence", a pytree prefix of the parameters with labels: leaves with equal labels share one
        precision. By default all leaves share one.
    - `num_samples`: the total number of samples, if updates use batches. By default a batch holds all samples.

    **Raises:** `ValueError` if a number is negative, or options do not go together.
    """

    precision: PyTree = "evidence"
    groups: PyTree = None
    num_samples: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if self.num_samples is not None:
            check_count("num_samples", self.num_samples)
        if self.by_evidence:
            if self.num_samples is not None:
                raise ValueError(
                    "the evidence needs all data: leave `num_samples` out, or pass a number as `precision`."
                )
            return
        if self.groups is not None:
            raise ValueError(
                '`groups` only applies with `precision="evidence"`: pass "evidence", or leave `groups` out.'
            )
        for value in jax.tree.leaves(self.precision):
            if isinstance(value, str):
                raise ValueError(f'`precision` must be numbers or "evidence"; got {value!r}.')
            check_number("precision", value, least=0, most=MOST)

    @property
    def by_evidence(self) -> bool:
        """Whether the data choose the strength."""
        return isinstance(self.precision, str) and self.precision == "evidence"

    def init(self, trainable: PyTree, dtype: jnp.dtype) -> PriorState | tuple[()]:
        """Before the first step: the precisions that match the size of the parameters; () if `precision` is given."""
        if not self.by_evidence:
            return ()
        groups, leaves = self._labels(trainable, trainable), jax.tree.leaves(trainable)
        squares = _sums([jnp.sum(leaf.astype(dtype) ** 2) for leaf in leaves], groups)
        counts = _sums([jnp.asarray(leaf.size, dtype) for leaf in leaves], groups)
        precisions = jnp.where(squares > 0, counts / jnp.where(squares > 0, squares, 1), 1)
        return PriorState(precisions, jnp.zeros((), dtype), jnp.zeros_like(precisions), jnp.asarray(jnp.inf, dtype))

    def attach(self, problem: Problem, params: Params, state: PriorState | tuple[()]) -> Problem:
        """The problem with the prior at its current strength."""
        trainable, _ = problem.partition(params)
        if isinstance(state, PriorState):
            beta = jnp.where(state.beta > 0, state.beta, _first_beta(problem, params, state))
            return with_prior(problem, params, state.precisions / beta, self._labels(params, trainable))
        part = 1 if self.num_samples is None else problem.loss.total_weight / self.num_samples
        return problem.with_prior(params, jax.tree.map(lambda value: value * part, self.precision))

    def _labels(self, params: Params, trainable: PyTree) -> list[int]:
        if self.groups is None:
            return [0] * len(jax.tree.leaves(trainable))
        return number(spread(self.groups, params, trainable, "groups"))


def read_prior(prior: Any) -> Prior | None:
    """Turn a `Prior`, or the `precision` of one, into a `Prior`; None stays None.

    **Raises:** `ValueError` if it is neither.
    """
    if prior is None or isinstance(prior, Prior):
        return prior
    for value in [] if isinstance(prior, str) and prior == "evidence" else jax.tree.leaves(prior):
        if isinstance(value, str):
            raise ValueError(f'`prior` must be "evidence", a `Prior`, or a number or numbers; got {prior!r}.')
        check_number("prior", value, least=0, most=MOST)
    return Prior(prior)


def _first_beta(problem: Problem, params: Params, state: PriorState) -> Float[Array, ""]:
    """The initial β, under which a small part of the initial residual is noise."""
    if not _has_noise(problem.loss):
        return jnp.ones_like(state.beta)
    outputs = problem.outputs(params)
    misfit = 2 * problem.loss(outputs) * problem.loss.total_weight
    count = _count(problem.loss, outputs.size, outputs.dtype)
    return freeze(
        jnp.where(misfit > 0, count / (FIRST_NOISE**2 * jnp.where(misfit > 0, misfit, 1)), 1).astype(state.beta.dtype)
    )


def _has_noise(cost: AbstractCost) -> bool:
    bare = cost.cost if isinstance(cost, SampleWeighted) else cost
    return isinstance(bare, AbstractSquares | WeightedL2)


def _count(cost: AbstractCost, rows: int, dtype: jnp.dtype) -> Float[Array, ""]:
    """The number of targets; a sample of weight 2 counts twice."""
    if isinstance(cost, WeightedL2):
        return jnp.sum(cost.weights > 0).astype(dtype)
    return jnp.asarray(cost.total_weight, dtype) * (rows // cost.num_samples)


def learn(linear: Linearisation, state: PriorState, info: StepInfo) -> PriorState:
    """The precisions after one fixed-point iteration, for the network linearised here.

    They do not change while the network still has much to learn under them, because what it has not learnt yet would
    count as noise. Nor do they change if round-off spoils the iteration.
    """
    linear = freeze(linear)
    loss, jacobian = linear.problem.loss, linear.jacobian
    assert isinstance(loss, Regularised)
    ratio, groups = prior_of(linear.problem)
    data, params = without_prior(jacobian.problem), eqx.combine(linear.trainable, linear.frozen)
    leaves = jax.tree.leaves(linear.trainable)
    sizes = [leaf.size for leaf in leaves]
    # Read β from the problem, which has it even before the first step.
    beta = jnp.max(jnp.where(ratio > 0, state.precisions / jnp.where(ratio > 0, ratio, 1), 0))
    facts = _Facts(
        jnp.sum(linear.residual[: -loss.size] ** 2),
        _sums([jnp.sum(leaf**2) for leaf in leaves], groups),
        _count(loss.cost, loss.data(linear.outputs).size, linear.outputs.dtype),
        _has_noise(loss.cost),
    )
    if loss.size >= linear.residual.size - loss.size:
        determined = in_dtype(determined_by_rows, DOUBLE)(group_grams(data, params, groups), state.precisions, beta)
    else:
        of_each = DeterminedByColumns(tuple(map(int, np.repeat(groups, sizes))), max(groups) + 1)
        determined = in_dtype(of_each, DOUBLE)(Jacobian(data, params).as_matrix(), state.precisions, beta)
    precisions, beta_found, determined = _next(state.precisions, beta, determined, facts)
    follows = info.cost - info.new_cost <= FOLLOWS * info.cost
    sound = jnp.all(jnp.isfinite(precisions)) & jnp.isfinite(beta_found) & (beta_found > 0) & jnp.all(precisions > 0)
    old = jnp.append(state.precisions, beta)
    change = jnp.max(jnp.abs(jnp.log(jnp.append(precisions, beta_found) / old)))
    after = PriorState(precisions, beta_found, determined, change)
    still = jnp.where(follows, jnp.zeros_like(change), jnp.inf)
    kept = PriorState(state.precisions, beta, state.determined, still)
    return jax.tree.map(lambda new, old: jnp.where(sound & follows, new, old), after, kept)


class _Facts(NamedTuple):
    """|r|², |θ_g|² of each group, the number of targets, and whether they have noise."""

    misfit: Float[Array, ""]
    squares: Float[Array, " groups"]
    count: Float[Array, ""]
    has_noise: bool


def _sums(values: list[Float[Array, ""]], groups: Sequence[int]) -> Float[Array, " groups"]:
    totals = [jnp.zeros_like(values[0])] * (max(groups) + 1)
    for value, group in zip(values, groups, strict=True):
        totals[group] = totals[group] + value
    return jnp.stack(totals)


def _next(
    alpha: Float[Array, " groups"],
    beta: Float[Array, ""],
    determined: tuple[Float[Array, " groups"], Float[Array, ""]],
    facts: _Facts,
) -> tuple[Float[Array, " groups"], Float[Array, ""], Float[Array, " groups"]]:
    """α = γ/|θ|² and β = (n − γ)/|r|², each changed by a bounded factor."""
    counts, total = (value.astype(alpha.dtype) for value in determined)

    def bounded(new: Array, old: Array) -> Array:
        return jnp.clip(new, old / MOST_CHANGE, old * MOST_CHANGE)

    tiny = jnp.finfo(alpha.dtype).tiny
    precisions = bounded(counts / jnp.maximum(facts.squares.astype(alpha.dtype), tiny), alpha)
    left = jnp.maximum(facts.count.astype(alpha.dtype) - jnp.sum(counts), 0)
    found = bounded(left / jnp.maximum(facts.misfit.astype(alpha.dtype), tiny), beta) if facts.has_noise else beta
    return jnp.minimum(precisions, MOST_RATIO * found * total), found, counts
