"""D, G = DDᵀ and D⁺: the one room where anything is inverted."""

from jaxgeo.linalg.jacobian import Jacobian as Jacobian
from jaxgeo.linalg.lift import lift as lift
from jaxgeo.linalg.solvers import (
    SVD as SVD,
    AbstractLiftSolver as AbstractLiftSolver,
    GramCholesky as GramCholesky,
    QR as QR,
)
