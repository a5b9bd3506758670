"""Costs on output space: C(x) and its output gradient. The factor 1/N of (1.7) lives here and nowhere else."""

from jaxgeo.costs.base import AbstractCost as AbstractCost
from jaxgeo.costs.squares import L2 as L2, SumOfSquares as SumOfSquares
