"""The lift on the side of the columns, by a factorisation of DᵀD, whose size is K for any QN."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo._checks import check_count
from jaxgeo.linalg.jacobian import Jacobian, sample_rows
from jaxgeo.linalg.precision import in_dtype, without_tf32
from jaxgeo.linalg.shards import on_shards, replicated, sharded
from jaxgeo.linalg.solvers.base import AbstractFactorised, AbstractLiftSolver, Damping, LiftInfo
from jaxgeo.linalg.solvers.cutoff import AbstractCutoff, SmoothCutoff, check_factoring
from jaxgeo.linalg.solvers.derivatives import FactorisedSide
from jaxgeo.linalg.solvers.factorisation import Factorisation, Factorise
from jaxgeo.linalg.solvers.sides import Columns, gram_dtype, over, relative_damping
from jaxgeo.linalg.tangents import freeze
from jaxgeo.outputs import Block


class NormalCholesky(AbstractLiftSolver):
    """D⁺v = (DᵀD)⁻¹Dᵀv by a Cholesky factorisation of DᵀD. For K < QN, if D does not fit in memory.

    Paper: (5.2)

    DᵀD and Dᵀv are summed over chunks of samples, in float64 unless there is damping; D is never held. One refinement
    against v − Dθ̇ follows. As cond(DᵀD) = cond(D)², eigenvalues and a smooth cut-off take over for cond(D) above about
    1e6; `QR` and `DenseCholesky` reach further if D fits.

    **Arguments:**

    - `chunk_size`: the number of samples whose rows of D are held at a time.
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

    def factorise(self, jacobian: Jacobian, damping: Damping = None) -> "_Summed":
        return _Summed(self, jacobian, damping)

    def solve_normal(
        self,
        jacobian: Jacobian,
        normal: tuple[Float[Array, "K K"], Float[Array, " K"]],
        relative_damping: Float[Array, ""] | None,
    ) -> tuple[Factorisation, PyTree]:
        """A factorisation of DᵀD, and (DᵀD/t + μ)⁻¹Dᵀv/t, from DᵀD and Dᵀv.

        `jacobian` may belong to a part of the samples.
        """
        gram, image = normal
        factorise = Factorise(jacobian, self.cutoff, gram.dtype, self.max_decomposition)
        found = factorise.cholesky(gram, relative_damping)
        first = in_dtype(functools.partial(_first, factorise.own), gram.dtype)(found, image)
        return found, jacobian.unravel(first)


class _Summed(AbstractFactorised):
    """D, from which nothing is computed before v is known: one pass over the samples sums DᵀD and Dᵀv."""

    solver: NormalCholesky
    jacobian: Jacobian
    damping: Damping

    @property
    def correct(self) -> None:
        return None

    def lift(self, velocity: Float[Array, "N Q"]) -> tuple[PyTree, LiftInfo]:
        solver, jacobian, damping = self.solver, self.jacobian, self.damping
        still, aim, damped = freeze((jacobian, velocity, relative_damping(Columns, jacobian, damping)))
        normal = normal_equations(still, aim, gram_dtype(jacobian, damping, solver.dtype), solver.chunk_size)
        found, value = solver.solve_normal(still, normal, damped)
        # In float32 the products are less accurate than the first solution, which came from float64.
        if damping is None and float(jnp.finfo(aim.dtype).eps) < 1e-10:
            # Through v − Dθ̇ the error becomes cond(D)·eps; from DᵀD alone it would be cond(D)²·eps.
            correction = found.apply(still.T.mv((aim - still.mv(value)) / found.sqrt_mean))
            value = jax.tree.map(jnp.add, value, over(correction, found.sqrt_mean))
        return FactorisedSide(Columns, jacobian, found, damping).finish(velocity, value)


def _first(own: jnp.dtype, found: Factorisation, image: Float[Array, " K"]) -> Float[Array, " K"]:
    sqrt_mean = found.sqrt_mean.astype(image.dtype)
    return (found.apply(image) / sqrt_mean / sqrt_mean).astype(own)


def normal_equations(
    jacobian: Jacobian, velocity: Float[Array, "N Q"], dtype: jnp.dtype, chunk_size: int
) -> tuple[Float[Array, "K K"], Float[Array, " K"]]:
    """DᵀD and Dᵀv, summed in `dtype` over chunks of samples; on a mesh each device sums over its own."""
    total, start = None, 0
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
        total = found if total is None else in_dtype(add_trees, dtype)(total, found)
    assert total is not None
    return total


class _SumOverChunks(eqx.Module):
    """DᵀD and Dᵀv for some samples of one block; samples that are not `counted` are padding."""

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

        total = in_dtype(self._zeros, self.dtype)()
        if whole:
            chunks = jax.tree.map(lambda leaf: leaf[:whole].reshape(-1, self.chunk_size, *leaf.shape[1:]), samples)
            total, _ = jax.lax.scan(add, total, chunks)
        if whole < num_samples:
            total, _ = add(total, jax.tree.map(lambda leaf: leaf[whole:], samples))
        return total

    def _zeros(self) -> tuple[Float[Array, "K K"], Float[Array, " K"]]:
        return jnp.zeros((self.size, self.size), self.dtype), jnp.zeros(self.size, self.dtype)


# The sum of two pytrees.
add_trees = functools.partial(jax.tree.map, jnp.add)


@without_tf32
def _add(
    gram: Float[Array, "K K"],
    image: Float[Array, " K"],
    matrix: Float[Array, "rows K"],
    velocity: Float[Array, " rows"],
) -> tuple[Float[Array, "K K"], Float[Array, " K"]]:
    matrix, velocity = matrix.astype(gram.dtype), velocity.astype(gram.dtype)
    return gram + matrix.T @ matrix, image + matrix.T @ velocity
