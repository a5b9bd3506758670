"""The lift by a Cholesky factorisation of the smaller of DDᵀ and DᵀD, with the dense D at hand to refine by."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.refinement import accumulated_eps
from jaxgeo.linalg.solvers.base import SOLVED, AbstractLiftSolver, Damping, LiftInfo
from jaxgeo.linalg.solvers.cutoff import AbstractCutoff, SmoothCutoff, check_factoring
from jaxgeo.linalg.solvers.dense import DenseParts, solve_dense
from jaxgeo.linalg.solvers.factorisation import Factorisation, triangular_factor
from jaxgeo.linalg.triangular import cholesky_solve, upper_cholesky


class DenseCholesky(AbstractLiftSolver):
    """D⁺v by a Cholesky factorisation of the smaller of DDᵀ and DᵀD, with the dense D at hand. For D of full rank.

    Paper: (1.23), (5.2)

    Several times cheaper than `QR` where D is far from square. All of it, the refinement and the product with Dᵀ
    too, is done in float64 without damping, so that float32 parameters get their velocity to round-off up to
    cond(D) about 1e6, which products with D in float32 cannot give. Beyond that, singular values take over.

    **Arguments:**

    - `cutoff`, `dtype`: as for `QR`.
    """

    cutoff: AbstractCutoff = SmoothCutoff()
    dtype: jnp.dtype | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        check_factoring(self.cutoff, "dtype", self.dtype)

    def solve(
        self, jacobian: Jacobian, velocity: Float[Array, "N Q"], damping: Damping = None
    ) -> tuple[PyTree, LiftInfo]:
        return solve_dense(jacobian, velocity, damping, self.cutoff, self.dtype, _cholesky)


def _cholesky(
    parts: DenseParts, cutoff: AbstractCutoff, floor: float, wide: bool, damped: bool
) -> tuple[Factorisation, Float[Array, " K"]]:
    tall, rhs = parts.tall, parts.rhs
    eps, side = float(jnp.finfo(tall.dtype).eps), tall.shape[1]
    gram = jnp.matmul(tall.T, tall, precision=jax.lax.Precision.HIGHEST)
    upper = upper_cholesky(gram + parts.shift * jnp.eye(side, dtype=tall.dtype))
    # Refinement still makes a digit or two each time at cond(DDᵀ) = 1e-2/(eps·√side), and no more beyond.
    least = accumulated_eps(side, tall.dtype) if damped else max(4 * cutoff.full(floor) ** 2, 400 * eps * side**0.5)
    factor = triangular_factor(upper, least, parts.own_sqrt_mean, SOLVED, parts.shift if damped else None)
    solution = jnp.zeros(tall.shape[0] if wide else side, tall.dtype)
    psi = jnp.zeros_like(rhs)
    for _ in range(4):
        if wide:
            defect = rhs - tall.T @ solution - parts.shift * psi
            step = cholesky_solve(upper, defect)
            psi, solution = psi + step, solution + tall @ step
        else:
            defect = tall.T @ (rhs - tall @ solution) - parts.shift * solution
            solution = solution + cholesky_solve(upper, defect)
    return factor, solution / parts.sqrt_mean
