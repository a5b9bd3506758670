"""jaxgeo: networks trained by the geometry of their outputs."""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING

__version__ = importlib.metadata.version("jaxgeo")

if TYPE_CHECKING:
    from jaxgeo import (
        app as app,
        costs as costs,
        equations as equations,
        estimators as estimators,
        fitting as fitting,
        flows as flows,
        geometry as geometry,
        integrate as integrate,
        linalg as linalg,
        metrics as metrics,
        optim as optim,
        theory as theory,
        uncertainty as uncertainty,
    )
    from jaxgeo._public import *  # noqa: F403
    from jaxgeo.app.runs import load as load
    from jaxgeo.fitting import fit as fit
    from jaxgeo.geometry import RankReport as RankReport, rank_report as rank_report
    from jaxgeo.uncertainty import curve_fit as curve_fit, posterior as posterior
else:
    # At run time modules are loaded on first use: the command line must first set the number of OpenBLAS threads, and
    # `import jaxgeo` stays fast. Type checkers read the imports above, so a misspelt name is an error.
    _MODULES = (
        "app",
        "costs",
        "equations",
        "estimators",
        "fitting",
        "flows",
        "geometry",
        "integrate",
        "linalg",
        "metrics",
        "optim",
        "theory",
        "uncertainty",
    )
    _NAMES = {
        "RankReport": "geometry",
        "curve_fit": "uncertainty",
        "fit": "fitting",
        "load": "app.runs",
        "posterior": "uncertainty",
        "rank_report": "geometry",
    }

    def __getattr__(name):
        if name in _MODULES:
            # Before the public names: a module that is imported first may need another while they are not there yet.
            return importlib.import_module(f"jaxgeo.{name}")
        if name in _NAMES:
            return vars(importlib.import_module(f"jaxgeo.{_NAMES[name]}"))[name]
        if not name.startswith("_") and name in (found := _public_names()):
            globals().update(found)
            return found[name]
        from jaxgeo._names import did_you_mean

        raise AttributeError(f"module 'jaxgeo' has no attribute {name!r}{did_you_mean(name, __dir__())}")

    def __dir__():
        return sorted({"__version__", *_MODULES, *_NAMES, *_public_names()})

    def _public_names():
        public = importlib.import_module("jaxgeo._public")
        return {name: vars(public)[name] for name in dir(public)}
