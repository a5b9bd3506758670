"""Differential equations: ready ones with known solutions, derivatives for residuals, and networks that solve them."""

from jaxgeo._names import show_public_names as _show_public_names
from jaxgeo.equations.box import Box as Box
from jaxgeo.equations.condition import Condition as Condition
from jaxgeo.equations.derivatives import (
    divergence as divergence,
    gradient as gradient,
    laplacian as laplacian,
    partials as partials,
)
from jaxgeo.equations.equation import Equation as Equation
from jaxgeo.equations.features import Fourier as Fourier, Periodic as Periodic
from jaxgeo.equations.inverse import (
    Inverse as Inverse,
    burgers_inverse as burgers_inverse,
    heat_inverse as heat_inverse,
)
from jaxgeo.equations.network import Network as Network, choose_hidden as choose_hidden
from jaxgeo.equations.ready import (
    burgers_1d as burgers_1d,
    harmonic_10d as harmonic_10d,
    heat_1d as heat_1d,
    heat_4d as heat_4d,
    helmholtz_2d as helmholtz_2d,
    kovasznay_2d as kovasznay_2d,
    log_fokker_planck_9d as log_fokker_planck_9d,
    poisson_2d as poisson_2d,
    poisson_5d as poisson_5d,
    poisson_100d as poisson_100d,
)

_show_public_names(globals())
