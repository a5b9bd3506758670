"""The lift by a Cholesky factorisation of G = DDᵀ, whose size is QN for any K."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo._checks import check_count
from jaxgeo.linalg.gram.certificate import is_noise
from jaxgeo.linalg.gram.gram import Gram
from jaxgeo.linalg.gram.held import HeldFactors
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.precision import rescue_if
from jaxgeo.linalg.solvers.base import (
    CONTRADICTED,
    DAMPED,
    DECOMPOSED,
    AbstractFactorised,
    AbstractLiftSolver,
    Damping,
    LiftInfo,
    conclude,
    relative_norm,
)
from jaxgeo.linalg.solvers.cutoff import AbstractCutoff, SmoothCutoff, check_factoring
from jaxgeo.linalg.solvers.derivatives import FactorisedSide
from jaxgeo.linalg.solvers.factorisation import Factorisation, Factorise
from jaxgeo.linalg.solvers.refined import Lifted, contradicts, refined_lift
from jaxgeo.linalg.solvers.sides import Rows, gram_dtype, relative_damping
from jaxgeo.linalg.solvers.svd import SVD
from jaxgeo.linalg.tangents import freeze


class GramCholesky(AbstractLiftSolver):
    """D⁺v = Dᵀ(DDᵀ)⁻¹v by a Cholesky factorisation of G = DDᵀ. For K ≥ QN, and with damping for any K.

    Paper: (1.23), (2.2)

    cond(G) = cond(D)², so three measures protect the accuracy. Without damping, G is formed and factorised in float64,
    where products of float32 numbers are exact; x64 need not be on. So is Dᵀψ, from the factors that G is made of, if
    they are worth holding. The solution is refined by products with D until v − Dθ̇ is round-off or no longer halves, so
    the error falls from cond(D)²·eps towards cond(D)·eps. And the condition number is measured from the factorisation:
    if D has lost rank, or cond(D) exceeds what G resolves (about 1e6), eigenvalues of G and a smooth cut-off take over.

    Each lift also certifies G, by comparing it with products with D, which the first refinement computes anyway. If
    round-off cannot explain the difference (`LiftInfo.mismatch`), the lift is repeated with a G from rows of D instead
    of the Kronecker factors of each leaf, without refinement. This costs as much as a dense D, and the outcome says so.

    **Arguments:**

    - `refinements`: the largest number of refinements; each takes a product with D and Dᵀ and two triangular solves.
    - `dtype`: the dtype to form and factorise G in; by default float64, and with damping the parameters' dtype.
    - `cutoff`: the cut-off of eigenvalues, if they are needed.
    - `dense_fallback`: answer a failure by QR and singular values of the dense D instead of eigenvalues of G.
    - `max_decomposition`: the largest QN for which eigenvalues are affordable; above it, damping answers a failure.
    - `certify`: pass False to use the assembled G unchecked.
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

    def factorise(self, jacobian: Jacobian, damping: Damping = None) -> "FactorisedGram":
        dtype = gram_dtype(jacobian, damping, self.dtype)
        still, damped = freeze((jacobian, relative_damping(Rows, jacobian, damping)))
        # A failure is handled here, or by each lift.
        dense = self.dense_fallback and damping is None and jacobian.in_size() >= jacobian.out_size()
        matrix, factors = Gram(still).with_factors(dtype)
        found = self._factorise(still, matrix, damped, not dense)
        return FactorisedGram(self, dense, jacobian, damping, found, factors)

    def _factorise(
        self, jacobian: Jacobian, matrix: Float[Array, "QN QN"], damped: Float[Array, ""] | None, rescue: bool = True
    ) -> Factorisation:
        factorise = Factorise(jacobian, self.cutoff, matrix.dtype, self.max_decomposition, rescue=rescue)
        return factorise.cholesky(matrix, damped)

    def by_singular_values(
        self, usual: tuple[Factorisation, Lifted], jacobian: Jacobian, aim: Float[Array, "N Q"]
    ) -> tuple[Factorisation, Lifted]:
        """Replace a lift through a G that failed."""
        found, value = SVD(self.cutoff, jnp.dtype(jnp.float64)).factorise(jacobian).solve(aim)
        return found.with_outcome(DECOMPOSED), usual[1]._replace(value=value, missed=aim - jacobian.mv(value))

    def with_more_damping(
        self,
        usual: tuple[Factorisation, Lifted],
        jacobian: Jacobian,
        aim: Float[Array, "N Q"],
        damped: Float[Array, ""],
    ) -> tuple[Factorisation, Lifted]:
        """Replace a lift in which products with D have lost the damping."""
        # Add as much as the refinement needs; λ_max is at most QN mean eigenvalues.
        more = damped + 4 * float(jnp.finfo(aim.dtype).eps) * aim.size
        matrix = Gram(jacobian).as_matrix(usual[0].matrix.dtype, certify=False)
        found = self._factorise(jacobian, matrix, more)
        found = found.with_outcome(jnp.maximum(found.outcome, DAMPED))
        lifted = refined_lift(jacobian, found, more, aim, self.refinements)
        return found, lifted._replace(mismatch=usual[1].mismatch)

    def by_rows(
        self,
        usual: tuple[PyTree, LiftInfo],
        jacobian: Jacobian,
        velocity: Float[Array, "N Q"],
        damping: Damping,
    ) -> tuple[PyTree, LiftInfo]:
        """Replace a lift through a G that products with D contradict."""
        value, info = usual
        still, aim, damped = freeze((jacobian, velocity, relative_damping(Rows, jacobian, damping)))
        matrix = _from_rows(still, gram_dtype(jacobian, damping, self.dtype))
        if matrix is None:
            nothing = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), value)
            return conclude(jacobian, nothing, velocity, info.outcome, info.rank, info.mismatch)
        # This should never happen, so compile as little as possible: with damping, Cholesky alone is enough.
        found = self._factorise(still, matrix, damped, damped is None).with_outcome(CONTRADICTED)
        found = found if damped is None else found.of_triangle()
        lifted = refined_lift(still, found, damped, aim, 0)
        return FactorisedSide(Rows, jacobian, found, damping).finish(
            velocity, lifted.value, info.mismatch, lifted.missed
        )


class FactorisedGram(AbstractFactorised):
    """A Cholesky factorisation of G, or its fallback after a failure. Each lift is refined, and certifies G.

    - `dense`: whether each lift answers a failure by singular values of D.
    - `factors`: those that G was assembled from, if they are worth holding.
    """

    solver: GramCholesky
    dense: bool = eqx.field(static=True)
    jacobian: Jacobian
    damping: Damping
    factorisation: Factorisation
    factors: HeldFactors | None = None

    @property
    def correct(self) -> FactorisedSide:
        return FactorisedSide(Rows, self.jacobian, self.factorisation, self.damping, self.factors)

    def lift(self, velocity: Float[Array, "N Q"]) -> tuple[PyTree, LiftInfo]:
        solver, jacobian, found = self.solver, self.jacobian, self.factorisation
        still, aim, damped = freeze((jacobian, velocity, relative_damping(Rows, jacobian, self.damping)))
        # A product of D with itself needs no check.
        certify = solver.certify and not jacobian.is_matrix
        lifted = refined_lift(still, found, damped, aim, solver.refinements, self.factors, check=certify)
        dtype, contradicted = found.matrix.dtype, jnp.zeros((), bool)
        if lifted.mismatch is not None:
            contradicted = contradicts(lifted.mismatch, jacobian, dtype) & ~is_noise(found.sqrt_mean)
            if damped is not None:
                # If G is not positive semidefinite, more damping does not help.
                contradicted |= jnp.isnan(lifted.mismatch)
        if self.dense:
            unsound = ~found.trusted | contradicted
            found, lifted = rescue_if(unsound, solver.by_singular_values, (found, lifted), still, aim)
            found = found.with_outcome(jnp.where(contradicted, CONTRADICTED, found.outcome))
        if damped is not None and dtype != aim.dtype:
            # A damped lift misses no more than v, unless products with D in the parameters' dtype lose the damping.
            lost = (relative_norm(lifted.missed, aim) > 1 + 1e-3) & ~contradicted
            found, lifted = rescue_if(lost, solver.with_more_damping, (found, lifted), still, aim, damped)
        usual = FactorisedSide(Rows, jacobian, found, self.damping).finish(
            velocity, lifted.value, lifted.mismatch, lifted.missed
        )
        if self.dense or not certify:
            return usual
        # At the very end, so that this check does not split the usual path in two.
        return rescue_if(contradicted, solver.by_rows, usual, jacobian, velocity, self.damping)


def _from_rows(jacobian: Jacobian, dtype: jnp.dtype) -> Float[Array, "QN QN"] | None:
    """G from rows of D; None if it does not fit in memory, or over several devices takes more than G from factors."""
    # Each call reserves memory for even the rarest branch, and fresh pages are expensive: try with little first. Over
    # several devices rows of D are not formed in chunks, and would be most of what a lift allocates.
    small = 2 * jacobian.out_size() ** 2 * dtype.itemsize + 2**24
    shared = jacobian.problem.blocks[0].num_shards > 1
    for memory in (small, Gram(jacobian).plan(dtype).bytes if shared else None):
        try:
            return Gram(jacobian, structured=False, memory=memory).as_matrix(dtype)
        except MemoryError:
            continue
    return None
