"""D, G = DDᵀ and D⁺. Only this package inverts anything; it works with outputs and their Jacobian, not a `Problem`."""

from jaxgeo._names import show_public_names as _show_public_names
from jaxgeo.linalg.gram import Gram as Gram, GramPlan as GramPlan, LeafPlan as LeafPlan
from jaxgeo.linalg.jacobian import Jacobian as Jacobian
from jaxgeo.linalg.lifting import lift as lift, lift_gradient as lift_gradient
from jaxgeo.linalg.planning import Auto as Auto, LiftPlan as LiftPlan, RoutePlan as RoutePlan
from jaxgeo.linalg.rank import RankRecord as RankRecord, rank_record as rank_record
from jaxgeo.linalg.solvers import (
    CG as CG,
    LSMR as LSMR,
    QR as QR,
    SVD as SVD,
    AbstractFactorised as AbstractFactorised,
    AbstractLiftSolver as AbstractLiftSolver,
    DenseCholesky as DenseCholesky,
    GramCholesky as GramCholesky,
    GramEigh as GramEigh,
    HardCutoff as HardCutoff,
    LiftInfo as LiftInfo,
    NormalCholesky as NormalCholesky,
    Nystrom as Nystrom,
    PriorLift as PriorLift,
    SmoothCutoff as SmoothCutoff,
)
from jaxgeo.linalg.streaming import streamed_lift as streamed_lift

_show_public_names(globals())
