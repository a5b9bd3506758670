"""The default: a solver chosen by the problem."""

from jaxtyping import Array, Float, PyTree

from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.solvers.base import AbstractLiftSolver, Damping, LiftInfo
from jaxgeo.linalg.solvers.dense import QR
from jaxgeo.linalg.solvers.rows import GramCholesky


class Auto(AbstractLiftSolver):
    """A Cholesky factorisation of DDᵀ for K ≥ QN, and QR of D for K < QN."""

    def select(self, jacobian: Jacobian) -> AbstractLiftSolver:
        """The solver that `solve` will use."""
        return GramCholesky() if jacobian.in_size() >= jacobian.out_size() else QR()

    def solve(
        self, jacobian: Jacobian, velocity: Float[Array, "N Q"], damping: Damping = None
    ) -> tuple[PyTree, LiftInfo]:
        return self.select(jacobian).solve(jacobian, velocity, damping)
