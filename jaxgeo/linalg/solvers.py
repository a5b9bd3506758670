"""How the lift D⁺v is solved: each solver is an object, passed to the flow that uses it."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PyTree

from jaxgeo.linalg.jacobian import Jacobian


class AbstractLiftSolver(eqx.Module):
    """θ̇ = D⁺v: of the θ̇ for which |Dθ̇ − v| is smallest, the one of smallest norm."""

    @abc.abstractmethod
    def solve(self, jacobian: Jacobian, velocity: Float[Array, "N Q"]) -> PyTree:
        """D⁺v as a pytree like the trainable parameters."""


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

    def solve(self, jacobian: Jacobian, velocity: Float[Array, "N Q"]) -> PyTree:
        matrix = jacobian.as_matrix()
        with jax.enable_x64(True):
            double = matrix.astype(jnp.float64)
            factor = jax.scipy.linalg.cho_factor(double @ double.T, lower=True)
        transpose = jacobian.T

        def approximate(rows: Float[Array, "N Q"]) -> PyTree:
            with jax.enable_x64(True):
                psi = jax.scipy.linalg.cho_solve(factor, rows.astype(jnp.float64).reshape(-1)).astype(rows.dtype)
            return transpose.mv(psi.reshape(rows.shape))

        solution = approximate(velocity)
        for _ in range(self.refinements):
            correction = approximate(velocity - jacobian.mv(solution))
            solution = jax.tree.map(jnp.add, solution, correction)
        return solution


class AbstractDenseSolver(AbstractLiftSolver):
    """D⁺v by a factorisation of the dense D with a lineax solver."""

    linear_solver: eqx.AbstractVar[lx.AbstractLinearSolver]

    def solve(self, jacobian: Jacobian, velocity: Float[Array, "N Q"]) -> PyTree:
        operator = lx.MatrixLinearOperator(jacobian.as_matrix())
        solution = lx.linear_solve(operator, velocity.reshape(-1), self.linear_solver, throw=False)
        return jacobian.unravel(solution.value)


class QR(AbstractDenseSolver):
    """D⁺v = (DᵀD)⁻¹Dᵀv by a QR factorisation of D (of Dᵀ where K > QN). For D of full rank.

    Paper: (5.2)

    The error is cond(D)·eps, without the squared condition number of the normal equations.
    """

    linear_solver: lx.QR = lx.QR()


class SVD(AbstractDenseSolver):
    """D⁺v by a singular value decomposition of D. For D of any rank.

    Paper: (4.1)–(4.3)

    **Arguments:**

    - `rcond`: singular values below `rcond` times the largest count as zero; by default 2·max(QN, K)·eps.
    """

    linear_solver: lx.SVD

    def __init__(self, rcond: float | None = None):
        self.linear_solver = lx.SVD(rcond=rcond)
