"""How the lift D⁺v is solved: each solver is an object, passed to the flow that uses it."""

from jaxgeo.linalg.solvers.auto import Auto as Auto, Choice as Choice
from jaxgeo.linalg.solvers.base import AbstractLiftSolver as AbstractLiftSolver, LiftInfo as LiftInfo
from jaxgeo.linalg.solvers.columns import NormalCholesky as NormalCholesky
from jaxgeo.linalg.solvers.cutoff import (
    AbstractCutoff as AbstractCutoff,
    HardCutoff as HardCutoff,
    SmoothCutoff as SmoothCutoff,
)
from jaxgeo.linalg.solvers.dense import QR as QR, SVD as SVD, DenseCholesky as DenseCholesky
from jaxgeo.linalg.solvers.iterative import CG as CG, LSMR as LSMR, Nystrom as Nystrom
from jaxgeo.linalg.solvers.rows import (
    GramCholesky as GramCholesky,
    GramEigh as GramEigh,
)
