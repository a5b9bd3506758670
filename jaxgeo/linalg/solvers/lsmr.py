"""The lift by LSMR on D, which only takes products."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float, PyTree

from jaxgeo._checks import check_count, check_positive, plain
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.solvers.base import AbstractLiftSolver, Damping
from jaxgeo.linalg.solvers.iterations import AbstractIterations, Iterated, absolute_damping
from jaxgeo.linalg.tangents import freeze


class LSMR(AbstractLiftSolver):
    """D⁺v by LSMR, which only takes products with D and does not square its condition number. For any rank.

    Paper: (4.5)

    Directions with small singular values converge last, so stopping early acts as a kind of cut-off. The residual of
    the report shows whether the tolerance was reached.

    **Arguments:**

    - `rtol`: the tolerance of lineax' LSMR.
    - `max_steps`: the number of steps after which to stop; by default 10·min(QN, K).
    """

    rtol: float = eqx.field(converter=plain, default=1e-10)
    max_steps: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        check_positive("rtol", self.rtol)
        if self.max_steps is not None:
            check_count("max_steps", self.max_steps)

    def factorise(self, jacobian: Jacobian, damping: Damping = None) -> Iterated:
        absolute = absolute_damping(jacobian, damping)
        still, constant = freeze((jacobian, absolute))
        return Iterated(jacobian, absolute, _LeastSquares(still, constant, self.rtol, self.max_steps))


class _LeastSquares(AbstractIterations):
    """Iterations of least squares with D."""

    jacobian: Jacobian
    damping: Float[Array, ""] | None
    rtol: float
    max_steps: int | None = eqx.field(static=True)

    def is_filtered(self) -> Bool[Array, ""]:
        return jnp.ones((), bool)

    def lift(self, rows: Float[Array, "N Q"]) -> PyTree:
        if self.damping is None:
            return self._solve(self.jacobian, rows)
        operator = lx.FunctionLinearOperator(
            _Damped(self.jacobian, jnp.sqrt(self.damping)), self.jacobian.in_structure()
        )
        return self._solve(operator, (rows, jax.tree.map(jnp.zeros_like, self.jacobian.trainable)))

    def _solve(self, operator: lx.AbstractLinearOperator, rhs: PyTree) -> PyTree:
        # Below round-off LSMR would continue into directions of pure round-off.
        rtol = max(self.rtol, 4 * float(jnp.finfo(self.jacobian.outputs.dtype).eps))
        solver = lx.LSMR(rtol=rtol, atol=rtol, max_steps=self.max_steps, conlim=1 / rtol)
        # With x64 on, lineax mixes float64 into float32 vectors and then refuses the mixture, so use float64.
        wide = jax.dtypes.canonicalize_dtype(jnp.float64)
        structure = operator.in_structure()
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, wide), structure)
        widened = lx.FunctionLinearOperator(_Widened(operator, wide), shapes)
        found = lx.linear_solve(widened, _cast(rhs, wide), solver, throw=False).value
        return jax.tree.map(lambda leaf, own: leaf.astype(own.dtype), found, structure)

    def apply(self, rhs: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        if self.damping is None:
            return self._solve(self.jacobian.T, self.lift(rhs))
        return (rhs - self.jacobian.mv(self.lift(rhs))) / self.damping

    def complement(self, rhs: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return rhs - self.jacobian.mv(self.lift(rhs))


class _Damped(eqx.Module):
    """θ̇ ↦ (Dθ̇, √λ θ̇), whose least-squares solution is the damped one."""

    jacobian: Jacobian
    root: Float[Array, ""]

    def __call__(self, vector: PyTree) -> tuple[Float[Array, "N Q"], PyTree]:
        return self.jacobian.mv(vector), jax.tree.map(lambda leaf: self.root * leaf, vector)


class _Widened(eqx.Module):
    """The same products, for vectors of another dtype."""

    operator: lx.AbstractLinearOperator
    dtype: jnp.dtype = eqx.field(static=True)

    def __call__(self, vector: PyTree) -> PyTree:
        own = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), vector, self.operator.in_structure())
        return _cast(self.operator.mv(own), self.dtype)


def _cast(tree: PyTree, dtype: jnp.dtype) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)
