"""The singular values of D, its left singular vectors, and how many of the values are more than round-off.

Each function takes NumPy arrays and then runs on the host, in float64 whatever the settings of JAX; or it takes JAX
arrays and runs inside a program. A QR factorisation of the tall side comes first. It keeps the singular values, whereas
forming DDᵀ squares the condition number. On the host DDᵀ is formed all the same, and answers if it is
well-conditioned: this takes about half the time.
"""

from types import ModuleType
from typing import overload

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from jaxgeo._checks import check_positive
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.triangular import extreme_eigenvalues

# Up to this cond(D), eigenvectors of DDᵀ are as good as left singular vectors: their errors, of eps·cond(D)², only
# count by their squares in the lengths of the rows of UᵀD.
MOST_CONDITION = 1e4


def data_floor(jacobian: Jacobian) -> float:
    """The round-off in σ/σ_max that D itself carries, see `round_off`."""
    return round_off((jacobian.out_size(), jacobian.in_size()), jacobian.outputs.dtype)


def round_off(shape: tuple[int, int], dtype: jnp.dtype) -> float:
    """eps · √max(QN, K), relative to the largest singular value.

    Independent relative errors eps in the entries of a matrix perturb its singular values by about that much.

    **Arguments:**

    - `shape`: (QN, K).
    - `dtype`: the dtype that D was computed in.
    """
    return float(jnp.finfo(dtype).eps) * max(shape) ** 0.5


def gram_floor(jacobian: Jacobian, dtype: jnp.dtype) -> float:
    """The round-off in σ/σ_max of lifts that use a Gram matrix in `dtype` and products with D.

    The Gram matrix only resolves the square root of its own round-off. And if ψ is of size |v|/σ², Dᵀψ has errors of
    eps·σ_max/σ² in the parameters' dtype, which refinement only removes for σ/σ_max above the square root of eps.
    """
    size = min(jacobian.out_size(), jacobian.in_size())
    formed = (4 * float(jnp.finfo(dtype).eps) * size**0.5) ** 0.5
    projected = float(jnp.finfo(jacobian.outputs.dtype).eps) ** 0.5
    return max(data_floor(jacobian), formed, projected)


def numerical_rank(values: NDArray[np.float64], shape: tuple[int, int], dtype: jnp.dtype) -> int:
    """How many singular values, largest first, are above the round-off of D's entries.

    Paper: (4.1)

    **Arguments:**

    - `shape`, `dtype`: as for `round_off`.
    """
    return int(np.sum(values > round_off(shape, dtype) * values[0]))


def count_above(values: NDArray[np.floating], rtol: float) -> int:
    """How many singular values, largest first, are above `rtol` times the largest."""
    check_positive("rtol", rtol)
    return int(np.sum(values > rtol * values[0]))


@overload
def singular_values(matrix: NDArray[np.floating]) -> NDArray[np.floating]: ...
@overload
def singular_values(matrix: Float[Array, "QN K"]) -> Float[Array, " rank"]: ...
def singular_values(matrix):
    """All min(QN, K) singular values of D, largest first."""
    if (found := _by_gram(matrix)) is not None:
        return found[1]
    xp = _library(matrix)
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    return xp.linalg.svd(xp.linalg.qr(tall, mode="r"), compute_uv=False)


@overload
def left_singular(matrix: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.floating]]: ...
@overload
def left_singular(matrix: Float[Array, "QN K"]) -> tuple[Float[Array, "QN rank"], Float[Array, " rank"]]: ...
def left_singular(matrix):
    """The left singular vectors of D, as columns, and its singular values, largest first."""
    if matrix.shape[0] <= matrix.shape[1] and (found := _by_gram(matrix)) is not None:
        return found
    xp = _library(matrix)
    if matrix.shape[0] < matrix.shape[1]:
        left, values, _ = xp.linalg.svd(xp.linalg.qr(matrix.T, mode="r").T)
        return left, values
    basis, triangle = xp.linalg.qr(matrix)
    left, values, _ = xp.linalg.svd(triangle)
    return basis @ left, values


def _by_gram(
    matrix: NDArray[np.floating] | Array,
) -> tuple[NDArray[np.floating], NDArray[np.floating]] | None:
    """Left singular vectors and singular values of the wide side by DDᵀ; None in JAX, or if not certainly accurate."""
    if not isinstance(matrix, np.ndarray) or matrix.dtype != np.float64 or not matrix.size:
        return None
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    with np.errstate(over="ignore", invalid="ignore"):
        gram = wide @ wide.T
    if not 1e-200 < np.max(np.diag(gram)) < 1e200:
        return None
    left, values = of_gram(gram)
    if not values[-1] * MOST_CONDITION > values[0]:
        return None
    rows = left.T @ wide
    values = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    order = np.argsort(-values)
    return left[:, order], values[order]


@overload
def of_gram(gram: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.floating]]: ...
@overload
def of_gram(gram: Float[Array, "QN QN"]) -> tuple[Float[Array, "QN QN"], Float[Array, " QN"]]: ...
def of_gram(gram):
    """The same from the eigenvalues of DDᵀ, which lose singular values below about 1e-7 of the largest."""
    xp = _library(gram)
    eigenvalues, left = xp.linalg.eigh(gram)
    return left[:, ::-1], xp.sqrt(xp.maximum(eigenvalues[::-1], 0))


def reciprocal_condition(triangle: Float[Array, "K K"]) -> Float[Array, ""]:
    """σ_min/σ_max of an upper triangular matrix, within a factor of about 2, without a decomposition; 0 if singular."""
    size = jnp.max(jnp.abs(triangle))
    smallest, largest = extreme_eigenvalues(triangle / jnp.where(size > 0, size, 1))
    ratio = jnp.sqrt(smallest / largest)
    return jnp.where(jnp.isfinite(ratio), ratio, 0)


def _library(matrix: NDArray[np.floating] | Array) -> ModuleType:
    return np if isinstance(matrix, np.ndarray) else jnp
