"""Typed fields: write and read settings in TOML, and check the JSON of a run before it is used."""

import math
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from typing import Any

from jaxgeo._names import did_you_mean

# Of control characters TOML's text may hold none, not even DEL.
_ESCAPES = {code: f"\\u{code:04x}" for code in (*range(32), 127, *map(ord, '"\\'))}

# Text in quotes, and a name of ten parts. `tomllib` takes the square of their number in time and memory.
_TEXT = re.compile(r"""\"(?:[^\"\\\n]|\\.)*\"|'[^'\n]*'""")
# Each part takes all that it can and gives nothing back: dots with blanks between them are searched once.
_DOTTED = re.compile(r"(?:\.\s*+[\w-]*+\s*+){9}")


def to_toml(fields: Mapping[str, Any]) -> str:
    """Text, numbers, booleans and sequences of them as TOML, one field on each line.

    **Raises:** `ValueError` for text that is not Unicode, which is what a file name may be.

    ```python
    >>> from jaxgeo.app.runs.fields import read_toml, to_toml
    >>> fields = {"name": 'a "b"', "limit": float("inf"), "widths": (8, 8)}
    >>> read_toml(to_toml(fields), {"name": str, "limit": float, "widths": tuple[int, ...]}) == fields
    True

    ```
    """
    return "".join(f"{name} = {_value(name, value)}\n" for name, value in fields.items())


def _value(name: str, value: Any) -> str:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{name} is {value!r}, which is not Unicode text; rename it.") from None
        return f'"{value.translate(_ESCAPES)}"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return f"[{', '.join(_value(name, each) for each in value)}]"
    return repr(value)


def read_toml(text: str, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Some or all of the fields `kinds`, by name; lists are made tuples.

    **Raises:** `ValueError` if `text` is not TOML, or a name or the type of a value is another.
    """
    if _DOTTED.search(_TEXT.sub("x", text)):
        raise ValueError("not TOML that can be meant: a name has many parts with dots between them.")
    try:
        fields = tomllib.loads(text)
    except RecursionError:
        raise ValueError("not TOML that can be meant: its brackets are nested too deeply.") from None
    except ValueError as error:
        raise ValueError(f"not TOML: {error}; each line is NAME = VALUE, with text in quotes.") from None
    for name in fields:
        if name not in kinds:
            raise ValueError(f"there is no setting {name!r}{did_you_mean(name, list(kinds))}")
    return {name: convert(name, value, kinds[name]) for name, value in fields.items()}


def read_fields(found: Any, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """All the fields `kinds` of an object that was read from JSON, where null may stand for NaN.

    **Raises:** `ValueError` if one is missing or of another type.
    """
    if not isinstance(found, dict):
        raise ValueError(f"it holds {type(found).__name__} in place of values by name")
    if missing := [name for name in kinds if name not in found]:
        raise ValueError(f"{', '.join(missing)} missing")
    return {
        name: math.nan if found[name] is None and kind is float else convert(name, found[name], kind)
        for name, kind in kinds.items()
    }


def convert(name: str, value: Any, kind: Any) -> Any:
    """`value` with lists as tuples; `ValueError` unless it is of this kind."""
    allowed = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    value = _with_tuples(value)
    if not any(_fits(value, each) for each in allowed):
        wanted = " or ".join(_describe(each) for each in allowed if each is not type(None))
        shown = repr(value)
        raise ValueError(f"{name} must be {wanted}; got {shown if len(shown) < 80 else shown[:80] + '…'}.")
    return value


def _with_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_tuples(each) for name, each in value.items()}
    return tuple(value) if isinstance(value, list) else value


def _fits(value: Any, kind: Any) -> bool:
    if typing.get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_fits(each, typing.get_args(kind)[0]) for each in value)
    if typing.get_origin(kind) is dict:
        return isinstance(value, dict) and all(_fits(each, typing.get_args(kind)[1]) for each in value.values())
    if kind is bool:
        return isinstance(value, bool)
    # An integer is a number with a fraction too, but for one too large; a boolean is neither.
    if kind is float and isinstance(value, int) and abs(value) >= 2**1000:
        return False
    return isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)


def _describe(kind: Any) -> str:
    if (origin := typing.get_origin(kind)) is not None:
        return f"{'a list' if origin is tuple else 'by name'}, each {_describe(typing.get_args(kind)[origin is dict])}"
    return {bool: "true or false", int: "an integer", float: "a number", str: "text", dict: "values by name"}[kind]
