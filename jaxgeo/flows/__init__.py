"""The vector fields: output velocities, and their lifts to parameter space."""

from jaxgeo._names import show_public_names as _show_public_names
from jaxgeo.flows.base import (
    AbstractFlow as AbstractFlow,
    OutputFlow as OutputFlow,
    StandardFlow as StandardFlow,
    Time as Time,
)
from jaxgeo.flows.families import HomotopyFlow as HomotopyFlow, InterpolationFlow as InterpolationFlow
from jaxgeo.flows.lifted import (
    AbstractLiftedFlow as AbstractLiftedFlow,
    AdaptedFlow as AdaptedFlow,
    OverparametrizedFlow as OverparametrizedFlow,
    RankAdaptiveFlow as RankAdaptiveFlow,
    UnderparametrizedFlow as UnderparametrizedFlow,
)

_show_public_names(globals())
