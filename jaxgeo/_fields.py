"""Fields that check their values: `tol: float = eqx.field(metadata=POSITIVE)` in a class that is `Checked`."""

import dataclasses
from collections.abc import Callable
from typing import Any, get_args

import equinox as eqx

from jaxgeo._checks import MOST, check_count, check_function, check_kind, check_number, check_positive


class Checked(eqx.Module):
    """A module that checks its fields when it is made, and names the field in the error; traced values pass.

    None passes if the type of the field allows it. Values that `eqx.tree_at`, `jax.jit` and `jax.vmap` put in are not
    checked.
    """

    def __check_init__(self):
        for field in dataclasses.fields(self):
            value = vars(self)[field.name]
            if "check" in field.metadata and not (value is None and type(None) in get_args(field.type)):
                field.metadata["check"](field.name, value)


def by(check: Callable[[str, Any], Any]) -> dict[str, Any]:
    """Metadata of a field that `check(name, value)` checks."""
    return {"check": check}


def number(*, above: float | None = None, least: float | None = None, most: float = MOST) -> dict[str, Any]:
    """Metadata of a field for a number, > `above`, ≥ `least` and ≤ `most`."""
    bounds = {"above": above, "least": least, "most": most}
    given = {name: bound for name, bound in bounds.items() if bound is not None}
    return by(lambda name, value: check_number(name, value, **given))


def count(least: int = 1) -> dict[str, Any]:
    """Metadata of a field for an integer of at least `least`."""
    return by(lambda name, value: check_count(name, value, least))


def kind(kind: type, wanted: str) -> dict[str, Any]:
    """Metadata of a field for an instance of `kind`, which the error describes as "a metric, such as …"."""
    return by(lambda name, value: check_kind(name, value, kind, wanted))


POSITIVE = by(check_positive)
NOT_NEGATIVE = number(least=0)
COUNT = count()
FUNCTION = by(check_function)
