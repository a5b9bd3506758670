"""The Cholesky factorisation UᵀU, solves with U, and the extreme eigenvalues of UᵀU and their ratio."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxgeo._sums import total, totals
from jaxgeo.linalg.precision import without_tf32

# Up to this size XLA's own solve is as fast, and its program is shorter.
LEAST_SIZE = 1024
NUM_BLOCKS = 8
# JAX's LAPACK on a CPU is SciPy's OpenBLAS, whose threads spin while they wait, so that beside another busy process a
# call takes up to hundreds of times as long. It uses one thread to factorise a matrix whose rows have less than 1 KiB,
# and for triangular solves below 1024 entries of the right-hand side.
LEAST_BYTES = 1024
MOST_ENTRIES = 1023
# Up to this |L|·|L⁻¹| of a pivot, over its size, a product with L⁻¹ is about as accurate as LAPACK's factorisation.
MOST_CONDITION = 9.0
# So many power iterations overestimate λ_min by no more than this factor, unless the start is almost orthogonal to its
# eigenvector: a share of 4⁻⁵ along it is enough.
ITERATIONS = 5
OVERESTIMATE = 4.0

# L and L⁻¹ of a block on the diagonal, and whether products with L⁻¹ have to be corrected.
Pivot = tuple[Array, Array, Array]


class Blocks(NamedTuple):
    """How a matrix is divided.

    - `size`: of a block on the diagonal.
    - `a_product`: so many blocks of a column of blocks are updated by one product.
    - `inner`: how blocks on the diagonal are divided in turn, or None if LAPACK factorises them.
    """

    size: int
    a_product: int
    inner: "Blocks | None" = None


BLOCKS = Blocks(64, 4)
# Products of larger blocks take half of the time, but those on the diagonal more.
LARGE_BLOCKS = Blocks(256, 2, BLOCKS)
LEAST_LARGE = 1536


@jax.custom_jvp
def upper_cholesky(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """U with `matrix` = UᵀU; entries below the diagonal of `matrix` are not read, and NaN unless it is positive.

    A CPU computes a large U in blocks, by XLA's own products. LAPACK only factorises blocks on the diagonal, which are
    so small that it stays on one thread.
    """
    if len(matrix) * matrix.dtype.itemsize < LEAST_BYTES:
        return _whole(matrix)
    return jax.lax.platform_dependent(matrix, cpu=_blocked, default=_whole)


@upper_cholesky.defjvp
@without_tf32
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """dU = Φ(U⁻ᵀ dA U⁻¹) U, where Φ takes the upper triangle and half the diagonal.

    Reference: S. F. Walter, Structured higher-order algorithmic differentiation in the forward and reverse mode, 2011,
        section 3.6
    """
    (matrix,), (tangent,) = primals, tangents
    upper = upper_cholesky(matrix)
    above = jnp.triu(tangent, 1)
    moved = above + above.T + jnp.diag(jnp.diagonal(tangent))
    solve = functools.partial(jax.lax.linalg.triangular_solve, upper)
    inner = solve(solve(moved), left_side=True, transpose_a=True)
    halved = jnp.triu(inner) - jnp.diag(jnp.diagonal(inner)) / 2
    return upper, halved @ upper


def _whole(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """By LAPACK. Its order is the lower triangle by columns, the upper one by rows: nothing is transposed in memory."""
    return jax.lax.linalg.cholesky(matrix.T, symmetrize_input=False).T


@without_tf32
def _blocked(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """The same, with blocks of a size that suits the matrix."""
    lower = _by_columns(matrix.T, LARGE_BLOCKS if len(matrix) >= LEAST_LARGE else BLOCKS)
    # As from LAPACK: a pivot that is not positive leaves NaN in the whole triangle.
    return jnp.triu(jnp.where(jnp.isfinite(lower[-1, -1]), lower.T, jnp.nan))


def _by_columns(matrix: Float[Array, "n n"], blocks: Blocks) -> Float[Array, "n n"]:
    """L by columns of blocks, each from those before it.

    Entries of the matrix above the diagonal are not read, and those of the result have no meaning.

    Loops over blocks of one size keep the program short. In L, unlike in U, the product with a transposed matrix has
    the order that XLA's products are fastest in.
    """
    n, dtype = len(matrix), matrix.dtype
    count = -(-n // blocks.size)
    size = -(-n // count)
    rows, chunk = count * size, min(blocks.a_product, count) * size
    # More pivots, of 1, fill the last block; rows of zeros, the last chunk.
    whole = jnp.pad(matrix, (0, rows - n))
    if rows > n:
        whole = jax.lax.dynamic_update_slice(whole, jnp.eye(rows - n, dtype=dtype), (n, n))
    columns = jnp.pad(whole.reshape(rows, count, size).transpose(1, 0, 2), ((0, 0), (0, chunk - size), (0, 0)))

    def part(columns: Array, block: Array, start: Array, length: int) -> Array:
        where = (block, start, jnp.zeros_like(block))
        return jax.lax.dynamic_slice(columns, where, (1, length, size), allow_negative_indices=False)[0]

    def put(columns: Array, block: Array, start: Array, found: Array) -> Array:
        where = (block, start, jnp.zeros_like(block))
        return jax.lax.dynamic_update_slice(columns, found[None], where, allow_negative_indices=False)

    def pivot(found: Pivot, rest: Array) -> Pivot:
        if blocks.inner is None:
            lower = jax.lax.linalg.cholesky(rest[:size], symmetrize_input=False)
        else:
            lower = jnp.tril(_by_columns(rest[:size], blocks.inner))
        inverse = _inverse(lower)
        square, inverse_square = totals(lower**2, inverse**2)
        return lower, inverse, square * inverse_square > (MOST_CONDITION * size) ** 2

    def corrected(solved: Array, rest: Array, lower: Array, inverse: Array) -> Array:
        return solved + (rest - solved @ lower.T) @ inverse.T

    def column(block: Array, columns: Array) -> Array:
        at = block * size

        def below(index: Array, carry: tuple[Array, Pivot]) -> tuple[Array, Pivot]:
            columns, found = carry
            start = at + index * chunk

            def without(before: Array, rest: Array) -> Array:
                return rest - part(columns, before, start, chunk) @ part(columns, before, at, size).T

            rest = jax.lax.fori_loop(0, block, without, part(columns, block, start, chunk))
            lower, inverse, ill = found = jax.lax.cond(index == 0, pivot, lambda found, _: found, found, rest)
            # Corrected once, this is as accurate as a triangular solve.
            solved = rest @ inverse.T
            solved = jax.lax.cond(ill, corrected, lambda solved, *_: solved, solved, rest, lower, inverse)
            return put(columns, block, start, solved), found

        blank = jnp.zeros((size, size), dtype)
        num_chunks = jax.lax.div(rows - at + chunk - 1, jnp.full_like(at, chunk))
        start = columns, (blank, blank, jnp.zeros((), bool))
        columns, (lower, *_) = jax.lax.fori_loop(0, num_chunks, below, start)
        return put(columns, block, at, lower)

    columns = jax.lax.fori_loop(0, count, column, columns)
    return columns[:, :rows].transpose(1, 0, 2).reshape(rows, rows)[:n, :n]


def _inverse(lower: Float[Array, "m m"]) -> Float[Array, "m m"]:
    """L⁻¹ by the inverses of its halves, down to those for which a triangular solve stays on one thread."""
    size = len(lower)
    if size**2 <= MOST_ENTRIES:
        return jax.lax.linalg.triangular_solve(lower, jnp.eye(size, dtype=lower.dtype), left_side=True, lower=True)
    half = size // 2
    first = _inverse(lower[:half, :half])
    # In jaxlib 0.10 two calls of LAPACK for a batch, as from `vmap`, wait for each other without end if they run at
    # once. So the second half depends on the first.
    rest = lower[half:] + 0 * first[-1, -1]
    second = _inverse(rest[:, half:])
    below = -(second @ rest[:, :half]) @ first
    return jnp.block([[first, jnp.zeros((half, size - half), lower.dtype)], [below, second]])


@without_tf32
def cholesky_solve(upper: Float[Array, "n n"], rhs: Float[Array, " n"]) -> Float[Array, " n"]:
    """(UᵀU)⁻¹ times one vector.

    For one right-hand side XLA's triangular solve takes several times as long as a product with U. So a large U is cut
    into blocks: only the diagonal blocks use triangular solves, and the others use products.
    """
    n = len(rhs)
    size = n if n <= LEAST_SIZE else -(-n // NUM_BLOCKS)
    blocks = [slice(start, min(start + size, n)) for start in range(0, n, size)]
    rest, forward = rhs, []
    for here in blocks:
        found = _solve(upper[here, here], rest[: here.stop - here.start], transpose=True)
        forward.append(found)
        rest = rest[len(found) :]
        if len(rest) > 0:
            rest = rest - found @ upper[here, here.stop :]
    backward: list[Array] = []
    for here, aim in zip(reversed(blocks), reversed(forward), strict=True):
        if backward:
            aim = aim - upper[here, here.stop :] @ jnp.concatenate(backward)
        backward.insert(0, _solve(upper[here, here], aim, transpose=False))
    return jnp.concatenate(backward)


def extreme_eigenvalues(upper: Float[Array, "n n"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Estimates of the smallest eigenvalue of UᵀU, from above, and the largest, from below, by power iterations.

    They have no derivatives.
    """
    end = _power_iterations(upper, lambda _: jnp.zeros((), bool))
    return end.smallest, end.largest


def is_well_conditioned(upper: Float[Array, "n n"], least: float | Float[Array, ""]) -> Bool[Array, ""]:
    """Whether λ_min > `least` λ_max by these estimates for UᵀU; False if U is not finite.

    A wide margin takes fewer iterations: after k of them λ_min is overestimated by a factor of c^{-1/k} at most, where
    c is the share of the start along its eigenvector, and λ_max is below the trace.
    """
    trace = total(upper**2)

    def is_clear(now: _Powers) -> Bool[Array, ""]:
        margin = OVERESTIMATE ** (ITERATIONS / jnp.maximum(now.count, 1).astype(upper.dtype) - 1)
        return (now.count > 0) & (now.smallest > margin * least * trace)

    end = _power_iterations(upper, is_clear)
    return jnp.isfinite(end.smallest) & (is_clear(end) | (end.smallest > least * end.largest))


class _Powers(NamedTuple):
    """Vectors close to the eigenvectors of the smallest and largest eigenvalue, and estimates of these."""

    count: Int[Array, ""]
    low: Float[Array, " n"]
    high: Float[Array, " n"]
    smallest: Float[Array, ""]
    largest: Float[Array, ""]


@without_tf32
def _power_iterations(upper: Float[Array, "n n"], is_enough: Callable[[_Powers], Bool[Array, ""]]) -> _Powers:
    upper = jax.lax.stop_gradient(upper)

    def step(now: _Powers) -> _Powers:
        low = cholesky_solve(upper, now.low)
        high = (upper @ now.high) @ upper
        shrink, grow = map(jnp.sqrt, totals(low**2, high**2))
        return _Powers(now.count + 1, low / shrink, high / grow, 1 / shrink, grow)

    # Any fixed vector that favours no direction works.
    drawn = np.random.default_rng(0).standard_normal(len(upper))
    start = jnp.asarray(drawn / np.linalg.norm(drawn), upper.dtype)
    one = jnp.ones((), upper.dtype)
    first = _Powers(jnp.zeros((), jnp.int32), start, start, one, one)
    return jax.lax.while_loop(lambda now: (now.count < ITERATIONS) & ~is_enough(now), step, first)


def _solve(upper: Float[Array, "m m"], rhs: Float[Array, " m"], *, transpose: bool) -> Float[Array, " m"]:
    """U⁻¹ or U⁻ᵀ times a vector, as LAPACK sees it: by columns of the lower triangle."""
    return jax.lax.linalg.triangular_solve(
        upper.T, rhs[:, None], left_side=True, lower=True, transpose_a=not transpose
    )[:, 0]
