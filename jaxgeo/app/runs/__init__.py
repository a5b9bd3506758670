"""Runs of the command line: their settings, their folders, and how to load them."""

from jaxgeo._names import show_public_names as _show_public_names
from jaxgeo.app.runs.config import Config as Config
from jaxgeo.app.runs.run import Run as Run, load as load

_show_public_names(globals())
