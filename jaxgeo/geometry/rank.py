"""Rank and conditioning of D, and so of DDᵀ, at a point."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxgeo._checks import is_count
from jaxgeo.geometry.dense import dense_jacobian
from jaxgeo.linalg.gram.gram import Gram
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.spectra import (
    gram_floor,
    left_singular,
    numerical_rank,
    of_gram,
    round_off,
    singular_values,
)
from jaxgeo.outputs import Params
from jaxgeo.problem import Problem

# Up to this many entries, D itself is decomposed; beyond, DDᵀ is.
MOST_ENTRIES = 2**24


@dataclass(frozen=True)
class RankReport:
    """The spectrum of DDᵀ (of DᵀD if K < QN) at a point.

    - `num_rows`: QN. `num_params`: K.
    - `rank`: how many singular values of D are above `cutoff` times the largest.
    - `cutoff`: round-off in σ/σ₁: eps·√max(QN, K) of the dtype if D was decomposed, and about 1e-7 if DDᵀ was.
    - `eigenvalues`: the min(QN, K) largest eigenvalues of DDᵀ, largest first: the squared singular values of D.
    - `weak`: the share of each output in the weakest directions, of shape (N, Q), with sum 1. These are the directions
        that D does not reach or, if it reaches all, the direction of the smallest singular value.
    """

    num_rows: int
    num_params: int
    rank: int
    cutoff: float
    eigenvalues: NDArray[np.float64]
    weak: NDArray[np.float64]

    @property
    def full_rank(self) -> bool:
        """Whether rank(D) = min(QN, K)."""
        return self.rank == min(self.num_rows, self.num_params)

    @property
    def regime(self) -> str:
        """How K compares with QN."""
        if self.num_params == self.num_rows:
            return "borderline"
        return "overparametrized" if self.num_params > self.num_rows else "underparametrized"

    @property
    def condition(self) -> float:
        """The largest eigenvalue of DDᵀ over the smallest that counts towards the rank; the square of cond(D)."""
        return float(self.eigenvalues[0] / self.eigenvalues[self.rank - 1]) if self.rank else float("inf")

    @property
    def gap(self) -> float:
        """The smallest singular value that counts over the largest that does not, or over the cut-off if all count.

        If the gap is large, the rank is certain; if it is near 1, the rank depends on the cut-off.
        """
        if not self.rank:
            return float("inf")
        values = np.sqrt(self.eigenvalues)
        below = self.cutoff * values[0] if self.full_rank else values[self.rank]
        return float(values[self.rank - 1] / below) if below > 0 else float("inf")

    @property
    def effective_rank(self) -> float:
        """(Σλ)² / Σλ², the number of equal eigenvalues with the same sum and sum of squares."""
        total = self.eigenvalues.sum() ** 2
        return float(total / np.sum(self.eigenvalues**2)) if total > 0 else 0.0

    @property
    def weak_samples(self) -> NDArray[np.float64]:
        """The share of each sample in the weakest directions, of shape (N,). Sum over a class to get its share."""
        return self.weak.sum(axis=1)

    @property
    def weak_outputs(self) -> NDArray[np.float64]:
        """The share of each of the Q outputs, such as classes, in the weakest directions."""
        return self.weak.sum(axis=0)

    def __str__(self) -> str:
        return (
            f"QN = {self.num_rows}, K = {self.num_params}, rank(D) = {self.rank} of "
            f"{min(self.num_rows, self.num_params)}, cond(DDᵀ) = {self.condition:.3g}"
        )


def rank_report(problem: Problem, params: Params) -> RankReport:
    """Rank, condition number, spectrum and weakest directions of DDᵀ at `params`.

    Paper: (2.1), (2.12), (4.1), (5.1)

    Uses the singular values of D, which are accurate down to about eps·σ₁. If D has more than 2²⁴ entries, it uses the
    eigenvalues of DDᵀ in float64 instead, which resolve about 1e-7·σ₁. If QN is too large for that, see
    `spectrum_estimate`.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: a @ x, jnp.array([[1.0, 0.0], [2.0, 0.0]]), jg.L2(jnp.zeros(2)))
    >>> report = jg.rank_report(problem, jnp.zeros(2))
    >>> report.rank, report.weak_samples.round(6).tolist()
    (1, [0.8, 0.2])

    ```
    """
    problem.check(params)
    rows, columns = problem.num_rows(params), problem.num_params(params)
    if rows * columns <= MOST_ENTRIES:
        dense = dense_jacobian(problem, params)
        shape = dense.outputs.shape
        left, values = left_singular(dense.matrix)
        cutoff = round_off((rows, columns), dense.dtype)
        rank = numerical_rank(values, (rows, columns), dense.dtype)
    else:
        jacobian = problem.jacobian(params)
        shape = jacobian.outputs.shape
        left, values, cutoff = _decompose_gram(jacobian)
        rank = int(np.sum(values > cutoff * values[0]))
    # The part outside the first `rank` left vectors; there may be fewer than QN of these vectors if K < QN.
    kept = left[:, :rank] if rank < rows else left[:, : rank - 1]
    weak = np.maximum(1 - np.sum(kept**2, axis=1), 0)
    weak = (weak / weak.sum()).reshape(shape)
    return RankReport(rows, columns, rank, cutoff, values**2, weak)


def _decompose_gram(jacobian: Jacobian) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    double = jnp.dtype(jnp.float64)
    left, values = of_gram(np.asarray(Gram(jacobian).as_matrix(double)))
    count = min(jacobian.out_size(), jacobian.in_size())
    return left[:, :count], values[:count], gram_floor(jacobian, double)


def partial_ranks(
    problem: Problem, params: Params, counts: Sequence[int], order: NDArray[np.integer] | None = None
) -> NDArray[np.int64]:
    """The rank of Σ_{j ≤ k} |∂x/∂θ_j|² e_j e_jᵀ, the first k of the K terms of DDᵀ, for each k in `counts`.

    Paper: (2.12); Prop. 2.2, (2.14), for independent directions

    e_j is the direction of ∂x/∂θ_j, a column of D. If the e_j were independent draws from a distribution on the sphere
    with a density, the rank would be min(k, QN) with probability 1.

    **Arguments:**

    - `counts`: the numbers k of terms.
    - `order`: a permutation of 0…K − 1; by default the order of the columns of D.

    **Raises:** `ValueError` unless all counts are integers from 0 to K.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: a @ x, jnp.eye(2, 3), jg.L2(jnp.zeros(2)))
    >>> jg.geometry.partial_ranks(problem, jnp.zeros(3), [1, 2, 3]).tolist()
    [1, 2, 2]

    ```
    """
    dense = dense_jacobian(problem, params)
    size = dense.matrix.shape[1]
    if not isinstance(counts, Iterable) or not all(is_count(count, 0) and count <= size for count in counts):
        raise ValueError(f"`counts` must be integers from 0 to K={size}; got {counts!r}.")
    columns = dense.matrix if order is None else dense.matrix[:, order]
    found = []
    for count in counts:
        part = columns[:, :count]
        found.append(numerical_rank(singular_values(part), (len(part), count), dense.dtype) if count else 0)
    return np.asarray(found, np.int64)
