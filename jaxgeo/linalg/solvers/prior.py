"""The lift of a problem with a prior, by DDᵀ of the data, whose size is QN however many parameters have a prior."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo.costs.regularised import Regularised
from jaxgeo.linalg.gram.gram import Gram
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.precision import in_dtype
from jaxgeo.linalg.solvers.base import AbstractFactorised, AbstractLiftSolver, Damping, LiftInfo, conclude
from jaxgeo.linalg.solvers.cutoff import AbstractCutoff, SmoothCutoff
from jaxgeo.linalg.solvers.derivatives import trace_ratio
from jaxgeo.linalg.solvers.factorisation import Factorise
from jaxgeo.linalg.solvers.gram_cholesky import FactorisedGram, GramCholesky
from jaxgeo.linalg.solvers.sides import Rows, relative_damping
from jaxgeo.linalg.tangents import freeze
from jaxgeo.prior import has_prior, masks_of, prior_of, scaled_problem, with_trainable, without_prior

DOUBLE = jnp.dtype(jnp.float64)
# If a parameter has neither prior nor damping, this share of the mean eigenvalue replaces them.
LEAST = 1e-14


class PriorLift(AbstractLiftSolver):
    """The lift through the rows D of the data and √P of a prior, by a factorisation of DM⁻¹Dᵀ + 1, M = P + λ.

    For rows v of the data and u of the prior,

        θ̇ = M⁻¹√P u + M⁻¹Dᵀ(DM⁻¹Dᵀ + 1)⁻¹(v − DM⁻¹√P u)

    minimises |Dθ̇ − v|² + |√Pθ̇ − u|² + λ|θ̇|². The matrix DM⁻¹Dᵀ has the size of the data. With one precision for all
    parameters it is a multiple of DDᵀ; with several it is a sum of such matrices, one for the leaves of each group.

    Reference: D. J. C. MacKay, Bayesian interpolation, 1992, Neural Computation 4; the identity is Woodbury's

    **Arguments:**

    - `cutoff`: as for `GramCholesky`.
    """

    cutoff: AbstractCutoff = SmoothCutoff()

    def factorise(self, jacobian: Jacobian, damping: Damping = None) -> "FactorisedPrior":
        joint, params = jacobian.problem, eqx.combine(jacobian.trainable, jacobian.frozen)
        if not has_prior(joint):
            raise ValueError("`PriorLift` needs a problem with a prior: make one with `problem.with_prior`.")
        data = without_prior(joint)
        precisions, groups = prior_of(joint)
        leaves = jax.tree.leaves(jacobian.trainable)
        sizes = jnp.asarray([sum(leaf.size for leaf, own in zip(leaves, groups, strict=True) if own == group)
                             for group in range(max(groups) + 1)], precisions.dtype)  # fmt: skip
        still = freeze(params)
        grams = group_grams(freeze(data), still, groups)
        traces = jnp.stack([jnp.trace(gram).astype(precisions.dtype) for gram in grams])
        rows = len(grams[0])
        own = jnp.zeros((), precisions.dtype)
        if damping is not None:
            own = jnp.asarray(damping, precisions.dtype)
            own = own * (jnp.sum(traces) + jnp.sum(sizes * precisions)) / jacobian.out_size()
        whole = jnp.maximum(precisions + own, LEAST * jnp.sum(traces) / rows)
        factors = [jax.lax.rsqrt(whole)[group] for group in groups]
        inner = Jacobian(*scaled_problem(data, params, factors))
        weighted = in_dtype(_total, DOUBLE)(grams, freeze(whole))
        mean = (jnp.trace(weighted) / rows).astype(inner.outputs.dtype)
        unit = jnp.where(mean > 0, mean, 1)
        solver = GramCholesky(dtype=DOUBLE, cutoff=self.cutoff, max_decomposition=0)
        # The damping is 1 for any trace that it is relative to, so the trace must not enter the derivative.
        relative = 1 / unit
        factorise = Factorise(freeze(inner), self.cutoff, DOUBLE, 0)
        found = factorise.cholesky(weighted, relative_damping(Rows, inner, relative))
        relative = relative / trace_ratio(inner, found.sqrt_mean * rows**0.5)
        return FactorisedPrior(jacobian, tuple(factors), FactorisedGram(solver, False, inner, relative, found))


class FactorisedPrior(AbstractFactorised):
    """DM⁻¹Dᵀ + 1, factorised.

    - `jacobian`: D of the data and the prior together.
    - `factors`: M^{−½} for each leaf. `inner`: the lift through DM^{−½}, damped by 1.
    """

    jacobian: Jacobian
    factors: tuple[Float[Array, ""], ...]
    inner: FactorisedGram

    def lift(self, velocity: Float[Array, "rows 1"]) -> tuple[PyTree, LiftInfo]:
        start, missing = self._split(velocity)
        rest, report = self.inner.lift(missing)
        step = self._join(start, rest)
        return conclude(self.jacobian, step, velocity, report.outcome, report.rank, report.mismatch, is_lift=False)

    @property
    def correct(self) -> "_CorrectPrior":
        return _CorrectPrior(self)

    def _split(self, velocity: Float[Array, "rows 1"]) -> tuple[PyTree, Float[Array, "N Q"]]:
        """M^{−½}√P u as a step in scaled parameters, and the part of v that it leaves."""
        loss = self.jacobian.problem.loss
        assert isinstance(loss, Regularised)
        precisions, groups = prior_of(self.jacobian.problem)
        asked = self.jacobian.unravel(velocity[-loss.size :, 0])
        leaves, treedef = jax.tree.flatten(asked)
        roots = jnp.sqrt(precisions)
        own = [
            (factor * roots[group]).astype(leaf.dtype) * leaf
            for factor, group, leaf in zip(self.factors, groups, leaves, strict=True)
        ]
        start = jax.tree.unflatten(treedef, own)
        return start, loss.data(velocity) - self.inner.jacobian.mv(start)

    def _join(self, start: PyTree, rest: PyTree) -> PyTree:
        """The sum of two steps in scaled parameters, as a step of the original parameters."""
        leaves, treedef = jax.tree.flatten(jax.tree.map(jnp.add, start, rest))
        own = [factor.astype(leaf.dtype) * leaf for factor, leaf in zip(self.factors, leaves, strict=True)]
        return jax.tree.unflatten(treedef, own)


class _CorrectPrior(eqx.Module):
    """Lifts a correction once through the factorisation."""

    factorised: FactorisedPrior

    def __call__(self, velocity: Float[Array, "rows 1"]) -> PyTree:
        start, missing = self.factorised._split(velocity)
        return self.factorised._join(start, self.factorised.inner.correct(missing))


def group_grams(data, params: PyTree, groups: tuple[int, ...]) -> list[Float[Array, "QN QN"]]:
    """DDᵀ in float64 for each group, with D by the leaves of this group alone."""
    trainable, _ = data.partition(params)
    problems = [data]
    if max(groups):
        problems = [with_trainable(data, mask) for mask in masks_of(params, trainable, groups)]
    return [Gram(Jacobian(problem, params)).as_matrix(DOUBLE, certify=False) for problem in problems]


def _total(grams: list[Float[Array, "n n"]], whole: Float[Array, " groups"]) -> Float[Array, "n n"]:
    """Σ G_g/M_g."""
    return functools.reduce(jnp.add, [gram / each.astype(gram.dtype) for gram, each in zip(grams, whole, strict=True)])
