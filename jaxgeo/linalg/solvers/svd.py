"""The lift by a singular value decomposition of the dense D, for D of any rank."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.solvers.base import AbstractLiftSolver, Damping, LiftInfo
from jaxgeo.linalg.solvers.cutoff import AbstractCutoff, HardCutoff, check_factoring
from jaxgeo.linalg.solvers.dense import solve_dense


class SVD(AbstractLiftSolver):
    """D⁺v by a singular value decomposition of D. For D of any rank.

    Paper: (4.1)–(4.3)

    **Arguments:**

    - `cutoff`: which singular values count: `HardCutoff()` for diagnostics, `SmoothCutoff()` for flows.
    - `dtype`: as for `QR`.
    """

    cutoff: AbstractCutoff = HardCutoff()
    dtype: jnp.dtype | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        check_factoring(self.cutoff, "dtype", self.dtype)

    def solve(
        self, jacobian: Jacobian, velocity: Float[Array, "N Q"], damping: Damping = None
    ) -> tuple[PyTree, LiftInfo]:
        return solve_dense(jacobian, velocity, damping, self.cutoff, self.dtype)
