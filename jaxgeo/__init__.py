"""jaxgeo: networks trained by the geometry of their outputs."""

import importlib.metadata
from typing import TYPE_CHECKING, Any

from jaxgeo import integrate as integrate, linalg as linalg, metrics as metrics, theory as theory
from jaxgeo.costs import (
    L2 as L2,
    AbstractCost as AbstractCost,
    Huber as Huber,
    SampleWeighted as SampleWeighted,
    SoftmaxCrossEntropy as SoftmaxCrossEntropy,
    SumOfSquares as SumOfSquares,
    WeightedL2 as WeightedL2,
)
from jaxgeo.flows import (
    AbstractFlow as AbstractFlow,
    AdaptedFlow as AdaptedFlow,
    HomotopyFlow as HomotopyFlow,
    InterpolationFlow as InterpolationFlow,
    OutputFlow as OutputFlow,
    OverparametrizedFlow as OverparametrizedFlow,
    RankAdaptiveFlow as RankAdaptiveFlow,
    StandardFlow as StandardFlow,
    UnderparametrizedFlow as UnderparametrizedFlow,
)
from jaxgeo.integrate import (
    RESULTS as RESULTS,
    ConditionAbove as ConditionAbove,
    FlowSolution as FlowSolution,
    GradientBelow as GradientBelow,
    OrbitCorrector as OrbitCorrector,
    OutputController as OutputController,
    RankBelow as RankBelow,
    TrappingBelow as TrappingBelow,
    solve_flow as solve_flow,
    solve_interpolation as solve_interpolation,
    solve_output_flow as solve_output_flow,
)
from jaxgeo.linalg.lift import lift as lift
from jaxgeo.problem import Problem as Problem, residual_problem as residual_problem, supervised as supervised

if TYPE_CHECKING:
    from jaxgeo import geometry as geometry, optim as optim
    from jaxgeo.geometry import RankReport as RankReport, rank_report as rank_report

__version__ = importlib.metadata.version("jaxgeo")


def __getattr__(name: str) -> Any:
    """What `import jaxgeo` leaves until it is asked for, as it takes a tenth of the time of the import and more."""
    if name in ("geometry", "optim"):
        return importlib.import_module(f"jaxgeo.{name}")
    if name in ("RankReport", "rank_report"):
        return vars(importlib.import_module("jaxgeo.geometry"))[name]
    raise AttributeError(f"module 'jaxgeo' has no attribute '{name}'")
