"""D, G = DDᵀ and D⁺: the one room where anything is inverted."""

from jaxgeo.linalg.jacobian import Jacobian as Jacobian
from jaxgeo.linalg.lift import lift as lift, lift_gradient as lift_gradient
from jaxgeo.linalg.solvers import (
    QR as QR,
    SVD as SVD,
    AbstractLiftSolver as AbstractLiftSolver,
    Auto as Auto,
    GramCholesky as GramCholesky,
    LiftInfo as LiftInfo,
)
