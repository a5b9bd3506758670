"""What a person runs: data, runs kept in folders, their reports, and the command line. Arrays are `jaxgeo.fit`'s."""

from jaxgeo._names import show_public_names as _show_public_names
from jaxgeo.app import data as data, runs as runs

_show_public_names(globals(), "data", "runs")
