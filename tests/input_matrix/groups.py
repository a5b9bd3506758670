"""The groups of the table by name; each is a module with a function of that name, which makes its entries."""

import importlib

from input_matrix.cells import Entry

NAMES = (
    "costs",
    "problems",
    "integrators",
    "algebra",
    "optimizers",
    "geometry",
    "theory",
    "ready",
    "training",
    "restrained",
    "estimators",
)


def group(name: str) -> list[Entry]:
    """The entries of a group; the others are not even loaded."""
    return getattr(importlib.import_module(f"input_matrix.{name}"), name)()
