"""The lift on the side of the columns: by a factorisation of DᵀD, of size K, whatever QN is."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.precision import in_dtype
from jaxgeo.linalg.solvers.base import AbstractLiftSolver, Damping, LiftInfo
from jaxgeo.linalg.solvers.cutoff import AbstractCutoff, SmoothCutoff
from jaxgeo.linalg.solvers.factor import Factor, Factorise
from jaxgeo.linalg.solvers.sides import finish_columns, freeze, gram_dtype, gram_floor, relative_shift
from jaxgeo.problem import Block, Problem


class NormalCholesky(AbstractLiftSolver):
    """D⁺v = (DᵀD)⁻¹Dᵀv by a Cholesky factorisation of DᵀD. For K < QN, where D does not fit in memory.

    Paper: (5.2)

    DᵀD and Dᵀv are summed over chunks of samples, without damping in float64; D is never held. One refinement
    against v − Dθ̇ follows. cond(DᵀD) = cond(D)²: beyond cond(D) about 1e6, eigenvalues and a smooth cut-off take
    over; `QR` and `DenseCholesky` reach further where D fits.

    **Arguments:**

    - `chunk_size`: samples whose rows of D are held at a time.
    - `gram_dtype`, `cutoff`, `max_decomposition`: as for `GramCholesky`.
    """

    chunk_size: int = eqx.field(static=True, default=128)
    gram_dtype: jnp.dtype | None = eqx.field(static=True, default=None)
    cutoff: AbstractCutoff = SmoothCutoff()
    max_decomposition: int = eqx.field(static=True, default=4096)

    def solve(
        self, jacobian: Jacobian, velocity: Float[Array, "N Q"], damping: Damping = None
    ) -> tuple[PyTree, LiftInfo]:
        dtype = gram_dtype(jacobian, damping, self.gram_dtype)
        still, aim, shift = freeze((jacobian, velocity, relative_shift(jacobian, damping, rows=False)))
        gram, image = normal_equations(still, aim, dtype, self.chunk_size)
        factorise = Factorise(self.cutoff, gram_floor(jacobian, dtype), self.max_decomposition)
        factor, _ = in_dtype(factorise, dtype)(gram, shift, jnp.ones((), aim.dtype))
        flat = in_dtype(_first, dtype)(factor, image, jnp.ones((), aim.dtype))
        value = jacobian.unravel(flat)
        if shift is None:
            # Through v − Dθ̇ the correction has an error of cond(D)·eps; from DᵀD alone it would be cond(D)².
            correction = factor.apply(still.T.mv((aim - still.mv(value)) / factor.root))
            refined = jax.tree.map(lambda leaf, step: leaf + step / factor.root, value, correction)
            eps = float(jnp.finfo(aim.dtype).eps)
            # In float32 the products are less exact than the first solution, which came from float64.
            value = refined if eps < 1e-10 else value
        return finish_columns(jacobian, velocity, damping, factor, value)


def _first(factor: Factor, image: Float[Array, " K"], out: Float[Array, ""]) -> Float[Array, " K"]:
    root = factor.root.astype(image.dtype)
    return (factor.apply(image) / root / root).astype(out.dtype)


def normal_equations(
    jacobian: Jacobian, velocity: Float[Array, "N Q"], dtype: jnp.dtype, chunk_size: int
) -> tuple[Float[Array, "K K"], Float[Array, " K"]]:
    """DᵀD and Dᵀv, summed in `dtype` over chunks of samples."""
    size = jacobian.in_size()
    gram, image = in_dtype(_Zeros(size, dtype), dtype)()
    start = 0
    flat = velocity.reshape(-1)
    for block in jacobian.problem.blocks:
        rows = block.num_samples * eqx.filter_eval_shape(block.rows, _params(jacobian), block.sample()).size
        part = flat[start : start + rows].reshape(block.num_samples, -1)
        start += rows
        whole = block.num_samples // chunk_size * chunk_size

        def add(carry: tuple[Array, Array], chunk: tuple[PyTree, Array], block: Block = block) -> tuple:
            matrix = _rows(jacobian, block, chunk[0])
            return in_dtype(_add, dtype)(*carry, matrix, chunk[1].reshape(-1)), None

        if whole:
            chunks = jax.tree.map(
                lambda leaf, whole=whole: leaf[:whole].reshape(-1, chunk_size, *leaf.shape[1:]), (block.inputs, part)
            )
            (gram, image), _ = jax.lax.scan(add, (gram, image), chunks)
        if whole < block.num_samples:
            rest = jax.tree.map(lambda leaf, whole=whole: leaf[whole:], (block.inputs, part))
            (gram, image), _ = add((gram, image), rest)
    return gram, image


class _Zeros(eqx.Module):
    size: int = eqx.field(static=True)
    dtype: jnp.dtype = eqx.field(static=True)

    def __call__(self) -> tuple[Float[Array, "K K"], Float[Array, " K"]]:
        return jnp.zeros((self.size, self.size), self.dtype), jnp.zeros(self.size, self.dtype)


def _add(
    gram: Float[Array, "K K"],
    image: Float[Array, " K"],
    matrix: Float[Array, "rows K"],
    velocity: Float[Array, " rows"],
) -> tuple[Float[Array, "K K"], Float[Array, " K"]]:
    matrix, velocity = matrix.astype(gram.dtype), velocity.astype(gram.dtype)
    product = jnp.matmul(matrix.T, matrix, precision=jax.lax.Precision.HIGHEST)
    return gram + product, image + matrix.T @ velocity


def _params(jacobian: Jacobian) -> PyTree:
    return eqx.combine(jacobian.trainable, jacobian.frozen)


def _rows(jacobian: Jacobian, block: Block, inputs: PyTree) -> Float[Array, "rows K"]:
    """The rows of D of some samples of a block."""
    part: Problem = eqx.tree_at(
        lambda problem: problem.blocks,
        jacobian.problem,
        (eqx.tree_at(lambda block: block.inputs, block, inputs),),
    )
    return eqx.tree_at(lambda jacobian: jacobian.problem, jacobian, part).as_matrix()
