"""The lift on the side of the rows: by a factorisation of G = DDᵀ, of size QN, whatever K is."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo._checks import check_count, check_flag
from jaxgeo.linalg.gram import Gram
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.precision import cond_any, in_dtype
from jaxgeo.linalg.solvers.base import (
    DAMPED,
    DECOMPOSED,
    SOLVED,
    AbstractLiftSolver,
    Damping,
    LiftInfo,
    Prepared,
    relative_norm,
)
from jaxgeo.linalg.solvers.cutoff import AbstractCutoff, SmoothCutoff, check_factoring
from jaxgeo.linalg.solvers.dense import Attempt, dense_lift
from jaxgeo.linalg.solvers.factor import Factor, Factorise, decompose, normalise
from jaxgeo.linalg.solvers.sides import (
    RowLift,
    finish_rows,
    gram_dtype,
    gram_floor,
    refined_lift,
    relative_shift,
)
from jaxgeo.linalg.tangents import freeze


class GramCholesky(AbstractLiftSolver):
    """D⁺v = Dᵀ(DDᵀ)⁻¹v by a Cholesky factorisation of G = DDᵀ. For K ≥ QN, and with damping for any.

    Paper: (1.23), (2.2)

    cond(G) = cond(D)². Three things answer that. Without damping G is formed and factored in float64, where
    the products of float32 factors are exact, without x64 being switched on globally. The solution is refined
    against v − Dθ̇, by products with D, until that is round-off or no longer halves, which takes the error from
    cond(D)²·eps towards cond(D)·eps. And the condition number is measured from the factor: where D has lost rank,
    or lies beyond what G resolves (cond(D) about 1e6), eigenvalues of G and a smooth cut-off take over.

    **Arguments:**

    - `refinements`: at most how often to refine, each one JVP, one VJP and two triangular solves.
    - `gram_dtype`: in which to form and factor G; by default float64, and with damping the parameters' dtype.
    - `cutoff`: of the eigenvalues, where they are needed.
    - `dense_fallback`: answer a failure by QR and singular values of the dense D in place of eigenvalues of G.
    - `max_decomposition`: QN up to which eigenvalues are affordable; above, a failure is answered by damping.
    """

    refinements: int = eqx.field(static=True, default=4)
    gram_dtype: jnp.dtype | None = eqx.field(static=True, default=None)
    cutoff: AbstractCutoff = SmoothCutoff()
    dense_fallback: bool = eqx.field(static=True, default=False)
    max_decomposition: int = eqx.field(static=True, default=4096)

    def __check_init__(self):
        check_count("refinements", self.refinements, least=0)
        check_count("max_decomposition", self.max_decomposition, least=0)
        check_flag("dense_fallback", self.dense_fallback)
        check_factoring(self.cutoff, "gram_dtype", self.gram_dtype)

    def solve(
        self, jacobian: Jacobian, velocity: Float[Array, "N Q"], damping: Damping = None
    ) -> tuple[PyTree, LiftInfo]:
        return self.prepare(jacobian, damping).solve(velocity)

    def prepare(self, jacobian: Jacobian, damping: Damping = None) -> Prepared:
        dtype, own = gram_dtype(jacobian, damping, self.gram_dtype), jacobian.outputs.dtype
        still = freeze(jacobian)
        shift = freeze(relative_shift(jacobian, damping, rows=True))
        dense = self.dense_fallback and damping is None and jacobian.in_size() >= jacobian.out_size()
        factorise = Factorise(self.cutoff, gram_floor(jacobian, dtype), self.max_decomposition, rescue=not dense)
        one = jnp.ones((), own)
        factor, _ = in_dtype(factorise, dtype)(Gram(still).as_matrix(dtype), shift, one)

        def rescue(factor: Factor, value: PyTree, jacobian: Jacobian, aim: Array, shift: None) -> tuple[Factor, PyTree]:
            found, value = dense_lift(jacobian, aim, shift, self.cutoff, jnp.dtype(jnp.float64), Attempt.NOTHING)
            return found._replace(outcome=jnp.full_like(found.outcome, DECOMPOSED)), value

        def again(factor: Factor, value: PyTree, jacobian: Jacobian, aim: Array, shift: Array) -> tuple[Factor, PyTree]:
            # As much more damping as the refinement needs, λ_max being QN mean eigenvalues at most.
            more = shift + 4 * float(jnp.finfo(own).eps) * aim.size
            found, _ = in_dtype(factorise, dtype)(Gram(jacobian).as_matrix(dtype), more, one)
            found = found._replace(outcome=jnp.maximum(found.outcome, DAMPED))
            return found, refined_lift(jacobian, found, more, aim, self.refinements)

        def keep(factor: Factor, value: PyTree, *operands: PyTree) -> tuple[Factor, PyTree]:
            return factor, value

        def solve(velocity: Float[Array, "N Q"]) -> tuple[PyTree, LiftInfo]:
            aim = freeze(velocity)
            found, value = factor, refined_lift(still, factor, shift, aim, self.refinements)
            if dense:
                found, value = cond_any(~found.trusted, rescue, keep, found, value, still, aim, shift)
            if shift is not None and dtype != own:
                # No damped lift leaves more than v, unless products with D in the parameters' dtype have lost it.
                lost = relative_norm(still.mv(value) - aim, aim) > 1 + 1e-3
                found, value = cond_any(lost, again, keep, found, value, still, aim, shift)
            return finish_rows(jacobian, velocity, damping, found, value)

        return Prepared(solve, RowLift(jacobian, factor, damping))


class GramEigh(AbstractLiftSolver):
    """D⁺v = Dᵀh(DDᵀ)v by the eigenvalues of G = DDᵀ, h the filtered inverse. For D of any rank.

    Paper: (4.1)–(4.3)

    Eigenvalues of G are squares: singular values of D below about 1e-7 of the largest are lost in float64.

    **Arguments:**

    - `cutoff`: which singular values count: `SmoothCutoff()` for flows, `HardCutoff()` for diagnostics.
    - `gram_dtype`: as for `GramCholesky`.
    """

    cutoff: AbstractCutoff = SmoothCutoff()
    gram_dtype: jnp.dtype | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        check_factoring(self.cutoff, "gram_dtype", self.gram_dtype)

    def solve(
        self, jacobian: Jacobian, velocity: Float[Array, "N Q"], damping: Damping = None
    ) -> tuple[PyTree, LiftInfo]:
        dtype = gram_dtype(jacobian, damping, self.gram_dtype)
        still, aim = freeze((jacobian, velocity))
        shift = freeze(relative_shift(jacobian, damping, rows=True))
        decompose_gram = _Decompose(self.cutoff, gram_floor(jacobian, dtype))
        factor = in_dtype(decompose_gram, dtype)(Gram(still).as_matrix(dtype), shift, jnp.ones((), aim.dtype))
        value = refined_lift(still, factor, shift, aim, 1)
        return finish_rows(jacobian, velocity, damping, factor, value)


class _Decompose(eqx.Module):
    cutoff: AbstractCutoff
    floor: float = eqx.field(static=True)

    def __call__(self, gram: Float[Array, "n n"], shift: Float[Array, ""] | None, out: Float[Array, ""]) -> Factor:
        scaled, shift, root = normalise(gram, shift, out)
        return decompose(scaled.matrix(), shift, root, self.cutoff, self.floor, jnp.asarray(SOLVED, jnp.int32))
