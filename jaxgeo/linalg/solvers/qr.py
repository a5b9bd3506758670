"""The lift by a QR factorisation of the dense D, whose condition number is not squared."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.solvers.base import SOLVED, AbstractLiftSolver, Damping, LiftInfo
from jaxgeo.linalg.solvers.cutoff import AbstractCutoff, SmoothCutoff, check_factoring
from jaxgeo.linalg.solvers.dense import DenseParts, solve_dense
from jaxgeo.linalg.solvers.factorisation import Factorisation, triangular_factor


class QR(AbstractLiftSolver):
    """D⁺v = (DᵀD)⁻¹Dᵀv by a QR factorisation of D (of Dᵀ where K > QN). For D of full rank.

    Paper: (5.2)

    The error is cond(D)·eps, without the squared condition number of the normal equations. The condition number
    is measured from R; where D has lost rank, singular values of R and a smooth cut-off take over.

    **Arguments:**

    - `cutoff`: of the singular values, where they are needed.
    - `dtype`: in which to factor; by default float64, and with damping the parameters' dtype.
    """

    cutoff: AbstractCutoff = SmoothCutoff()
    dtype: jnp.dtype | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        check_factoring(self.cutoff, "dtype", self.dtype)

    def solve(
        self, jacobian: Jacobian, velocity: Float[Array, "N Q"], damping: Damping = None
    ) -> tuple[PyTree, LiftInfo]:
        return solve_dense(jacobian, velocity, damping, self.cutoff, self.dtype, _triangle)


def _triangle(
    parts: DenseParts, cutoff: AbstractCutoff, floor: float, wide: bool, damped: bool
) -> tuple[Factorisation, Float[Array, " K"]]:
    q, r = parts.qr(damped)
    eps = float(jnp.finfo(r.dtype).eps)
    least = (len(r) * eps if damped else 2 * cutoff.full(floor)) ** 2
    factor = triangular_factor(r, least, parts.own_sqrt_mean, SOLVED, parts.shift if damped else None)
    if wide:
        solution = q @ jax.scipy.linalg.solve_triangular(r, parts.rhs, trans="T")
    else:
        solution = jax.scipy.linalg.solve_triangular(r, q.T @ parts.rhs)
    return factor, solution / parts.sqrt_mean
