"""The lift by the eigenvalues of G = DDᵀ, for D of any rank."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo.linalg.gram.gram import Gram
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.solvers.base import AbstractFactorised, AbstractLiftSolver, Damping, LiftInfo
from jaxgeo.linalg.solvers.cutoff import AbstractCutoff, SmoothCutoff, check_factoring
from jaxgeo.linalg.solvers.derivatives import FactorisedSide
from jaxgeo.linalg.solvers.factorisation import Factorisation, Factorise
from jaxgeo.linalg.solvers.refined import refined_lift
from jaxgeo.linalg.solvers.sides import Rows, gram_dtype, relative_damping
from jaxgeo.linalg.tangents import freeze


class GramEigh(AbstractLiftSolver):
    """D⁺v = Dᵀh(DDᵀ)v by the eigenvalues of G = DDᵀ, where h is the filtered inverse. For D of any rank.

    Paper: (4.1)–(4.3)

    The eigenvalues of G are squares, so singular values of D below about 1e-7 of the largest are lost in float64.

    **Arguments:**

    - `cutoff`: which singular values count; `SmoothCutoff()` for flows, `HardCutoff()` for diagnostics.
    - `dtype`: as for `GramCholesky`.
    """

    cutoff: AbstractCutoff = SmoothCutoff()
    dtype: jnp.dtype | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        check_factoring(self.cutoff, "dtype", self.dtype)

    def factorise(self, jacobian: Jacobian, damping: Damping = None) -> "_Eigenvalues":
        dtype = gram_dtype(jacobian, damping, self.dtype)
        still, damped = freeze((jacobian, relative_damping(Rows, jacobian, damping)))
        # The cost of certifying G is negligible next to eigenvalues.
        found = Factorise(jacobian, self.cutoff, dtype).eigh(Gram(still).as_matrix(dtype), damped)
        return _Eigenvalues(jacobian, damping, found)


class _Eigenvalues(AbstractFactorised):
    jacobian: Jacobian
    damping: Damping
    factorisation: Factorisation

    def lift(self, velocity: Float[Array, "N Q"]) -> tuple[PyTree, LiftInfo]:
        still, aim, damped = freeze((self.jacobian, velocity, relative_damping(Rows, self.jacobian, self.damping)))
        lifted = refined_lift(still, self.factorisation, damped, aim, 1)
        return self.correct.finish(velocity, lifted.value, lifted.mismatch, lifted.missed)

    @property
    def correct(self) -> FactorisedSide:
        return FactorisedSide(Rows, self.jacobian, self.factorisation, self.damping)
