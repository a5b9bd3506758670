"""The lift on the side of the columns: by a factorisation of DᵀD, of size K, whatever QN is."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo._checks import check_count
from jaxgeo.linalg.jacobian import Jacobian, sample_rows
from jaxgeo.linalg.precision import in_dtype
from jaxgeo.linalg.shards import on_shards, replicated, sharded
from jaxgeo.linalg.solvers.base import AbstractLiftSolver, Damping, LiftInfo
from jaxgeo.linalg.solvers.cutoff import AbstractCutoff, SmoothCutoff, check_factoring
from jaxgeo.linalg.solvers.factorisation import Factorisation, Factorise
from jaxgeo.linalg.solvers.sides import finish_columns, gram_dtype, relative_shift
from jaxgeo.linalg.spectra import gram_floor
from jaxgeo.linalg.tangents import freeze
from jaxgeo.outputs import Block


class NormalCholesky(AbstractLiftSolver):
    """D⁺v = (DᵀD)⁻¹Dᵀv by a Cholesky factorisation of DᵀD. For K < QN, where D does not fit in memory.

    Paper: (5.2)

    DᵀD and Dᵀv are summed over chunks of samples, without damping in float64; D is never held. One refinement
    against v − Dθ̇ follows. cond(DᵀD) = cond(D)²: beyond cond(D) about 1e6, eigenvalues and a smooth cut-off take
    over; `QR` and `DenseCholesky` reach further where D fits.

    **Arguments:**

    - `chunk_size`: samples whose rows of D are held at a time.
    - `dtype`, `cutoff`, `max_decomposition`: as for `GramCholesky`.
    """

    chunk_size: int = eqx.field(static=True, default=128)
    dtype: jnp.dtype | None = eqx.field(static=True, default=None)
    cutoff: AbstractCutoff = SmoothCutoff()
    max_decomposition: int = eqx.field(static=True, default=4096)

    def __check_init__(self):
        check_count("chunk_size", self.chunk_size)
        check_count("max_decomposition", self.max_decomposition, least=0)
        check_factoring(self.cutoff, "dtype", self.dtype)

    def solve(
        self, jacobian: Jacobian, velocity: Float[Array, "N Q"], damping: Damping = None
    ) -> tuple[PyTree, LiftInfo]:
        dtype = gram_dtype(jacobian, damping, self.dtype)
        still, aim, shift = freeze((jacobian, velocity, relative_shift(jacobian, damping, rows=False)))
        normal = normal_equations(still, aim, dtype, self.chunk_size)
        factor, value = self.solve_normal(still, normal, shift)
        if shift is None:
            # Through v − Dθ̇ the correction has an error of cond(D)·eps; from DᵀD alone it would be cond(D)².
            correction = factor.apply(still.T.mv((aim - still.mv(value)) / factor.sqrt_mean))
            refined = jax.tree.map(lambda leaf, step: leaf + step / factor.sqrt_mean, value, correction)
            eps = float(jnp.finfo(aim.dtype).eps)
            # In float32 the products are less exact than the first solution, which came from float64.
            value = refined if eps < 1e-10 else value
        return finish_columns(jacobian, velocity, damping, factor, value)

    def solve_normal(
        self, jacobian: Jacobian, normal: tuple[Float[Array, "K K"], Float[Array, " K"]], shift: Float[Array, ""] | None
    ) -> tuple[Factorisation, PyTree]:
        """A factor of DᵀD, and (DᵀD/t + μ)⁻¹Dᵀv/t, from DᵀD and Dᵀv.

        `jacobian` may be that of a part of the samples.
        """
        gram, image = normal
        dtype, one = gram.dtype, jnp.ones((), jacobian.outputs.dtype)
        factorise = Factorise(self.cutoff, gram_floor(jacobian, dtype), self.max_decomposition)
        factor, _ = in_dtype(factorise, dtype)(gram, shift, one)
        return factor, jacobian.unravel(in_dtype(_first, dtype)(factor, image, one))


def _first(factor: Factorisation, image: Float[Array, " K"], out: Float[Array, ""]) -> Float[Array, " K"]:
    sqrt_mean = factor.sqrt_mean.astype(image.dtype)
    return (factor.apply(image) / sqrt_mean / sqrt_mean).astype(out.dtype)


def normal_equations(
    jacobian: Jacobian, velocity: Float[Array, "N Q"], dtype: jnp.dtype, chunk_size: int
) -> tuple[Float[Array, "K K"], Float[Array, " K"]]:
    """DᵀD and Dᵀv, summed in `dtype` over chunks of samples; on a mesh each device sums over its own."""
    total = in_dtype(_Zeros(jacobian.in_size(), dtype), dtype)()
    start = 0
    flat = velocity.reshape(-1)
    params = (jacobian.trainable, jacobian.frozen)
    for block in jacobian.problem.blocks:
        height = eqx.filter_eval_shape(block.rows, eqx.combine(*params), block.sample()).size
        part = flat[start : start + block.num_samples * height].reshape(block.num_samples, -1)
        start += part.size
        function = (block.apply, block.scale)
        add = _SumOverChunks(dtype, chunk_size, jacobian.in_size())
        if block.num_shards == 1:
            found = add((params, function, (block.inputs, part, None)))
        else:
            counted = jnp.arange(block.num_samples + block.padding) < block.num_samples
            samples = (block.inputs, block.pad(part), counted)
            specs = (replicated(params), replicated(function), sharded(samples, block))
            found = on_shards(add, block, (params, function, samples), specs, summed=True)
        total = in_dtype(Plus(), dtype)(total, found)
    return total


class _SumOverChunks(eqx.Module):
    """DᵀD and Dᵀv of some samples of one block; what is not `counted` among them is padding."""

    dtype: jnp.dtype = eqx.field(static=True)
    chunk_size: int = eqx.field(static=True)
    size: int = eqx.field(static=True)

    def __call__(self, argument: tuple[PyTree, tuple, tuple]) -> tuple[Float[Array, "K K"], Float[Array, " K"]]:
        params, (apply, scale), samples = argument
        num_samples = len(samples[1])
        whole = num_samples // self.chunk_size * self.chunk_size

        def add(carry: tuple[Array, Array], chunk: tuple) -> tuple:
            inputs, velocity, counted = chunk
            matrix = sample_rows(Block(apply, inputs, scale), *params)
            if counted is not None:
                matrix = jnp.where(jnp.repeat(counted, velocity.shape[1])[:, None], matrix, 0)
            return in_dtype(_add, self.dtype)(*carry, matrix, velocity.reshape(-1)), None

        total = in_dtype(_Zeros(self.size, self.dtype), self.dtype)()
        if whole:
            chunks = jax.tree.map(lambda leaf: leaf[:whole].reshape(-1, self.chunk_size, *leaf.shape[1:]), samples)
            total, _ = jax.lax.scan(add, total, chunks)
        if whole < num_samples:
            total, _ = add(total, jax.tree.map(lambda leaf: leaf[whole:], samples))
        return total


class Plus(eqx.Module):
    """The sum of two pytrees, for `in_dtype`."""

    def __call__(self, left: PyTree, right: PyTree) -> PyTree:
        return jax.tree.map(jnp.add, left, right)


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
