"""The lift by a singular value decomposition of the dense D, for D of any rank."""

import equinox as eqx
import jax.numpy as jnp

from jaxgeo.linalg.solvers.base import SOLVED
from jaxgeo.linalg.solvers.cutoff import AbstractCutoff, HardCutoff
from jaxgeo.linalg.solvers.dense import AbstractDenseSolver, DenseMatrix, SingularDecomposition


class SVD(AbstractDenseSolver):
    """D⁺v by a singular value decomposition of D. For D of any rank.

    Paper: (4.1)–(4.3)

    **Arguments:**

    - `cutoff`: which singular values count; `HardCutoff()` for diagnostics, `SmoothCutoff()` for flows.
    - `dtype`: as for `QR`.
    """

    cutoff: AbstractCutoff = HardCutoff()
    dtype: jnp.dtype | None = eqx.field(static=True, default=None)

    def decompose(self, matrix: DenseMatrix, floor: float) -> SingularDecomposition:
        return SingularDecomposition(matrix, self.cutoff, floor, SOLVED)
