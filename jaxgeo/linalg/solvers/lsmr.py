"""The lift by LSMR on D, through products alone."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float, PyTree

from jaxgeo._checks import check_count, check_positive, plain
from jaxgeo.linalg.gram.gram import mean_eigenvalue
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.solvers.base import SOLVED, AbstractLiftSolver, Damping, LiftInfo, conclude
from jaxgeo.linalg.solvers.inverse import AbstractInverse, RowOperator, inverse
from jaxgeo.linalg.tangents import attach, freeze


class LSMR(AbstractLiftSolver):
    """D⁺v by LSMR, which sees D through products only and does not square its condition number. For any rank.

    Paper: (4.5)

    Directions with small singular values come last, so stopping early is itself a kind of cut-off. Whether the
    tolerance was reached shows in the residual of the report.

    **Arguments:**

    - `rtol`: tolerance of lineax' LSMR.
    - `max_steps`: steps to stop at; by default 10·min(QN, K).
    """

    rtol: float = eqx.field(converter=plain, default=1e-10)
    max_steps: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        check_positive("rtol", self.rtol)
        if self.max_steps is not None:
            check_count("max_steps", self.max_steps)

    def solve(
        self, jacobian: Jacobian, velocity: Float[Array, "N Q"], damping: Damping = None
    ) -> tuple[PyTree, LiftInfo]:
        shift = None if damping is None else jnp.asarray(damping, velocity.dtype) * mean_eigenvalue(jacobian)
        still, constant = freeze((jacobian, shift))
        inner = _LeastSquares(still, constant, self.rtol, self.max_steps)
        value = inner.lift(freeze(velocity))
        psi = inverse(RowOperator(jacobian, jnp.ones((), velocity.dtype)), inner, shift, velocity)
        outcome = jnp.asarray(SOLVED, jnp.int32)
        solution = attach(value, jacobian.T.mv(psi))
        return conclude(jacobian, solution, velocity, outcome, jnp.full_like(outcome, -1))


class _LeastSquares(AbstractInverse):
    """The pseudo-inverse of G, or (G + λ)⁻¹, by least squares with D."""

    jacobian: Jacobian
    shift: Float[Array, ""] | None
    rtol: float
    max_steps: int | None = eqx.field(static=True)

    @property
    def spectral(self) -> Bool[Array, ""]:
        return jnp.ones((), bool)

    def lift(self, rows: Float[Array, "N Q"]) -> PyTree:
        """D⁺v, damped or not."""
        if self.shift is None:
            return self._solve(self.jacobian, rows)
        operator = lx.FunctionLinearOperator(_Damped(self.jacobian, jnp.sqrt(self.shift)), self.jacobian.in_structure())
        return self._solve(operator, (rows, jax.tree.map(jnp.zeros_like, self.jacobian.trainable)))

    def _solve(self, operator: lx.AbstractLinearOperator, rhs: PyTree) -> PyTree:
        # Below round-off LSMR would go on into directions that are nothing else.
        rtol = max(self.rtol, 4 * float(jnp.finfo(self.jacobian.outputs.dtype).eps))
        solver = lx.LSMR(rtol=rtol, atol=rtol, max_steps=self.max_steps, conlim=1 / rtol)
        return lx.linear_solve(operator, rhs, solver, throw=False).value

    def apply(self, rhs: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        if self.shift is None:
            return self._solve(self.jacobian.T, self.lift(rhs))
        return (rhs - self.jacobian.mv(self.lift(rhs))) / self.shift

    def complement(self, rhs: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return rhs - self.jacobian.mv(self.lift(rhs))


class _Damped(eqx.Module):
    """θ̇ ↦ (Dθ̇, √λ θ̇), whose least squares are the damped ones."""

    jacobian: Jacobian
    root: Float[Array, ""]

    def __call__(self, vector: PyTree) -> tuple[Float[Array, "N Q"], PyTree]:
        return self.jacobian.mv(vector), jax.tree.map(lambda leaf: self.root * leaf, vector)
