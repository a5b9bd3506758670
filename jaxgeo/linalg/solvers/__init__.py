"""Solvers for the lift D⁺v, one algorithm per file; pass a solver object to the flow or function that uses it."""

from jaxgeo.linalg.solvers.base import (
    AbstractFactorised as AbstractFactorised,
    AbstractLiftSolver as AbstractLiftSolver,
    LiftInfo as LiftInfo,
)
from jaxgeo.linalg.solvers.cg import CG as CG
from jaxgeo.linalg.solvers.cutoff import (
    AbstractCutoff as AbstractCutoff,
    HardCutoff as HardCutoff,
    SmoothCutoff as SmoothCutoff,
)
from jaxgeo.linalg.solvers.dense_cholesky import DenseCholesky as DenseCholesky
from jaxgeo.linalg.solvers.gram_cholesky import GramCholesky as GramCholesky
from jaxgeo.linalg.solvers.gram_eigh import GramEigh as GramEigh
from jaxgeo.linalg.solvers.lsmr import LSMR as LSMR
from jaxgeo.linalg.solvers.normal_cholesky import NormalCholesky as NormalCholesky
from jaxgeo.linalg.solvers.nystrom import Nystrom as Nystrom
from jaxgeo.linalg.solvers.prior import PriorLift as PriorLift
from jaxgeo.linalg.solvers.qr import QR as QR
from jaxgeo.linalg.solvers.svd import SVD as SVD
