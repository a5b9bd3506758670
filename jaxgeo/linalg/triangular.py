"""The Cholesky factorisation UᵀU, solves with U, and the extreme eigenvalues of UᵀU."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxgeo.linalg.precision import without_tf32

# Up to this size XLA's own solve is as fast, and its program is shorter.
LEAST_SIZE = 1024
NUM_BLOCKS = 8


def upper_cholesky(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """U with `matrix` = UᵀU; entries below the diagonal of `matrix` are not read.

    The upper triangle by rows is the lower one by columns, the order of LAPACK, so nothing is transposed in memory.
    """
    return jax.lax.linalg.cholesky(matrix.T, symmetrize_input=False).T


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


@without_tf32
def extreme_eigenvalues(upper: Float[Array, "n n"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Estimates of the smallest eigenvalue of UᵀU, from above, and the largest, from below, by power iterations."""

    def step(_: Int[Array, ""], carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        low, high, _, _ = carry
        low = cholesky_solve(upper, low)
        high = (upper @ high) @ upper
        shrink, grow = jnp.linalg.norm(low), jnp.linalg.norm(high)
        return low / shrink, high / grow, 1 / shrink, grow

    # Any fixed vector that favours no direction works.
    start = jnp.asarray(np.random.default_rng(0).standard_normal(len(upper)) / len(upper) ** 0.5, upper.dtype)
    one = jnp.ones((), upper.dtype)
    _, _, smallest, largest = jax.lax.fori_loop(0, 5, step, (start, start, one, one))
    return smallest, largest


def _solve(upper: Float[Array, "m m"], rhs: Float[Array, " m"], *, transpose: bool) -> Float[Array, " m"]:
    """U⁻¹ or U⁻ᵀ times a vector, as LAPACK sees it: by columns of the lower triangle."""
    return jax.lax.linalg.triangular_solve(
        upper.T, rhs[:, None], left_side=True, lower=True, transpose_a=not transpose
    )[:, 0]
