"""The rank of D: recorded while a flow runs, or checked in advance."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxgeo.linalg.faults import check_derivatives
from jaxgeo.linalg.gram.gram import Gram
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.precision import in_dtype
from jaxgeo.linalg.spectra import (
    data_floor,
    gram_floor,
    left_singular,
    numerical_rank,
    of_gram,
    singular_values,
)
from jaxgeo.outputs import AbstractProblem, Params


class RankRecord(NamedTuple):
    """The rank of D at one moment of a flow.

    - `rank`: how many singular values of D are above round-off.
    - `smallest`: the smallest of these, relative to the largest.
    - `gap`: `smallest` over the next singular value, which counts as zero; infinite if there is none.
    - `outside`: |(1 − 𝒫)∇ₓC|² / |∇ₓC|², the share of the output gradient in the lost directions, which no velocity
        of the parameters can follow; 0 for ∇ₓC = 0.
    """

    rank: Int[Array, ""]
    smallest: Float[Array, ""]
    gap: Float[Array, ""]
    outside: Float[Array, ""]


@eqx.filter_jit
def rank_record(s: float | Float[Array, ""], params: Params, problem: AbstractProblem) -> RankRecord:
    """The rank of D, for `solve_flow(..., record=rank_record)`.

    Paper: (4.1), (4.2), (4.7)

    If D has up to 2²⁴ entries, its singular values are computed. Otherwise they are square roots of the eigenvalues of
    DDᵀ in float64, which cannot tell singular values below about 1e-7 of the largest from zero.

    **Arguments:**

    - `s`: flow time, which is not used.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> inputs = jnp.array([[1.0, 0.0], [1.0, 0.0]])
    >>> problem = jg.Problem(lambda a, x: a @ x, inputs, jg.L2(jnp.array([1.0, 3.0])))
    >>> record = jg.linalg.rank_record(0.0, jnp.zeros(2), problem)
    >>> int(record.rank), round(float(record.outside), 12)
    (1, 0.2)

    ```
    """
    del s
    jacobian = Jacobian(problem, params)
    double = jnp.dtype(jnp.float64)
    gradient = problem.loss.gradient(jacobian.outputs).reshape(-1)
    if jacobian.out_size() * jacobian.in_size() <= 2**24:
        return in_dtype(_Judge(data_floor(jacobian), squared=False), double)(jacobian.as_matrix(), gradient)
    judge = _Judge(gram_floor(jacobian, double), squared=True)
    return in_dtype(judge, double)(Gram(jacobian).as_matrix(double), gradient)


class _Judge(eqx.Module):
    floor: float = eqx.field(static=True)
    squared: bool = eqx.field(static=True)

    def __call__(self, matrix: Float[Array, "QN width"], gradient: Float[Array, " QN"]) -> RankRecord:
        vectors, values = (of_gram if self.squared else left_singular)(matrix.astype(jnp.float64))
        kept = values > self.floor * values[0]
        rank = jnp.sum(kept, dtype=jnp.int32)
        ratios = values / jnp.where(values[0] > 0, values[0], 1)
        ends = jnp.append(ratios, 0.0)
        smallest = jnp.where(rank > 0, ratios[jnp.maximum(rank - 1, 0)], 0)
        gap = jnp.where(ends[rank] > 0, smallest / jnp.where(ends[rank] > 0, ends[rank], 1), jnp.inf)
        aim = gradient.astype(jnp.float64)
        aim = aim / jnp.where(jnp.max(jnp.abs(aim)) > 0, jnp.max(jnp.abs(aim)), 1)
        lost = aim - vectors @ jnp.where(kept, vectors.T @ aim, 0)
        size = jnp.sum(aim**2)
        outside = jnp.where(size > 0, jnp.sum(lost**2) / jnp.where(size > 0, size, 1), 0)
        return RankRecord(rank, *(value.astype(gradient.dtype) for value in (smallest, gap, outside)))


def check_rank(problem: AbstractProblem, params: Params, required: int) -> None:
    """Raise `ValueError` if rank(D) < `required`, the smaller side of D.

    A Cholesky factorisation of the Gram matrix on that side settles most cases. The singular values are computed only
    if a pivot is close to round-off.
    """
    gram = np.asarray(_small_gram(problem, params), dtype=np.float64)
    try:
        pivots = np.diagonal(np.linalg.cholesky(gram)) ** 2
    except np.linalg.LinAlgError:
        pivots = np.zeros(1)
    if not np.isfinite(gram).all():
        check_derivatives(problem, params)
    if pivots.min() > 100 * required * np.finfo(np.float64).eps * pivots.max():
        return
    jacobian = Jacobian(problem, params)
    shape, dtype = (jacobian.out_size(), jacobian.in_size()), jacobian.outputs.dtype
    rank = numerical_rank(singular_values(np.asarray(jacobian.as_matrix(), np.float64)), shape, dtype)
    if rank < required:
        raise ValueError(
            f"rank(D) is {rank} (in {dtype}), but this flow needs {required}, with QN={shape[0]} outputs and "
            f"K={shape[1]} parameters. Use `RankAdaptiveFlow`, or Levenberg–Marquardt if you want the lowest cost; or "
            "remove duplicate samples, or change the network or its initialisation."
        )


@eqx.filter_jit
def _small_gram(problem: AbstractProblem, params: Params) -> Float[Array, "n n"]:
    """DDᵀ or DᵀD, whichever is smaller, in float64."""
    jacobian = Jacobian(problem, params)
    if jacobian.out_size() <= jacobian.in_size():
        # Not certified, which takes as long to compile again: the lifts of the flow are, and a refusal goes by D.
        return Gram(jacobian).as_matrix(jnp.dtype(jnp.float64), certify=False)
    with jax.enable_x64(True):
        matrix = jacobian.as_matrix().astype(jnp.float64)
        return matrix.T @ matrix
