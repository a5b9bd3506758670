"""The information by DᵀWD, for few parameters and many samples, whose rows are added chunk by chunk and not kept."""

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import cho_factor, cho_solve, get_lapack_funcs

from jaxgeo.linalg.covariance.base import AbstractInformation, Determined


class Factor:
    """The Cholesky factor of a positive matrix, in units in which its diagonal is 1.

    What round-off has made indefinite gets a growing multiple of 1 on that diagonal.

    **Raises:** `numpy.linalg.LinAlgError` if an entry is not finite, which no multiple would mend.
    """

    def __init__(self, matrix: Float[np.ndarray, "K K"]):
        if not np.isfinite(matrix).all():
            raise np.linalg.LinAlgError("the matrix to factorise has entries that are not finite.")
        diagonal = np.diag(matrix)
        self.units = np.sqrt(np.where(diagonal > 0, diagonal, 1))
        scaled = matrix / self.units[:, None] / self.units
        shift = 0.0
        while True:
            try:
                self.upper = cho_factor(scaled + shift * np.eye(len(scaled)) if shift else scaled, check_finite=False)
                break
            except np.linalg.LinAlgError:
                shift = max(10 * shift, 1e-14)

    def solve(self, right: Float[np.ndarray, "K ..."]) -> Float[np.ndarray, "K ..."]:
        """The matrix's inverse times a vector or several."""
        units = self.units if right.ndim == 1 else self.units[:, None]
        return cho_solve(self.upper, right / units, check_finite=False) / units

    def inverse(self) -> Float[np.ndarray, "K K"]:
        """The inverse."""
        (invert,) = get_lapack_funcs(("potri",), (self.upper[0],))
        found, _ = invert(self.upper[0], lower=self.upper[1])
        upper = np.triu(found)
        return (upper + np.triu(upper, 1).T) / self.units[:, None] / self.units

    @property
    def logdet(self) -> float:
        """The logarithm of the determinant."""
        return 2 * float(np.sum(np.log(np.diag(self.upper[0]))) + np.sum(np.log(self.units)))


class NormalInformation(AbstractInformation):
    """What DᵀWD says about each group of columns."""

    def __init__(self, square: Float[np.ndarray, "K K"], groups: Int[np.ndarray, " K"]):
        self.square, self.groups = square, groups

    @property
    def size(self) -> float:
        return float(np.trace(self.square))

    def determined(self, precisions: Float[np.ndarray, " groups"], beta: float) -> Determined:
        # Measure parameters in units of their prior deviation, so that the prior is 1.
        units = 1 / np.sqrt(precisions)[self.groups]
        scaled = beta * self.square * units[:, None] * units
        scaled[np.diag_indices_from(scaled)] += 1
        factor = Factor(scaled)
        known = -factor.inverse()
        known[np.diag_indices_from(known)] += 1
        members = np.eye(len(precisions))[self.groups]
        return Determined(np.diag(known) @ members, members.T @ known**2 @ members, factor.logdet)
