"""How the lift D⁺v is solved: each solver is an object, passed to the flow that uses it."""

from jaxgeo.linalg.solvers.auto import Auto as Auto
from jaxgeo.linalg.solvers.base import AbstractLiftSolver as AbstractLiftSolver, LiftInfo as LiftInfo
from jaxgeo.linalg.solvers.dense import QR as QR, SVD as SVD
from jaxgeo.linalg.solvers.rows import GramCholesky as GramCholesky, GramEigh as GramEigh, gram_matrix as gram_matrix
