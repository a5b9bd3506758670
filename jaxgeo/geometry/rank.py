"""Rank and conditioning of D, and so of DDᵀ, at a point."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jaxgeo.linalg.spectrum import numerical_rank, singular_values
from jaxgeo.problem import Params, Problem


@dataclass(frozen=True)
class RankReport:
    """Spectrum of DDᵀ (of DᵀD where K < QN) at a point.

    - `num_rows`: QN. `num_params`: K.
    - `rank`: how many singular values of D stand above round-off.
    - `eigenvalues`: the min(QN, K) largest eigenvalues of DDᵀ, largest first: the squared singular values of D.
    """

    num_rows: int
    num_params: int
    rank: int
    eigenvalues: NDArray[np.float64]

    @property
    def full_rank(self) -> bool:
        """Whether rank(D) = min(QN, K)."""
        return self.rank == min(self.num_rows, self.num_params)

    @property
    def condition(self) -> float:
        """Largest eigenvalue of DDᵀ over the smallest one that counts towards the rank; the square of cond(D)."""
        return float(self.eigenvalues[0] / self.eigenvalues[self.rank - 1]) if self.rank else float("inf")

    def __str__(self) -> str:
        return (
            f"QN = {self.num_rows}, K = {self.num_params}, rank(D) = {self.rank} of "
            f"{min(self.num_rows, self.num_params)}, cond(DDᵀ) = {self.condition:.3g}"
        )


def rank_report(problem: Problem, params: Params) -> RankReport:
    """Rank, condition number and spectrum of DDᵀ at `params`, from the singular values of the dense D.

    Paper: (2.12), (4.1)

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: a @ x, jnp.array([[1.0, 0.0], [2.0, 0.0]]), jg.L2(jnp.zeros(2)))
    >>> jg.rank_report(problem, jnp.zeros(2)).rank
    1

    ```
    """
    jacobian = problem.jacobian(params)
    values = singular_values(jacobian)
    shape = (jacobian.out_size(), jacobian.in_size())
    rank = numerical_rank(values, shape, jacobian.outputs.dtype)
    return RankReport(shape[0], shape[1], rank, values**2)
