"""Tables: networks of a linear path and a few hidden units, trained and weighted by their evidence."""

from jaxgeo._names import show_public_names
from jaxgeo.tabular.ensemble import Ensemble
from jaxgeo.tabular.model import TableModel
from jaxgeo.tabular.plan import plan_networks

__all__ = ["Ensemble", "TableModel", "plan_networks"]
show_public_names(globals())
