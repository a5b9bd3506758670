"""Singular values of D and its numerical rank, computed on the host for reports and checks, not inside flows."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from jaxgeo.linalg.gram import Gram
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.outputs import AbstractProblem, Params


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


def check_rank(problem: AbstractProblem, params: Params, required: int) -> None:
    """Raise `ValueError` if rank(D) < `required`, the smaller side of D.

    A Cholesky factorisation of the Gram matrix on that side answers most cases; only where a pivot is near
    round-off are the singular values computed.
    """
    gram = np.asarray(_small_gram(problem, params), dtype=np.float64)
    try:
        pivots = np.diagonal(np.linalg.cholesky(gram)) ** 2
    except np.linalg.LinAlgError:
        pivots = np.zeros(1)
    if pivots.min() > 100 * required * np.finfo(np.float64).eps * pivots.max():
        return
    jacobian = Jacobian(problem, params)
    shape, dtype = (jacobian.out_size(), jacobian.in_size()), jacobian.outputs.dtype
    rank = numerical_rank(singular_values(jacobian), shape, dtype)
    if rank < required:
        raise ValueError(
            f"rank(D) is {rank} (in {dtype}), but this flow needs {required}, with QN={shape[0]} outputs and "
            f"K={shape[1]} parameters. Use `RankAdaptiveFlow`; or remove duplicate samples, or change the network "
            "or its initialisation."
        )


@eqx.filter_jit
def _small_gram(problem: AbstractProblem, params: Params) -> Float[Array, "n n"]:
    """DDᵀ or DᵀD, whichever is smaller, in float64."""
    jacobian = Jacobian(problem, params)
    if jacobian.out_size() <= jacobian.in_size():
        return Gram(jacobian).as_matrix(jnp.dtype(jnp.float64))
    with jax.enable_x64(True):
        matrix = jacobian.as_matrix().astype(jnp.float64)
        return matrix.T @ matrix
