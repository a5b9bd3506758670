"""`posterior`: from a problem and its trained parameters to their uncertainty."""

import math
import warnings
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PyTree

from jaxgeo._checks import check_kind, check_number, check_positive, plain
from jaxgeo.linalg.covariance.base import AbstractCovariance
from jaxgeo.linalg.covariance.columns import ColumnCovariance, ColumnInformation, column_covariance, triangle
from jaxgeo.linalg.covariance.low_rank import Sketch, low_rank_covariance
from jaxgeo.linalg.covariance.rows import RowInformation, group_grams, row_covariance
from jaxgeo.outputs import Params
from jaxgeo.prior import masks_of, number, spread
from jaxgeo.problem import Problem
from jaxgeo.uncertainty.evidence import Evidence, maximise_evidence
from jaxgeo.uncertainty.likelihood import Likelihood, read_likelihood
from jaxgeo.uncertainty.plan import PosteriorPlan, plan_posterior
from jaxgeo.uncertainty.posteriors import Posterior

# Leading directions are enough if the others could raise γ by no more than this part of it.
ENOUGH = 0.01


class _Prior(eqx.Module):
    """The group of each trainable leaf, and the precision of each group; None if it is to be found."""

    groups: list[int]
    precisions: np.ndarray | None

    @property
    def is_proper(self) -> bool:
        """Whether every parameter has a prior."""
        return self.precisions is None or bool((self.precisions > 0).all())


def posterior(
    problem: Problem,
    params: Params,
    *,
    prior_precision: float | Literal["evidence"] | PyTree | None = None,
    groups: PyTree = None,
    noise: float | tuple[float, ...] | None = None,
    memory: int | None = None,
) -> Posterior:
    """Error bars for trained parameters and their predictions: the Gaussian with covariance (βDᵀWD + A)⁻¹.

    Call it after training. The result has standard errors of the parameters, intervals for predictions, and with a
    prior the evidence.

    W is the curvature of the cost for one observation, β = 1/noise², and A is the precision of a Gaussian prior around
    0. Without a prior, the covariance is that of least squares, s²(DᵀWD)⁻¹ with s² = |r|²/(n − rank), which is infinite
    for parameters that the data do not fix. `params` must minimise the cost, or with a prior Σ_j c_j + θ·(A/β)θ/2,
    where c_j is the cost of a sample. This is not checked.

    A sample of weight w in `jaxgeo.SampleWeighted` counts as w observations. The weights of `jaxgeo.WeightedL2` are
    1/σ² for targets with noise σ, up to a factor, and each target counts as one observation. Class labels
    (`jaxgeo.SoftmaxCrossEntropy`) have no noise.

    For K ≤ QN, the columns of D are used, in chunks of samples. For K > QN, which needs a prior, DDᵀ and its blocks
    with new inputs are used, without building D. If neither fits into memory, as many leading directions of D are used
    as the data call for. Directions left out keep the variance of the prior, so error bars are too wide rather than too
    narrow, and `missed` of the result estimates how many effective parameters are missing. Sums are in float64,
    whatever the dtype of the parameters.

    Reference: D. J. C. MacKay, Bayesian interpolation, 1992, Neural Computation 4

    **Arguments:**

    - `prior_precision`: α, one number or a pytree prefix of `params` with numbers, 0 for no prior; or "evidence" for
        the precisions that make the data most probable at these `params`. By default no prior.
    - `groups`: with "evidence", a pytree prefix of `params` with labels: leaves with equal labels share one precision.
        `jaxgeo.uncertainty.leaf_names(params)` gives each leaf its own. By default all leaves share one.
    - `noise`: the standard deviation of a target of weight 1; or a tuple with one for each block of
        `jaxgeo.residual_problem`, in the unit of the residuals of that block. By default noise² is estimated as
        |r|²/(n − γ), where γ is the effective number of parameters.
    - `memory`: bytes that matrices may take; by default a quarter of the memory of the device or the machine.

    **Returns:** a `Posterior`.

    **Raises:** `ValueError` if the cost is not a likelihood, a number is not positive, or there are no more
    observations than parameters to estimate the noise from; `MemoryError`, before any allocation, if the matrices do
    not fit.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> def line(params, x):
    ...     return params["slope"] * x + params["offset"]
    >>> x, y = jnp.array([0.0, 1.0, 2.0, 3.0]), jnp.array([0.1, 0.9, 2.1, 2.9])
    >>> problem = jg.Problem(line, x, jg.L2(y))
    >>> found = jg.posterior(problem, {"offset": jnp.array(0.06), "slope": jnp.array(0.96)})
    >>> {name: round(float(error), 4) for name, error in found.standard_errors().items()}
    {'offset': 0.1058, 'slope': 0.0566}

    ```
    """
    check_kind("problem", problem, Problem, "a `jaxgeo.Problem`; for conditions make one by `jaxgeo.residual_problem`")
    problem.check(params)
    if any(block.sharding is not None for block in problem.blocks):
        raise ValueError("the samples of `problem` are on a mesh; pass the problem before `shard_samples`.")
    trainable, _ = problem.partition(params)
    prior = _read_prior(prior_precision, groups, params, trainable)
    noise = _read_noise(noise)
    if noise is None and len(problem.blocks) > 1:
        warnings.warn(
            f"the noise is estimated from all {len(problem.blocks)} blocks together, as if residuals of an equation "
            "were measurements. Unless they are, the error bars are wrong: pass `noise=(…, …)`, a standard deviation "
            "for each block.",
            stacklevel=2,
        )
    likelihood = read_likelihood(problem, params, noise)
    plan = plan_posterior(problem, params, has_prior=prior.is_proper, groups=max(prior.groups) + 1, memory=memory)
    fixed = 1.0 if isinstance(noise, tuple) or not likelihood.is_gaussian else None if noise is None else 1 / noise**2
    leaves, treedef = jax.tree.flatten(trainable)
    if prior.is_proper:
        form, evidence, missed = _with_prior(problem, params, prior, likelihood, plan, fixed)
        precisions, beta, log = evidence.precisions, evidence.beta, evidence.log
        effective, converged = float(np.sum(evidence.determined)), evidence.converged
    else:
        assert prior.precisions is not None
        precisions, log, converged, missed = prior.precisions, None, True, 0.0
        form, beta, effective = _without_prior(problem, params, prior, likelihood, fixed)
    freedom = likelihood.count - effective if fixed is None else math.inf
    found = noise if isinstance(noise, tuple) else beta**-0.5 if beta else math.inf
    return Posterior(
        problem,
        params,
        form,
        found if likelihood.is_gaussian else None,
        likelihood.count,
        effective,
        missed,
        freedom,
        jax.tree.unflatten(treedef, [float(precisions[group]) for group in prior.groups]),
        log,
        converged,
        plan,
    )


def _with_prior(
    problem: Problem, params: Params, prior: _Prior, likelihood: Likelihood, plan: PosteriorPlan, beta: float | None
) -> tuple[AbstractCovariance, Evidence, float]:
    """The covariance, the precisions, and the number of effective parameters that may be missing in both."""
    trainable, _ = problem.partition(params)
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(trainable)]
    of_column = np.repeat(prior.groups, [leaf.size for leaf in leaves])
    squares = np.bincount(prior.groups, [np.sum(leaf**2) for leaf in leaves])
    sizes = np.bincount(of_column).astype(float)
    if plan.way == "low rank":
        return _by_low_rank(problem, params, prior, likelihood, plan, beta, of_column, squares)
    if plan.way == "rows":
        masks = masks_of(params, trainable, prior.groups)
        information = RowInformation(group_grams(problem, params, masks, likelihood.root, plan.memory))
    else:
        masks = ()
        information = ColumnInformation(triangle(problem, params, likelihood.root), of_column)
    evidence = maximise_evidence(information, likelihood, squares, prior.precisions, beta, sizes)
    of_each = evidence.precisions[of_column]
    if isinstance(information, RowInformation):
        whitener = likelihood.root.transposed(information.whitener(evidence.precisions, evidence.beta))
        return row_covariance(problem, params, masks, evidence.precisions, 1 / of_each, whitener), evidence, 0.0
    dtype = jnp.result_type(*jax.tree.leaves(trainable))
    return column_covariance(problem, params, information.triangle, of_each, evidence.beta, dtype), evidence, 0.0


def _by_low_rank(
    problem: Problem,
    params: Params,
    prior: _Prior,
    likelihood: Likelihood,
    plan: PosteriorPlan,
    beta: float | None,
    of_column: Int[np.ndarray, " K"],
    squares: Float[np.ndarray, " groups"],
) -> tuple[AbstractCovariance, Evidence, float]:
    """By more and more directions, until those left out say next to nothing."""
    sketch, deviations = None, None
    sizes = np.bincount(of_column).astype(float)
    for rank in plan.ranks:
        sketch = Sketch(problem, params, likelihood.root, rank, sketch, deviations)
        parts = [sketch.rows[:, of_column == group] for group in range(len(squares))]
        information = RowInformation([part @ part.T for part in parts])
        evidence = maximise_evidence(information, likelihood, squares, prior.precisions, beta, sizes)
        of_each, effective = evidence.precisions[of_column], float(np.sum(evidence.determined))
        missed, deviations = sketch.missed(of_each, evidence.beta), of_each**-0.5
        if missed <= ENOUGH * effective:
            break
    else:
        warnings.warn(
            f"{plan.ranks[-1]} leading directions, as many as were tried, determine {effective:.4g} effective "
            f"parameters, and up to {missed:.3g} more may be missing, so error bars are too wide. Pass a larger "
            "`memory` for more directions, or fewer samples.",
            stacklevel=4,
        )
    assert sketch is not None
    whitener = information.whitener(evidence.precisions, evidence.beta)
    return low_rank_covariance(problem, params, sketch, of_each, whitener), evidence, missed


def _without_prior(
    problem: Problem, params: Params, prior: _Prior, likelihood: Likelihood, beta: float | None
) -> tuple[ColumnCovariance, float, float]:
    """If some or all parameters have no prior: the covariance, β, and the effective number of parameters."""
    assert prior.precisions is not None
    trainable, _ = problem.partition(params)
    leaves = jax.tree.leaves(trainable)
    of_each = np.repeat(prior.precisions[prior.groups], [leaf.size for leaf in leaves])
    upper, dtype = triangle(problem, params, likelihood.root), jnp.result_type(*leaves)
    if of_each.any() and beta is None:
        raise ValueError(
            "with a prior on only some parameters, `noise` must be given; or give all parameters a small "
            "`prior_precision`."
        )
    form = column_covariance(problem, params, upper, of_each, 1.0 if beta is None else beta, dtype)
    effective = form.rank - float(np.sum(of_each[of_each > 0] * form.variances()[of_each > 0]))
    if beta is not None:
        return form, beta, effective
    left = likelihood.count - form.rank
    if left <= 0:
        raise ValueError(
            f"{likelihood.count:g} observations fix {form.rank} directions of the parameters, and leave nothing to "
            'estimate the noise from. Pass `noise`, or a `prior_precision`, such as "evidence".'
        )
    variance = likelihood.misfit / left
    form = form.scaled(variance**0.5).without_vague(np.concatenate([np.ravel(leaf) for leaf in leaves]))
    return form, 1 / variance if variance else math.inf, effective


def _read_prior(prior_precision: Any, groups: PyTree, params: Params, trainable: PyTree) -> _Prior:
    count = len(jax.tree.leaves(trainable))
    if isinstance(prior_precision, str):
        if prior_precision != "evidence":
            raise ValueError(
                f'`prior_precision` must be a number, a pytree of numbers, "evidence" or None; got {prior_precision!r}.'
            )
        labels = [0] * count if groups is None else spread(groups, params, trainable, "groups")
        return _Prior(number(labels), None)
    if groups is not None:
        raise ValueError('`groups` only applies with prior_precision="evidence": pass that, or leave `groups` out.')
    if prior_precision is None:
        return _Prior([0] * count, np.zeros(1))
    values = [plain(value) for value in spread(prior_precision, params, trainable, "prior_precision")]
    for value in values:
        check_number("prior_precision", value, least=0, most=float(np.finfo(np.float64).max))
    labels = number(values)
    return _Prior(labels, np.array([float(value) for value in dict.fromkeys(values)]))


def _read_noise(noise: Any) -> float | tuple[float, ...] | None:
    if noise is None:
        return None
    if isinstance(noise, tuple | list):
        return tuple(noise)
    check_positive("noise", noise)
    return float(noise)
