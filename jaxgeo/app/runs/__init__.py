"""Runs of the command line: their settings, the folder in which one is kept, and how it is loaded back."""

from jaxgeo._names import show_public_names as _show_public_names
from jaxgeo.app.runs.config import Config as Config
from jaxgeo.app.runs.run import Run as Run, load as load

_show_public_names(globals())
