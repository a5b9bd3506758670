"""Costs on output space: C(x) and its output gradient. Only this package knows the factor 1/N of (1.7)."""

from jaxgeo._names import show_public_names as _show_public_names
from jaxgeo.costs.base import AbstractCost as AbstractCost
from jaxgeo.costs.huber import Huber as Huber
from jaxgeo.costs.robust import (
    AbstractRobust as AbstractRobust,
    Arctan as Arctan,
    Cauchy as Cauchy,
    SoftL1 as SoftL1,
)
from jaxgeo.costs.roots import (
    AbstractRoot as AbstractRoot,
    DiagonalRoot as DiagonalRoot,
    SoftmaxRoot as SoftmaxRoot,
    TriangularRoot as TriangularRoot,
    WeightedRoot as WeightedRoot,
)
from jaxgeo.costs.samples import SampleWeighted as SampleWeighted
from jaxgeo.costs.softmax import SoftmaxCrossEntropy as SoftmaxCrossEntropy
from jaxgeo.costs.squares import L2 as L2, SumOfSquares as SumOfSquares
from jaxgeo.costs.weighted import WeightedL2 as WeightedL2

_show_public_names(globals())
