"""Rank loss, watched while a flow runs."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgeo.linalg.gram import Gram
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.precision import in_dtype
from jaxgeo.linalg.solvers.sides import data_floor, gram_floor
from jaxgeo.outputs import AbstractProblem, Params


class RankRecord(NamedTuple):
    """The rank of D at one moment of a flow.

    - `rank`: how many singular values of D stand above round-off.
    - `smallest`: the smallest of those, relative to the largest.
    - `gap`: that one over the next, which counts as zero; infinite where none is left.
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

    Singular values are those of D where it has up to 2²⁴ entries, and else square roots of the eigenvalues of DDᵀ
    in float64, which cannot tell singular values below about 1e-7 of the largest from zero.

    **Arguments:**

    - `s`: flow time, which does not matter.

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
        matrix = matrix.astype(jnp.float64)
        if self.squared:
            values, vectors = jnp.linalg.eigh(matrix)
            values, vectors = jnp.sqrt(jnp.maximum(values, 0))[::-1], vectors[:, ::-1]
        elif matrix.shape[0] < matrix.shape[1]:
            # The triangle has the singular values and left vectors of the wide D.
            vectors, values, _ = jnp.linalg.svd(jnp.linalg.qr(matrix.T, mode="r").T)
        else:
            vectors, values, _ = jnp.linalg.svd(matrix, full_matrices=False)
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
