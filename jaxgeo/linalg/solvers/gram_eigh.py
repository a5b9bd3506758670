"""The lift by the eigenvalues of G = DDᵀ, for D of any rank."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo.linalg.gram.gram import Gram
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.precision import in_dtype
from jaxgeo.linalg.solvers.base import SOLVED, AbstractLiftSolver, Damping, LiftInfo
from jaxgeo.linalg.solvers.cutoff import AbstractCutoff, SmoothCutoff, check_factoring
from jaxgeo.linalg.solvers.factorisation import Factorisation, decompose, normalise
from jaxgeo.linalg.solvers.sides import finish_rows, gram_dtype, refined_lift, relative_shift
from jaxgeo.linalg.spectra import gram_floor
from jaxgeo.linalg.tangents import freeze


class GramEigh(AbstractLiftSolver):
    """D⁺v = Dᵀh(DDᵀ)v by the eigenvalues of G = DDᵀ, h the filtered inverse. For D of any rank.

    Paper: (4.1)–(4.3)

    Eigenvalues of G are squares: singular values of D below about 1e-7 of the largest are lost in float64.

    **Arguments:**

    - `cutoff`: which singular values count: `SmoothCutoff()` for flows, `HardCutoff()` for diagnostics.
    - `dtype`: as for `GramCholesky`.
    """

    cutoff: AbstractCutoff = SmoothCutoff()
    dtype: jnp.dtype | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        check_factoring(self.cutoff, "dtype", self.dtype)

    def solve(
        self, jacobian: Jacobian, velocity: Float[Array, "N Q"], damping: Damping = None
    ) -> tuple[PyTree, LiftInfo]:
        dtype = gram_dtype(jacobian, damping, self.dtype)
        still, aim = freeze((jacobian, velocity))
        shift = freeze(relative_shift(jacobian, damping, rows=True))
        decompose_gram = _Decompose(self.cutoff, gram_floor(jacobian, dtype))
        one = jnp.ones((), aim.dtype)
        # Beside eigenvalues the certificate of G itself costs nothing.
        factor = in_dtype(decompose_gram, dtype)(Gram(still).as_matrix(dtype), shift, one)
        value, mismatch = refined_lift(still, factor, shift, aim, 1)
        return finish_rows(jacobian, velocity, damping, factor, value, mismatch)


class _Decompose(eqx.Module):
    cutoff: AbstractCutoff
    floor: float = eqx.field(static=True)

    def __call__(
        self, gram: Float[Array, "n n"], shift: Float[Array, ""] | None, out: Float[Array, ""]
    ) -> Factorisation:
        scaled, shift, sqrt_mean = normalise(gram, shift, out)
        return decompose(scaled.matrix(), shift, sqrt_mean, self.cutoff, self.floor, jnp.asarray(SOLVED, jnp.int32))
