"""The lift by a Cholesky factorisation of the smaller of DDᵀ and DᵀD, refined with the dense D."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgeo.linalg.precision import without_tf32
from jaxgeo.linalg.refinement import accumulated_eps
from jaxgeo.linalg.solvers.cutoff import AbstractCutoff, SmoothCutoff
from jaxgeo.linalg.solvers.dense import AbstractDecomposition, AbstractDenseSolver, DenseMatrix
from jaxgeo.linalg.solvers.factorisation import Factorisation, from_triangle
from jaxgeo.linalg.triangular import cholesky_solve, upper_cholesky


class DenseCholesky(AbstractDenseSolver):
    """D⁺v by a Cholesky factorisation of the smaller of DDᵀ and DᵀD, refined with the dense D. For D of full rank.

    Paper: (1.23), (5.2)

    Several times cheaper than `QR` if D is far from square. Without damping everything runs in float64, including the
    refinement and the product with Dᵀ. So float32 parameters get their velocity to round-off for cond(D) up to about
    1e6, which products with D in float32 cannot give. Beyond that, singular values take over.

    **Arguments:**

    - `cutoff`, `dtype`: as for `QR`.
    """

    cutoff: AbstractCutoff = SmoothCutoff()
    dtype: jnp.dtype | None = eqx.field(static=True, default=None)

    def decompose(self, matrix: DenseMatrix, floor: float) -> "_Refined":
        tall, damping = matrix.tall, matrix.relative_damping
        eps, side = float(jnp.finfo(tall.dtype).eps), tall.shape[1]
        gram = jnp.matmul(tall.T, tall, precision=jax.lax.Precision.HIGHEST)
        if damping is None:
            # At cond(DDᵀ) = 1e-2/(eps·√side) each refinement still gains a digit or two; beyond that it gains none.
            least = max(4 * self.cutoff.full(floor) ** 2, 400 * eps * side**0.5)
        else:
            gram, least = gram + damping * jnp.eye(side, dtype=tall.dtype), accumulated_eps(side, tall.dtype)
        return _Refined(from_triangle(upper_cholesky(gram), least, matrix.own_sqrt_mean, damping))


class _Refined(AbstractDecomposition):
    """UᵀU, with U in the factorisation; the solution is refined by products with D."""

    factorisation: Factorisation

    @without_tf32
    def solve(self, matrix: DenseMatrix, rhs: Float[Array, " QN"]) -> Float[Array, " K"]:
        tall, upper = matrix.tall, self.factorisation.matrix
        damping = 0 if matrix.relative_damping is None else matrix.relative_damping
        solution = jnp.zeros(tall.shape[0] if matrix.wide else tall.shape[1], tall.dtype)
        psi = jnp.zeros_like(rhs)
        for _ in range(4):
            if matrix.wide:
                defect = rhs - tall.T @ solution - damping * psi
                step = cholesky_solve(upper, defect)
                psi, solution = psi + step, solution + tall @ step
            else:
                defect = tall.T @ (rhs - tall @ solution) - damping * solution
                solution = solution + cholesky_solve(upper, defect)
        return solution
