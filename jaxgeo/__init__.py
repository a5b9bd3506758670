"""jaxgeo: networks trained by the geometry of their outputs."""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxgeo import (
        geometry as geometry,
        integrate as integrate,
        linalg as linalg,
        metrics as metrics,
        optim as optim,
        theory as theory,
    )
    from jaxgeo._public import *  # noqa: F403
    from jaxgeo.geometry import RankReport as RankReport, rank_report as rank_report

__version__ = importlib.metadata.version("jaxgeo")

_MODULES = ("geometry", "integrate", "linalg", "metrics", "optim", "theory")


def __getattr__(name: str) -> Any:
    """What `import jaxgeo` leaves until it is asked for: JAX and all that stands on it."""
    if name in _MODULES:
        return importlib.import_module(f"jaxgeo.{name}")
    home = "geometry" if name in ("RankReport", "rank_report") else "_public"
    if not name.startswith("_"):
        found = vars(importlib.import_module(f"jaxgeo.{home}"))
        if name in found:
            return found[name]
    raise AttributeError(f"module 'jaxgeo' has no attribute '{name}'")


def __dir__() -> list[str]:
    names = [name for name in vars(importlib.import_module("jaxgeo._public")) if not name.startswith("_")]
    return sorted([*globals(), *_MODULES, "RankReport", "rank_report", *names])
