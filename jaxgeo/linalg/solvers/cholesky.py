"""The lift on the side of the rows, by a Cholesky factorisation of DDᵀ."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.solvers.base import (
    AbstractLiftSolver,
    Damping,
    LiftInfo,
    gram_matrix,
    is_finite,
    relative_residual,
)


class GramCholesky(AbstractLiftSolver):
    """D⁺v = Dᵀ(DDᵀ)⁻¹v by a Cholesky factorisation of G = DDᵀ. For K ≥ QN and rank(D) = QN.

    Paper: (1.23), (2.2)

    cond(G) = cond(D)². Two things answer that. G is formed and factored in float64 from D, whose products
    are exact there even where the parameters are float32, without x64 being switched on globally. And each
    refinement solves once more for v − Dθ̇ with the same factor, which takes the error from cond(D)²·eps
    towards cond(D)·eps. Where G is not positive definite to working precision the result is NaN, which
    an adaptive ODE step answers with a smaller step.

    **Arguments:**

    - `refinements`: how often to refine, each one JVP, one VJP and one triangular solve.
    """

    refinements: int = eqx.field(static=True, default=1)

    def solve(
        self, jacobian: Jacobian, velocity: Float[Array, "N Q"], damping: Damping = None
    ) -> tuple[PyTree, LiftInfo]:
        with jax.enable_x64(True):
            gram = gram_matrix(jacobian, jnp.dtype(jnp.float64))
            shift = (
                jnp.zeros(()) if damping is None else jnp.asarray(damping, jnp.float64) * jnp.trace(gram) / len(gram)
            )
            factor = jax.scipy.linalg.cho_factor(gram + shift * jnp.eye(len(gram)), lower=True)
            shift = shift.astype(velocity.dtype)
        transpose = jacobian.T

        def approximate(rows: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
            with jax.enable_x64(True):
                psi = jax.scipy.linalg.cho_solve(factor, rows.astype(jnp.float64).reshape(-1)).astype(rows.dtype)
            return psi.reshape(rows.shape)

        psi = approximate(velocity)
        solution = transpose.mv(psi)
        for _ in range(self.refinements):
            correction = approximate(velocity - jacobian.mv(solution) - shift * psi)
            psi = psi + correction
            solution = jax.tree.map(jnp.add, solution, transpose.mv(correction))
        outcome = jnp.where(is_finite(solution), 0, 3)
        rank = jnp.full_like(outcome, -1)
        return solution, LiftInfo(outcome, rank, relative_residual(jacobian, solution, velocity))
