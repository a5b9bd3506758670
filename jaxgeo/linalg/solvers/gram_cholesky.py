"""The lift by a Cholesky factorisation of G = DDᵀ, of size QN, whatever K is."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo._checks import check_count
from jaxgeo.linalg.gram.certificate import is_noise
from jaxgeo.linalg.gram.gram import Gram
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.precision import cond_any, in_dtype
from jaxgeo.linalg.solvers.base import (
    CONTRADICTED,
    DAMPED,
    DECOMPOSED,
    AbstractLiftSolver,
    Damping,
    LiftInfo,
    Prepared,
    conclude,
    relative_norm,
)
from jaxgeo.linalg.solvers.cutoff import AbstractCutoff, SmoothCutoff, check_factoring
from jaxgeo.linalg.solvers.dense import dense_lift
from jaxgeo.linalg.solvers.factorisation import Factorisation, Factorise
from jaxgeo.linalg.solvers.sides import RowLift, contradicts, finish_rows, gram_dtype, refined_lift, relative_shift
from jaxgeo.linalg.spectra import gram_floor
from jaxgeo.linalg.tangents import freeze


class GramCholesky(AbstractLiftSolver):
    """D⁺v = Dᵀ(DDᵀ)⁻¹v by a Cholesky factorisation of G = DDᵀ. For K ≥ QN, and with damping for any.

    Paper: (1.23), (2.2)

    cond(G) = cond(D)². Three things answer that. Without damping G is formed and factored in float64, where
    the products of float32 factors are exact, without x64 being switched on globally. The solution is refined
    against v − Dθ̇, by products with D, until that is round-off or no longer halves, which takes the error from
    cond(D)²·eps towards cond(D)·eps. And the condition number is measured from the factor: where D has lost rank,
    or lies beyond what G resolves (cond(D) about 1e6), eigenvalues of G and a smooth cut-off take over.

    Each lift also certifies G: what it says of the solution is compared with what products with D say, which the first
    refinement computes anyway. Where round-off cannot explain the difference (`LiftInfo.mismatch`), the lift is made
    once more with a G from rows of D in place of the factors of each leaf, without refinement. That costs as much as
    a dense D, and the outcome says so.

    **Arguments:**

    - `refinements`: at most how often to refine, each one JVP, one VJP and two triangular solves.
    - `dtype`: in which to form and factor G; by default float64, and with damping the parameters' dtype.
    - `cutoff`: of the eigenvalues, where they are needed.
    - `dense_fallback`: answer a failure by QR and singular values of the dense D in place of eigenvalues of G.
    - `max_decomposition`: QN up to which eigenvalues are affordable; above, a failure is answered by damping.
    - `certify`: pass False to take G as it was assembled.
    """

    refinements: int = eqx.field(static=True, default=4)
    dtype: jnp.dtype | None = eqx.field(static=True, default=None)
    cutoff: AbstractCutoff = SmoothCutoff()
    dense_fallback: bool = eqx.field(static=True, default=False)
    max_decomposition: int = eqx.field(static=True, default=4096)
    certify: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        check_count("refinements", self.refinements, least=0)
        check_count("max_decomposition", self.max_decomposition, least=0)
        check_factoring(self.cutoff, "dtype", self.dtype)

    def solve(
        self, jacobian: Jacobian, velocity: Float[Array, "N Q"], damping: Damping = None
    ) -> tuple[PyTree, LiftInfo]:
        return self.prepare(jacobian, damping).solve(velocity)

    def prepare(self, jacobian: Jacobian, damping: Damping = None) -> Prepared:
        dtype, own = gram_dtype(jacobian, damping, self.dtype), jacobian.outputs.dtype
        still = freeze(jacobian)
        shift = freeze(relative_shift(jacobian, damping, rows=True))
        dense = self.dense_fallback and damping is None and jacobian.in_size() >= jacobian.out_size()
        factorise = Factorise(self.cutoff, gram_floor(jacobian, dtype), self.max_decomposition, rescue=not dense)
        one = jnp.ones((), own)
        factor, _ = in_dtype(factorise, dtype)(Gram(still).as_matrix(dtype, certify=False), shift, one)

        def rescue(
            factor: Factorisation, value: PyTree, jacobian: Jacobian, aim: Array, shift: None
        ) -> tuple[Factorisation, PyTree]:
            found, value = dense_lift(jacobian, aim, shift, self.cutoff, jnp.dtype(jnp.float64))
            return found._replace(outcome=jnp.full_like(found.outcome, DECOMPOSED)), value

        def again(
            factor: Factorisation, value: PyTree, jacobian: Jacobian, aim: Array, shift: Array
        ) -> tuple[Factorisation, PyTree]:
            # As much more damping as the refinement needs, λ_max being QN mean eigenvalues at most.
            more = shift + 4 * float(jnp.finfo(own).eps) * aim.size
            found, _ = in_dtype(factorise, dtype)(Gram(jacobian).as_matrix(dtype, certify=False), more, one)
            found = found._replace(outcome=jnp.maximum(found.outcome, DAMPED))
            return found, refined_lift(jacobian, found, more, aim, self.refinements)[0]

        def keep(factor: Factorisation, value: PyTree, *operands: PyTree) -> tuple[Factorisation, PyTree]:
            return factor, value

        def solve(velocity: Float[Array, "N Q"]) -> tuple[PyTree, LiftInfo]:
            aim = freeze(velocity)
            found = factor
            value, mismatch = refined_lift(still, factor, shift, aim, self.refinements)
            contradicted = jnp.zeros((), bool)
            if self.certify:
                contradicted = contradicts(mismatch, aim.size, dtype) & ~is_noise(factor.sqrt_mean)
            if dense:
                found, value = cond_any(~found.trusted | contradicted, rescue, keep, found, value, still, aim, shift)
                found = found._replace(outcome=jnp.where(contradicted, CONTRADICTED, found.outcome))
            if shift is not None and dtype != own:
                # No damped lift leaves more than v, unless products with D in the parameters' dtype have lost it.
                lost = (relative_norm(still.mv(value) - aim, aim) > 1 + 1e-3) & ~contradicted
                found, value = cond_any(lost, again, keep, found, value, still, aim, shift)
            usual = finish_rows(jacobian, velocity, damping, found, value, mismatch)
            if dense or not self.certify:
                return usual
            # Last of all, so that the usual way is not cut in two.
            return cond_any(contradicted, without_factors, _as_usual, usual, jacobian, velocity, damping)

        def without_factors(
            usual: tuple[PyTree, LiftInfo], jacobian: Jacobian, velocity: Array, damping: Damping
        ) -> tuple[PyTree, LiftInfo]:
            still, aim = freeze((jacobian, velocity))
            shift = freeze(relative_shift(jacobian, damping, rows=True))
            matrix = _from_rows(still, dtype)
            if matrix is None:
                nothing = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), usual[0])
                return conclude(jacobian, nothing, velocity, usual[1].outcome, usual[1].rank, usual[1].mismatch)
            # As little program as will do for what never happens: with damping Cholesky's factorisation does.
            plain = Factorise(self.cutoff, factorise.floor, self.max_decomposition, rescue=shift is None)
            found, _ = in_dtype(plain, dtype)(matrix, shift, one)
            found = found._replace(outcome=jnp.full_like(found.outcome, CONTRADICTED))
            value, _ = refined_lift(still, found, shift, aim, 0)
            return finish_rows(jacobian, velocity, damping, found, value, usual[1].mismatch)

        return Prepared(solve, RowLift(jacobian, factor, damping))


def _from_rows(jacobian: Jacobian, dtype: jnp.dtype) -> Float[Array, "QN QN"] | None:
    """G without the factors; None if it fits in no memory."""
    # XLA reserves at each call what its rarest branch may hold, and fresh pages are expensive: so little at first.
    small = 2 * jacobian.out_size() ** 2 * dtype.itemsize + 2**24
    for memory in (small, None):
        try:
            return Gram(jacobian, structured=False, memory=memory).as_matrix(dtype)
        except MemoryError:
            continue
    return None


def _as_usual(usual: tuple[PyTree, LiftInfo], *operands: PyTree) -> tuple[PyTree, LiftInfo]:
    return usual
