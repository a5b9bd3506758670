"""A cell of the table: a call with one argument replaced, and the verdict on what came of it."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np


class Case(NamedTuple):
    """`value` in place of an argument; `refused`: whether working with it would be wrong."""

    value: Any
    refused: bool


class Entry(NamedTuple):
    """`call(**arguments)` with one of the arguments replaced by each of its cases in turn.

    `names`: what a refusal may call the argument, where that is not its own name.
    """

    name: str
    call: Callable[..., Any]
    arguments: Mapping[str, Any]
    cases: Mapping[str, Mapping[str, Case]]
    names: Mapping[str, tuple[str, ...]] = {}


def entry(
    name: str,
    call: Callable[..., Any],
    good: Mapping[str, Any] | None = None,
    /,
    *,
    named: Mapping[str, tuple[str, ...]] | None = None,
    **cases: Mapping[str, Case],
) -> Entry:
    """An `Entry`: which kinds of values go in place of which argument; `named` is its `names`."""
    return Entry(name, call, good or {}, cases, named or {})


def refused(**values: Any) -> dict[str, Case]:
    """Cases that have to be refused, by their kinds with _ for a space."""
    return {kind.rstrip("_").replace("_", " "): Case(value, True) for kind, value in values.items()}


def works(**values: Any) -> dict[str, Case]:
    """Cases that may work, by their kinds with _ for a space."""
    return {kind.rstrip("_").replace("_", " "): Case(value, False) for kind, value in values.items()}


def without(cases: Mapping[str, Case], *kinds: str) -> dict[str, Case]:
    """All but those kinds."""
    return {kind: case for kind, case in cases.items() if kind not in kinds}


def only(cases: Mapping[str, Case], *kinds: str) -> dict[str, Case]:
    """None but those kinds."""
    return {kind: case for kind, case in cases.items() if kind in kinds}


class Unusual(Exception):
    """Raised by a function of the user's."""


class Cell(NamedTuple):
    name: str
    call: Callable[[], Any]
    refused: bool
    names: tuple[str, ...]


def cells(entries: Iterable[Entry]) -> Iterator[Cell]:
    for entry in entries:
        for argument, cases in entry.cases.items():
            for kind, case in cases.items():
                arguments = {**entry.arguments, argument: case.value}

                def call(entry: Entry = entry, arguments: dict[str, Any] = arguments) -> Any:
                    return entry.call(**arguments)

                # As in `params` or `params['w']`.
                names = entry.names.get(argument, (f"`{argument}",))
                yield Cell(f"{entry.name}({argument}: {kind})", call, case.refused, names)


def has_nan(result: Any) -> bool:
    leaves = jax.tree.leaves(result)
    return any(
        np.isnan(np.asarray(leaf, np.complex128)).any() for leaf in leaves if eqx.is_inexact_array_like(leaf)
    ) or any(has_nan(vars(leaf)) for leaf in leaves if type(leaf).__module__.startswith("jaxgeo"))


def judge(cell: Cell) -> tuple[str, str]:
    """The verdict, "works", "refused" or "wrong", and what was seen."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = jax.block_until_ready(cell.call())
    except Unusual as error:
        return "refused", f"the user's own error: {error}"
    except (ValueError, TypeError) as error:
        text = str(error)
        named = any(name in text for name in cell.names)
        return ("refused" if named else "wrong"), f"{type(error).__name__}: {text[:300]}"
    except Exception as error:
        return "wrong", f"{type(error).__name__}: {str(error)[:300]}"
    if has_nan(result):
        return "wrong", "gave NaN"
    return ("wrong", "worked, though nothing sensible can come of it") if cell.refused else ("works", "")
