"""Singular values of D and its numerical rank, computed on the host for reports and checks, not inside flows."""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxgeo.linalg.jacobian import Jacobian


def singular_values(jacobian: Jacobian) -> NDArray[np.float64]:
    """All min(QN, K) singular values of D, largest first, in float64.

    A QR factorisation of the tall side comes first: it leaves the values unchanged, where forming DDᵀ would
    square the condition number.
    """
    matrix = np.asarray(jacobian.as_matrix(), dtype=np.float64)
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    return np.linalg.svd(np.linalg.qr(tall, mode="r"), compute_uv=False)


def numerical_rank(values: NDArray[np.float64], shape: tuple[int, int], dtype: jnp.dtype) -> int:
    """How many singular values stand above the round-off of D's entries: eps · √max(QN, K) · the largest.

    Paper: (4.1)

    Independent relative errors eps in the entries of a matrix perturb its singular values by about that much.

    **Arguments:**

    - `values`: the singular values of D, largest first.
    - `shape`: (QN, K).
    - `dtype`: the dtype that D was computed in.
    """
    cutoff = jnp.finfo(dtype).eps * max(shape) ** 0.5
    return int(np.sum(values > cutoff * values[0]))


def check_rank(jacobian: Jacobian, required: int) -> None:
    """Raise `ValueError` if rank(D) < `required`, the smaller side of D.

    A Cholesky factorisation of the Gram matrix on that side answers most cases; only where a pivot is near
    round-off are the singular values computed.
    """
    matrix = np.asarray(jacobian.as_matrix(), dtype=np.float64)
    small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    pivots = np.diagonal(np.asarray(jax.scipy.linalg.cholesky(small @ small.T, lower=True)))
    if np.isfinite(pivots).all() and pivots.min() ** 2 > 100 * required * jnp.finfo(pivots.dtype).eps * pivots.max() ** 2:
        return
    dtype = jacobian.outputs.dtype
    rank = numerical_rank(singular_values(jacobian), matrix.shape, dtype)
    if rank < required:
        rows, params = matrix.shape
        raise ValueError(
            f"rank(D) is {rank} (in {dtype}), but this flow needs {required}, with QN={rows} outputs and "
            f"K={params} parameters. Use `RankAdaptiveFlow`; or remove duplicate samples, or change the network "
            "or its initialisation."
        )
