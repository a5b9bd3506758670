"""Ready problems: data split into training and held-out rows, and differential equations with a known solution."""

from jaxgeo.problems.derivatives import divergence as divergence, gradient as gradient, laplacian as laplacian
from jaxgeo.problems.digits import digits as digits
from jaxgeo.problems.equations import (
    Equation as Equation,
    burgers_1d as burgers_1d,
    harmonic_10d as harmonic_10d,
    heat_1d as heat_1d,
    heat_4d as heat_4d,
    helmholtz_2d as helmholtz_2d,
    log_fokker_planck_9d as log_fokker_planck_9d,
    poisson_2d as poisson_2d,
    poisson_5d as poisson_5d,
    poisson_100d as poisson_100d,
)
from jaxgeo.problems.network import Network as Network, choose_hidden as choose_hidden
from jaxgeo.problems.table import Table as Table, read_table as read_table
from jaxgeo.problems.tabular import table_task as table_task
from jaxgeo.problems.task import Kind as Kind, Scaling as Scaling, Task as Task
