"""The lift by conjugate gradients on DDᵀ, for QN too large for a Gram matrix."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import optimistix as optx
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxgeo._checks import check_count, check_kind, check_positive
from jaxgeo.linalg.gram.gram import Gram
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.solvers.base import AbstractLiftSolver, Damping
from jaxgeo.linalg.solvers.iterations import AbstractIterations, Iterated, absolute_damping
from jaxgeo.linalg.solvers.nystrom import Nystrom, NystromInverse
from jaxgeo.linalg.tangents import freeze


class CG(AbstractLiftSolver):
    """D⁺v = Dᵀψ, with (DDᵀ + λ)ψ = v by preconditioned conjugate gradients. For QN too large for a Gram matrix.

    Paper: (1.23), (2.2)

    Use it for K ≥ QN and full rank, or with damping. Each step takes one JVP and one VJP, or a product with G if that
    is held. On a mesh, each device holds the block rows of G for its samples, so G takes (QN)²/devices numbers and is
    never gathered. The residual of the report, not its outcome, shows whether the tolerance was reached.

    **Arguments:**

    - `rtol`: the residual relative to v at which to stop.
    - `max_steps`: the number of steps after which to stop.
    - `preconditioner`: a `Nystrom`, or None to use none.
    - `hold_gram`: form G once, in the parameters' dtype. This is cheaper if a pass through the network costs more than
        reading G, and many steps are needed.

    **Raises:** `ValueError` unless `rtol` is positive, `max_steps` is a positive integer and `preconditioner` is a
    `Nystrom` or None.
    """

    rtol: float = 1e-6
    max_steps: int = eqx.field(static=True, default=1000)
    preconditioner: Nystrom | None = Nystrom()
    hold_gram: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        check_positive("rtol", self.rtol)
        check_count("max_steps", self.max_steps)
        if self.preconditioner is not None:
            check_kind("preconditioner", self.preconditioner, Nystrom, "a `jaxgeo.linalg.Nystrom()` or None")

    def factorise(self, jacobian: Jacobian, damping: Damping = None) -> Iterated:
        absolute = absolute_damping(jacobian, damping)
        still, constant = freeze((jacobian, jnp.zeros((), jacobian.outputs.dtype) if absolute is None else absolute))
        gram = Gram(still)
        if self.hold_gram:
            gram = lx.FunctionLinearOperator(_HeldGram(gram.as_matrix()), gram.in_structure())
        preconditioner = None if self.preconditioner is None else freeze(self.preconditioner(gram, constant))
        steps = ConjugateGradients(still, gram, constant, preconditioner, self.rtol, self.max_steps)
        return Iterated(jacobian, absolute, steps)


class _HeldGram(eqx.Module):
    """Products with G as a matrix."""

    matrix: Float[Array, "n n"]

    def __call__(self, rows: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        product = jnp.matmul(self.matrix, rows.reshape(-1), precision=jax.lax.Precision.HIGHEST)
        return product.reshape(rows.shape)


class ConjugateGradients(AbstractIterations):
    """Conjugate gradients by products with G."""

    jacobian: Jacobian
    gram: lx.AbstractLinearOperator
    damping: Float[Array, ""]
    preconditioner: NystromInverse | None
    rtol: float
    max_steps: int = eqx.field(static=True)

    def is_filtered(self) -> Bool[Array, ""]:
        return jnp.zeros((), bool)

    def lift(self, rows: Float[Array, "N Q"]) -> PyTree:
        return self.jacobian.T.mv(self.apply(rows))

    def iterate(self, rows: Float[Array, "N Q"]) -> tuple[Float[Array, "N Q"], Int[Array, ""]]:
        """ψ with (G + λ)ψ = v, and the number of steps."""
        structure = self.gram.out_structure()
        operator = self.gram + self.damping * lx.IdentityLinearOperator(structure)
        # Adding a traced number loses the tag.
        operator = lx.TaggedLinearOperator(operator, lx.positive_semidefinite_tag)
        options = {}
        if self.preconditioner is not None:
            tag = lx.positive_semidefinite_tag
            options["preconditioner"] = lx.FunctionLinearOperator(self.preconditioner, structure, tag)
        # lineax stops at the sum of an absolute and a relative tolerance; for v of size 1 each is half of `rtol`.
        size = jnp.sqrt(jnp.mean(rows**2))
        unit = jnp.where(size > 0, size, jnp.ones_like(size))
        # Restarting from the exact residual every few steps, lineax' default, can make float32 steps diverge.
        tolerance = self.rtol / 2
        solver = lx.CG(tolerance, tolerance, norm=optx.rms_norm, stabilise_every=None, max_steps=self.max_steps)
        found = lx.linear_solve(operator, rows / unit, solver, options=options, throw=False)
        return found.value * unit, found.stats["num_steps"]

    def apply(self, rhs: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return self.iterate(rhs)[0]

    def complement(self, rhs: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return jnp.zeros_like(rhs)
