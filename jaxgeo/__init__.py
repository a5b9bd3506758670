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
    from jaxgeo.training import fit as fit

__version__ = importlib.metadata.version("jaxgeo")

_MODULES = ("geometry", "integrate", "linalg", "metrics", "optim", "problems", "theory")


def __getattr__(name: str) -> Any:
    """What `import jaxgeo` leaves until it is asked for: JAX and all that stands on it."""
    if name in _MODULES:
        # Also where one of them is imported first, and asks for another before the public names are there.
        return importlib.import_module(f"jaxgeo.{name}")
    if name in ("RankReport", "rank_report"):
        return vars(importlib.import_module("jaxgeo.geometry"))[name]
    if name == "fit":
        return importlib.import_module("jaxgeo.training").fit
    if not name.startswith("_"):
        # The other modules, which this loads, become attributes by themselves.
        globals().update(_public_names())
        if name in globals():
            return globals()[name]
    raise AttributeError(f"module 'jaxgeo' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*_MODULES, "RankReport", "rank_report", "fit", *_public_names(), *globals()})


def _public_names() -> dict[str, Any]:
    found = vars(importlib.import_module("jaxgeo._public"))
    return {name: value for name, value in found.items() if not name.startswith("_")}
