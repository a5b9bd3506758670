"""The lift by products with D alone: conjugate gradients on DDᵀ, and LSMR on D."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import optimistix as optx
from jaxtyping import Array, Float, PyTree

from jaxgeo.linalg.gram import Gram
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.solvers.base import SOLVED, AbstractLiftSolver, Damping, LiftInfo, conclude
from jaxgeo.linalg.solvers.sides import freeze


class Nystrom(eqx.Module):
    """A preconditioner for G + λ: exact on the dominant eigenvectors of G, found by a random sketch of it.

    **Arguments:**

    - `rank`: products with G that the sketch takes, and columns of length QN that it holds.
    - `seed`: of the random sketch.
    - `batch_size`: products made at a time.
    """

    rank: int = eqx.field(static=True, default=64)
    seed: int = eqx.field(static=True, default=0)
    batch_size: int = eqx.field(static=True, default=16)

    def __call__(self, jacobian: Jacobian, shift: Float[Array, ""]) -> "NystromInverse":
        """The preconditioner for G + `shift`."""
        shape, dtype = jacobian.outputs.shape, jacobian.outputs.dtype
        size = jacobian.out_size()
        rank = min(self.rank, size)
        test = jnp.linalg.qr(jax.random.normal(jax.random.key(self.seed), (size, rank), dtype))[0]
        sketch = jax.lax.map(
            lambda column: jacobian.mv(jacobian.T.mv(column.reshape(shape))).reshape(-1),
            test.T,
            batch_size=min(self.batch_size, rank),
        ).T
        # A shift by round-off makes the core positive definite; it is taken off the eigenvalues again.
        noise = float(jnp.finfo(dtype).eps) * size**0.5 * jnp.linalg.norm(sketch)
        noise = jnp.where(noise > 0, noise, jnp.ones_like(noise))
        sketch = sketch + noise * test
        core = test.T @ sketch
        values, vectors = jnp.linalg.eigh((core + core.T) / 2)
        root = vectors / jnp.sqrt(jnp.maximum(values, noise / 2))[None, :]
        basis, singular, _ = jnp.linalg.svd(sketch @ root, full_matrices=False)
        values = jnp.maximum(singular**2 - noise, 0)
        shift = jnp.maximum(shift, noise)
        return NystromInverse(basis, (values[-1] + shift) / (values + shift))


class NystromInverse(eqx.Module):
    """(ℓ + λ) U(Λ + λ)⁻¹Uᵀ + 1 − UUᵀ, with ℓ the smallest of the eigenvalues Λ."""

    basis: Float[Array, "n rank"]
    weights: Float[Array, " rank"]

    def __call__(self, rows: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        flat = rows.reshape(-1)
        return (flat + self.basis @ ((self.weights - 1) * (self.basis.T @ flat))).reshape(rows.shape)


class CG(AbstractLiftSolver):
    """D⁺v = Dᵀψ, with (DDᵀ + λ)ψ = v by preconditioned conjugate gradients. For QN too large for a Gram matrix.

    Paper: (1.23), (2.2)

    Each step is one JVP and one VJP. Whether the tolerance was reached shows in the residual of the report, not in
    its outcome. For K ≥ QN and full rank, or with damping.

    **Arguments:**

    - `rtol`: residual relative to v to stop at.
    - `max_steps`: steps to stop at.
    - `preconditioner`: None for none.
    """

    rtol: float = 1e-6
    max_steps: int = eqx.field(static=True, default=1000)
    preconditioner: Nystrom | None = Nystrom()

    def solve(
        self, jacobian: Jacobian, velocity: Float[Array, "N Q"], damping: Damping = None
    ) -> tuple[PyTree, LiftInfo]:
        solution, outcome, _ = self.iterate(jacobian, velocity, damping)
        return conclude(jacobian, solution, velocity, outcome, jnp.full_like(outcome, -1))

    def iterate(
        self, jacobian: Jacobian, velocity: Float[Array, "N Q"], damping: Damping = None
    ) -> tuple[PyTree, Array, Array]:
        """The lift, its outcome, and the number of steps."""
        shift = None if damping is None else jnp.asarray(damping, velocity.dtype) * mean_eigenvalue(jacobian)
        operator = jacobian @ jacobian.T
        if shift is not None:
            operator = operator + shift * lx.IdentityLinearOperator(jacobian.out_structure())
        # A shift by a traced number loses the tag.
        operator = lx.TaggedLinearOperator(operator, lx.positive_semidefinite_tag)
        options = {}
        if self.preconditioner is not None:
            constant = jnp.zeros((), velocity.dtype) if shift is None else shift
            inverse = self.preconditioner(*freeze((jacobian, constant)))
            options["preconditioner"] = lx.FunctionLinearOperator(
                freeze(inverse), jacobian.out_structure(), lx.positive_semidefinite_tag
            )
        # lineax stops by absolute tolerances componentwise; on the scale of v they are relative ones.
        size = jax.lax.stop_gradient(jnp.sqrt(jnp.mean(velocity**2)))
        unit = jnp.where(size > 0, size, jnp.ones_like(size))
        solver = lx.CG(self.rtol / 2, self.rtol / 2, norm=optx.rms_norm, max_steps=self.max_steps)
        found = lx.linear_solve(operator, velocity / unit, solver, options=options, throw=False)
        solution = jax.tree.map(lambda leaf: leaf * unit, jacobian.T.mv(found.value))
        return solution, jnp.asarray(SOLVED, jnp.int32), found.stats["num_steps"]


class LSMR(AbstractLiftSolver):
    """D⁺v by LSMR, which sees D through products only and does not square its condition number. For any rank.

    Paper: (4.5)

    Directions with small singular values come last, so stopping early is itself a kind of cut-off. Whether the
    tolerance was reached shows in the residual of the report.

    **Arguments:**

    - `rtol`: tolerance of lineax' LSMR.
    - `max_steps`: steps to stop at; by default 10·min(QN, K).
    """

    rtol: float = 1e-10
    max_steps: int | None = eqx.field(static=True, default=None)

    def solve(
        self, jacobian: Jacobian, velocity: Float[Array, "N Q"], damping: Damping = None
    ) -> tuple[PyTree, LiftInfo]:
        operator: lx.AbstractLinearOperator = jacobian
        rows: PyTree = velocity
        if damping is not None:
            root = jnp.sqrt(jnp.asarray(damping, velocity.dtype) * mean_eigenvalue(jacobian))
            still = jax.tree.map(jnp.zeros_like, jacobian.trainable)
            operator, rows = (
                lx.FunctionLinearOperator(_Damped(jacobian, root), jacobian.in_structure()),
                (velocity, still),
            )
        solver = lx.LSMR(rtol=self.rtol, atol=self.rtol, max_steps=self.max_steps, conlim=1e16)
        found = lx.linear_solve(operator, rows, solver, throw=False)
        outcome = jnp.asarray(SOLVED, jnp.int32)
        return conclude(jacobian, found.value, velocity, outcome, jnp.full_like(outcome, -1))


class _Damped(eqx.Module):
    """θ̇ ↦ (Dθ̇, √λ θ̇), whose least squares are the damped ones."""

    jacobian: Jacobian
    root: Float[Array, ""]

    def __call__(self, vector: PyTree) -> tuple[Float[Array, "N Q"], PyTree]:
        return self.jacobian.mv(vector), jax.tree.map(lambda leaf: self.root * leaf, vector)


def mean_eigenvalue(jacobian: Jacobian) -> Float[Array, ""]:
    """trace(DDᵀ)/QN, without DDᵀ."""
    return Gram(jacobian).trace() / jacobian.out_size()
