"""The lift by a factorisation of the dense D, whose condition number is not squared."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.solvers.base import AbstractLiftSolver, Damping, LiftInfo, is_finite, relative_residual


class QR(AbstractLiftSolver):
    """D⁺v = (DᵀD)⁻¹Dᵀv by a QR factorisation of D (of Dᵀ where K > QN). For D of full rank.

    Paper: (5.2)

    The error is cond(D)·eps, without the squared condition number of the normal equations.
    """

    def solve(
        self, jacobian: Jacobian, velocity: Float[Array, "N Q"], damping: Damping = None
    ) -> tuple[PyTree, LiftInfo]:
        matrix = jacobian.as_matrix()
        rows, size = matrix.shape
        rhs = velocity.reshape(-1)
        root = None if damping is None else jnp.sqrt(jnp.asarray(damping, matrix.dtype) * jnp.sum(matrix**2) / rows)
        if rows > size:
            if root is not None:
                matrix = jnp.concatenate([matrix, root * jnp.eye(size, dtype=matrix.dtype)])
            q, r = jnp.linalg.qr(matrix)
            flat = _triangular(r, q[:rows].T @ rhs)
        else:
            wide = matrix.T
            if root is not None:
                wide = jnp.concatenate([wide, root * jnp.eye(rows, dtype=matrix.dtype)])
            q, r = jnp.linalg.qr(wide)
            flat = q[:size] @ _triangular(r, rhs, transpose=True)
        solution = jacobian.unravel(flat)
        outcome = jnp.where(is_finite(solution), 0, 3)
        rank = jnp.full_like(outcome, -1)
        return solution, LiftInfo(outcome, rank, relative_residual(jacobian, solution, velocity))


class SVD(AbstractLiftSolver):
    """D⁺v by a singular value decomposition of D. For D of any rank.

    Paper: (4.1)–(4.3)

    **Arguments:**

    - `rcond`: singular values below `rcond` times the largest count as zero; by default 2·max(QN, K)·eps.
    """

    rcond: float | None = None

    def solve(
        self, jacobian: Jacobian, velocity: Float[Array, "N Q"], damping: Damping = None
    ) -> tuple[PyTree, LiftInfo]:
        matrix = jacobian.as_matrix()
        u, values, vt = jnp.linalg.svd(matrix, full_matrices=False)
        rcond = 2 * max(matrix.shape) * float(jnp.finfo(matrix.dtype).eps) if self.rcond is None else self.rcond
        keep = values > rcond * values[0]
        shift = 0.0 if damping is None else jnp.asarray(damping, matrix.dtype) * jnp.sum(values**2) / len(matrix)
        inverse = jnp.where(keep, values / jnp.where(keep, values**2 + shift, 1), 0)
        solution = jacobian.unravel(vt.T @ (inverse * (u.T @ velocity.reshape(-1))))
        outcome = jnp.where(is_finite(solution), 0, 3)
        rank = jnp.sum(keep, dtype=outcome.dtype)
        return solution, LiftInfo(outcome, rank, relative_residual(jacobian, solution, velocity))


def _triangular(r: Float[Array, "n n"], rhs: Float[Array, " n"], transpose: bool = False) -> Float[Array, " n"]:
    return jax.scipy.linalg.solve_triangular(r, rhs, trans="T" if transpose else "N", lower=False)
