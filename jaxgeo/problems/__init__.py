"""Ready problems: data split into training and held-out rows, with a network of a fitting size."""

from jaxgeo.problems.digits import digits as digits
from jaxgeo.problems.network import Network as Network, choose_hidden as choose_hidden
from jaxgeo.problems.table import Table as Table, read_table as read_table
from jaxgeo.problems.tabular import table_task as table_task
from jaxgeo.problems.task import Kind as Kind, Scaling as Scaling, Task as Task
