"""Every public name is in the API reference, with its arguments, shapes, errors and equations."""

import ast
import enum
import importlib
import inspect
import re
from pathlib import Path

import pytest

import jaxgeo

ROOT = Path(__file__).parents[1]
MODULES = (
    "costs",
    "metrics",
    "flows",
    "integrate",
    "linalg",
    "optim",
    "geometry",
    "equations",
    "fitting",
    "app.data",
    "app.runs",
    "theory",
    "estimators",
    "uncertainty",
)
REFERENCE = "\n".join(page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs" / "api").glob("*.md")))
# Explained once, at the head of the reference.
COMMON = {"problem", "params"}


def exported(module) -> list[str]:
    """What a package's `__init__` re-exports as itself, or a module defines, without the names that start with _."""
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    names = [
        alias.asname
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    ]
    names += [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return [name for name in names if not name.startswith("_")]


def public() -> dict[str, object]:
    """Classes and functions by the shortest name that users have for them."""
    found = {name: getattr(jaxgeo, name) for name in dir(jaxgeo) if not name.startswith("_")}
    for name in MODULES:
        module = importlib.import_module(f"jaxgeo.{name}")
        found |= {f"{name}.{each}": getattr(module, each) for each in exported(module)}
    ours = {name: value for name, value in found.items() if callable(value) and value.__module__.startswith("jaxgeo")}
    shortest = {}
    for name, value in sorted(ours.items(), key=lambda item: item[0].count(".")):
        shortest.setdefault(id(value), (name, value))
    internal = ("validate_data", "check_weights", "AbstractEstimator")
    return {name: value for name, value in shortest.values() if name.rpartition(".")[2] not in internal}


PUBLIC = public()
NAMED = set(re.findall(r"^::: (\S+)$", REFERENCE, re.MULTILINE))


def in_reference(value: object) -> bool:
    """Whether one of the names in the reference is this object, or the module that it is in."""
    return any(resolve(name) is value for name in NAMED) or value.__module__ in NAMED


def resolve(name: str) -> object:
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ImportError:
            continue
        for part in parts[end:]:
            found = getattr(found, part)
        return found
    raise AssertionError(f"{name} is in the reference and nowhere else")


def arguments(value: object) -> list[inspect.Parameter]:
    if inspect.isclass(value) and (issubclass(value, enum.Enum) or inspect.isabstract(value)):
        return []
    try:
        found = inspect.signature(value).parameters.values()
    except ValueError:
        return []
    return [each for each in found if each.name not in COMMON]


def documentation(value: object) -> str:
    """Its docstring, with those of the names it refers to for the arguments that are the same there."""
    text = inspect.getdoc(value) or ""
    for other in re.findall(r"(?:as for|those of) `(?:jaxgeo\.)?([\w.]+)`", text):
        same = [each for name, each in PUBLIC.items() if name.rpartition(".")[2] == other and each is not value]
        text += "".join(inspect.getdoc(each) or "" for each in same)
        text += "".join(documentation(each) for each in same if "as for `" in (inspect.getdoc(each) or ""))
    return text


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_documented(name):
    value = PUBLIC[name]
    assert in_reference(value), f"add `::: jaxgeo.{name}` to a page of docs/api"
    text = documentation(value)
    assert text
    assert [each.name for each in arguments(value) if f"`{each.name}`" not in text] == []
    bare = [each.name for each in arguments(value) if str(each.annotation).endswith("ArrayLike")]
    assert not bare or re.search(r"shape|\(N|vector|increasing|number", text), f"say the shapes of {bare}"


@pytest.mark.parametrize("name", PUBLIC)
def test_what_it_raises_is_documented(name):
    value = PUBLIC[name]
    own = [vars(value).get(each) for each in ("__init__", "__check_init__")] if inspect.isclass(value) else [value]
    sources = []
    for each in own:
        try:
            sources.append(inspect.getsource(inspect.unwrap(each)))
        except (TypeError, OSError):
            continue
    if any(re.search(r"^\s*raise \w+Error", source, re.MULTILINE) for source in sources):
        assert "**Raises:**" in (inspect.getdoc(value) or "")


@pytest.mark.parametrize("name", [name for name in PUBLIC if inspect.isclass(PUBLIC[name])])
def test_public_methods_are_documented(name):
    value = PUBLIC[name]
    methods = {
        key: getattr(value, key) for key, member in vars(value).items() if not key.startswith("_") and callable(member)
    }
    assert [key for key, method in methods.items() if not inspect.getdoc(method)] == []


def test_the_public_names_were_read():
    assert len(PUBLIC) > 100
