"""Typed fields: write and read settings in TOML, and check the JSON of a run before it is used."""

import math
import re
import reprlib
import tomllib
import types
import typing
from collections.abc import Mapping
from typing import Any

from jaxgeo._names import did_you_mean

# Of control characters TOML's text may hold none, not even DEL.
_ESCAPES = {code: f"\\u{code:04x}" for code in (*range(32), 127, *map(ord, '"\\'))}

# How a value is shown that may be long or nested deeply.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80

# Settings as text, in bytes: `tomllib` takes the square of some of them in time and memory.
MOST_BYTES = 2**16
# Comments and text, each to its end or to that of the line or the file, so that no character is looked at twice.
_TEXT = re.compile(
    r"""\#[^\n]*+
    |\"\"\"(?:[^\"\\]|\\.|\"(?!\"\"))*+(?:\"\"\")? | \'\'\'(?:[^\']|\'(?!\'\'))*+(?:\'\'\')?
    |\"(?:[^\"\\\n]|\\[^\n])*+\"? | \'[^\'\n]*+\'?""",
    re.DOTALL | re.VERBOSE,
)
# A name of ten parts. Each part takes all that it can and gives nothing back.
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

    **Raises:** `ValueError` if `text` is not TOML or too long, or a name or the type of a value is another.
    """
    if len(text.encode()) > MOST_BYTES:
        raise ValueError(f"the settings take {len(text.encode())} bytes, and may take {MOST_BYTES}.")
    if _DOTTED.search(_TEXT.sub("x", text)):
        raise ValueError("not TOML that can be meant: a name has many parts with dots between them.")
    try:
        fields = tomllib.loads(text)
    except RecursionError:
        raise ValueError("not TOML that can be meant: its brackets are nested too deeply.") from None
    except ValueError as error:
        raise ValueError(f"not TOML: {str(error)[:200]}; each line is NAME = VALUE, with text in quotes.") from None
    for name in fields:
        if name not in kinds:
            raise ValueError(f"there is no setting {_SHORT.repr(name)}{did_you_mean(name, list(kinds))}")
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
    """`value` with lists as tuples; `ValueError` unless it is of this kind.

    Goes as deep as the kind, however deep the value is nested.
    """
    allowed = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    for each in allowed:
        if _fits(value, each):
            return _with_tuples(value, each)
    wanted = " or ".join(_describe(each) for each in allowed if each is not type(None))
    raise ValueError(f"{name} must be {wanted}; got {_SHORT.repr(value)}.")


def _with_tuples(value: Any, kind: Any) -> Any:
    origin, inner = typing.get_origin(kind), (*typing.get_args(kind), None)
    if origin is dict:
        return {name: _with_tuples(each, inner[1]) for name, each in value.items()}
    if origin is tuple and typing.get_origin(inner[0]) is not None:
        return tuple(_with_tuples(each, inner[0]) for each in value)
    return tuple(value) if origin is tuple else value


def _fits(value: Any, kind: Any) -> bool:
    origin, inner = typing.get_origin(kind), (*typing.get_args(kind), None)
    if origin is tuple:
        return isinstance(value, list | tuple) and all(_fits(each, inner[0]) for each in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(each, inner[1]) for each in value.values())
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
