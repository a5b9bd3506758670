"""The leading singular values of D, without a full decomposition."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgeo.linalg.precision import without_tf32
from jaxgeo.linalg.singular import SingularValues
from jaxgeo.linalg.tangents import freeze


def leading_singular_values(
    matrix: Float[Array, "rows K"], counts: tuple[int, ...], choice: Int[Array, ""], key: Array
) -> tuple[SingularValues, Float[Array, ""]]:
    """D ≈ QQᵀD for an orthonormal basis Q of DΩ, Ω Gaussian with `counts[choice]` columns.

    The largest singular values are accurate to about (σ_r/σ)², those close to the last, σ_r, only within a factor; none
    exceeds that of D. This suits spectra that fall fast, and takes two products with D and decompositions of r columns.
    Shapes are those of the largest count, with zeros beyond the chosen one. As many as D has columns are all of them,
    and exact.

    Reference: N. Halko, P. G. Martinsson, J. A. Tropp, Finding structure with randomness, SIAM Review 53, 2011,
        Algorithms 4.1 and 5.1, and Section 4.3 for the estimate

    **Arguments:**

    - `matrix`: D.
    - `counts`: the numbers of columns to choose from, increasing; at most the number of rows and of columns of D.
    - `choice`: the index of the count to use.
    - `key`: for the random numbers.

    **Returns:** the singular values, and an estimate of |D − QQᵀD|, Frobenius, from one more random column.
    """
    frozen = freeze(matrix)
    branches = [
        _decompose if count == matrix.shape[1] else functools.partial(_sketch, count, counts[-1]) for count in counts
    ]
    orthogonal, left, values, right, rest = jax.lax.switch(choice, branches, frozen, key)
    return SingularValues(matrix, None, orthogonal, left, values, right), rest


def _decompose(matrix: Array, key: Array) -> tuple[Array, Array, Array, Array, Array]:
    """The same for all directions, which leaves nothing of D."""
    del key
    orthogonal, triangle = jnp.linalg.qr(matrix)
    left, values, right = jnp.linalg.svd(triangle)
    return orthogonal, left, values, right, jnp.zeros((), matrix.dtype)


@without_tf32
def _sketch(count: int, most: int, matrix: Array, key: Array) -> tuple[Array, Array, Array, Array, Array]:
    """Q, U, the diagonal of Σ and Vᵀ of QᵀD = UΣVᵀ, with zeros up to `most`; and what is left of D."""
    sample = matrix @ jax.random.normal(key, (matrix.shape[1], count + 1), matrix.dtype)
    probe = sample[:, -1]
    orthogonal, _ = jnp.linalg.qr(sample[:, :-1])
    # Orthogonalising twice is enough.
    for _ in range(2):
        probe = probe - orthogonal @ (probe @ orthogonal)
    # QᵀD is wide, so factorise its transpose.
    across, triangle = jnp.linalg.qr((orthogonal.T @ matrix).T)
    left, values, turn = jnp.linalg.svd(triangle.T, full_matrices=False)
    more = most - count
    return (
        jnp.pad(orthogonal, ((0, 0), (0, more))),
        jnp.pad(left, ((0, more), (0, more))),
        jnp.pad(values, (0, more)),
        jnp.pad(turn @ across.T, ((0, more), (0, 0))),
        jnp.linalg.norm(probe),
    )
