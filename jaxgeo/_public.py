"""The public names of the top level, which `jaxgeo` loads when one of them is first used."""

from jaxgeo._names import show_public_names as _show_public_names
from jaxgeo.costs import (
    L2 as L2,
    AbstractCost as AbstractCost,
    Arctan as Arctan,
    Cauchy as Cauchy,
    Huber as Huber,
    SampleWeighted as SampleWeighted,
    SoftL1 as SoftL1,
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
from jaxgeo.linalg.lifting import lift as lift
from jaxgeo.problem import Problem as Problem, residual_problem as residual_problem, supervised as supervised
from jaxgeo.sharding import shard_samples as shard_samples

_show_public_names(globals(), within="jaxgeo")
