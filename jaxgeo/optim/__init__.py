"""Flows as optax transformations: drop-in optimizers."""

from jaxgeo._names import show_public_names as _show_public_names
from jaxgeo.optim.agreement import NextBatchDamping as NextBatchDamping
from jaxgeo.optim.bounds import Bounds as Bounds
from jaxgeo.optim.damping import GainRatioDamping as GainRatioDamping
from jaxgeo.optim.endings import (
    Ending as Ending,
    Ends as Ends,
    EndState as EndState,
    Outcome as Outcome,
    Start as Start,
)
from jaxgeo.optim.info import DirectionInfo as DirectionInfo, StepInfo as StepInfo
from jaxgeo.optim.interpolation import linear_interpolation as linear_interpolation
from jaxgeo.optim.levenberg_marquardt import adapted_levenberg_marquardt as adapted_levenberg_marquardt
from jaxgeo.optim.momentum import adapted_momentum as adapted_momentum
from jaxgeo.optim.prior import Prior as Prior, PriorState as PriorState
from jaxgeo.optim.rank_cutoff import RankCutoff as RankCutoff
from jaxgeo.optim.scaling import ColumnScaling as ColumnScaling
from jaxgeo.optim.transforms import (
    adapted_gradient_descent as adapted_gradient_descent,
    scale_by_adapted_metric as scale_by_adapted_metric,
)
from jaxgeo.optim.trust_region import TrustRegion as TrustRegion

_show_public_names(globals())
