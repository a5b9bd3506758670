"""The lift by a QR factorisation of the dense D, which does not square the condition number."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgeo.linalg.precision import without_tf32
from jaxgeo.linalg.solvers.cutoff import AbstractCutoff, SmoothCutoff
from jaxgeo.linalg.solvers.dense import AbstractDecomposition, AbstractDenseSolver, DenseMatrix
from jaxgeo.linalg.solvers.factorisation import Factorisation, from_triangle


class QR(AbstractDenseSolver):
    """D⁺v = (DᵀD)⁻¹Dᵀv by a QR factorisation of D (of Dᵀ if K > QN). For D of full rank.

    Paper: (5.2)

    The error is cond(D)·eps, without the squared condition number of the normal equations. The condition number
    is measured from R; if D has lost rank, singular values of R and a smooth cut-off take over.

    **Arguments:**

    - `cutoff`: the cut-off of singular values, if they are needed.
    - `dtype`: the dtype to factorise in; by default float64, and with damping the parameters' dtype.
    """

    cutoff: AbstractCutoff = SmoothCutoff()
    dtype: jnp.dtype | None = eqx.field(static=True, default=None)

    def decompose(self, matrix: DenseMatrix, floor: float) -> "_Orthogonal":
        q, r = matrix.qr()
        eps = float(jnp.finfo(r.dtype).eps)
        least = (2 * self.cutoff.full(floor) if matrix.relative_damping is None else len(r) * eps) ** 2
        return _Orthogonal(from_triangle(r, least, matrix.own_sqrt_mean, matrix.relative_damping), q)


class _Orthogonal(AbstractDecomposition):
    """QR, with R in the factorisation."""

    factorisation: Factorisation
    q: Float[Array, "length side"]

    @without_tf32
    def solve(self, matrix: DenseMatrix, rhs: Float[Array, " QN"]) -> Float[Array, " K"]:
        r = self.factorisation.matrix
        if matrix.wide:
            return self.q @ jax.scipy.linalg.solve_triangular(r, rhs, trans="T")
        return jax.scipy.linalg.solve_triangular(r, self.q.T @ rhs)
