"""The lift by products with D alone: conjugate gradients on DDᵀ, and LSMR on D."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import optimistix as optx
from jaxtyping import Array, Bool, Float, PyTree

from jaxgeo._checks import check_count, check_flag, check_kind, check_positive, plain
from jaxgeo.linalg.gram import Gram
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.solvers.base import SOLVED, AbstractLiftSolver, Damping, LiftInfo, conclude
from jaxgeo.linalg.solvers.inverse import AbstractInverse, RowOperator, inverse
from jaxgeo.linalg.tangents import attach, freeze


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

    def __check_init__(self):
        check_count("rank", self.rank)
        check_count("seed", self.seed, least=0)
        check_count("batch_size", self.batch_size)

    def __call__(self, gram: lx.AbstractLinearOperator, shift: Float[Array, ""]) -> "NystromInverse":
        """The preconditioner for G + `shift`."""
        shape, dtype = gram.out_structure().shape, gram.out_structure().dtype
        test = self.test(gram.out_size(), dtype)
        sketch = jax.lax.map(
            lambda column: gram.mv(column.reshape(shape)).reshape(-1),
            test.T,
            batch_size=min(self.batch_size, test.shape[1]),
        ).T
        return self.from_sketch(test, sketch, shift)

    def test(self, size: int, dtype: jnp.dtype) -> Float[Array, "n rank"]:
        """Random orthonormal columns."""
        shape = (size, min(self.rank, size))
        return jnp.linalg.qr(jax.random.normal(jax.random.key(self.seed), shape, dtype))[0]

    def from_sketch(
        self, test: Float[Array, "n rank"], sketch: Float[Array, "n rank"], shift: Float[Array, ""]
    ) -> "NystromInverse":
        """The preconditioner for G + `shift`, from `sketch`, the products of G with `test`."""
        # A shift by round-off makes the core positive definite; it is taken off the eigenvalues again.
        noise = float(jnp.finfo(sketch.dtype).eps) * len(sketch) ** 0.5 * jnp.linalg.norm(sketch)
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

    def __call__(self, rows: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        flat = rows.reshape(-1)
        return (flat + self.basis @ ((self.weights - 1) * (self.basis.T @ flat))).reshape(rows.shape)


class CG(AbstractLiftSolver):
    """D⁺v = Dᵀψ, with (DDᵀ + λ)ψ = v by preconditioned conjugate gradients. For QN too large for a Gram matrix.

    Paper: (1.23), (2.2)

    Each step is one JVP and one VJP, or a product with G where that is held: over a mesh by block rows, each device
    those of its samples, so that it takes (QN)²/devices numbers and is never brought together. Whether the tolerance
    was reached shows in the residual of the report, not in its outcome. For K ≥ QN and full rank, or with damping.

    **Arguments:**

    - `rtol`: residual relative to v to stop at.
    - `max_steps`: steps to stop at.
    - `preconditioner`: None for none.
    - `hold_gram`: form G once, in the parameters' dtype. Cheaper where a step through the network costs more than
        reading G, and many are needed.

    **Raises:** `ValueError` on a tolerance, a count or a preconditioner that is none.
    """

    rtol: float = 1e-6
    max_steps: int = eqx.field(static=True, default=1000)
    preconditioner: Nystrom | None = Nystrom()
    hold_gram: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        check_positive("rtol", self.rtol)
        check_count("max_steps", self.max_steps)
        check_flag("hold_gram", self.hold_gram)
        if self.preconditioner is not None:
            check_kind("preconditioner", self.preconditioner, Nystrom, "a `jaxgeo.linalg.Nystrom()` or None")

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
        still, constant = freeze((jacobian, jnp.zeros((), velocity.dtype) if shift is None else shift))
        gram = Gram(still)
        if self.hold_gram:
            gram = lx.FunctionLinearOperator(_HeldGram(gram.as_matrix()), gram.in_structure())
        prepared = None if self.preconditioner is None else self.preconditioner(gram, constant)
        inner = _ConjugateGradients(gram, constant, freeze(prepared), self.rtol, self.max_steps)
        psi, steps = inner.iterate(freeze(velocity))
        carrier = inverse(RowOperator(jacobian, jnp.ones((), velocity.dtype)), inner, shift, velocity)
        return jacobian.T.mv(attach(psi, carrier)), jnp.asarray(SOLVED, jnp.int32), steps


class _HeldGram(eqx.Module):
    """Products with G as a matrix."""

    matrix: Float[Array, "n n"]

    def __call__(self, rows: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        product = jnp.matmul(self.matrix, rows.reshape(-1), precision=jax.lax.Precision.HIGHEST)
        return product.reshape(rows.shape)


class _ConjugateGradients(AbstractInverse):
    """(G + λ)⁻¹."""

    gram: lx.AbstractLinearOperator
    shift: Float[Array, ""]
    preconditioner: NystromInverse | None
    rtol: float
    max_steps: int = eqx.field(static=True)

    @property
    def spectral(self) -> Bool[Array, ""]:
        return jnp.zeros((), bool)

    def iterate(self, rows: Float[Array, "N Q"]) -> tuple[Float[Array, "N Q"], Array]:
        """The solution, and the number of steps."""
        structure = self.gram.out_structure()
        operator = self.gram + self.shift * lx.IdentityLinearOperator(structure)
        # A shift by a traced number loses the tag.
        operator = lx.TaggedLinearOperator(operator, lx.positive_semidefinite_tag)
        options = {}
        if self.preconditioner is not None:
            tag = lx.positive_semidefinite_tag
            options["preconditioner"] = lx.FunctionLinearOperator(self.preconditioner, structure, tag)
        # lineax stops by absolute and relative tolerances together; on the scale of v they are the same.
        size = jnp.sqrt(jnp.mean(rows**2))
        unit = jnp.where(size > 0, size, jnp.ones_like(size))
        # Going on from the exact residual every few steps, lineax' default, can make the steps in float32 diverge.
        tolerance = self.rtol / 2
        solver = lx.CG(tolerance, tolerance, norm=optx.rms_norm, stabilise_every=None, max_steps=self.max_steps)
        found = lx.linear_solve(operator, rows / unit, solver, options=options, throw=False)
        return found.value * unit, found.stats["num_steps"]

    def apply(self, rhs: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return self.iterate(rhs)[0]

    def complement(self, rhs: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return jnp.zeros_like(rhs)


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


def mean_eigenvalue(jacobian: Jacobian) -> Float[Array, ""]:
    """trace(DDᵀ)/QN, without DDᵀ."""
    return Gram(jacobian).trace() / jacobian.out_size()
