"""What type checkers see of `jaxgeo` is what there is: a misspelt name is an error, and no name is missing."""

import ast
import importlib
from pathlib import Path

import pytest

import jaxgeo as jg

PACKAGE = Path(jg.__file__).parent
HOUSE = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))


def seen_by_type_checkers() -> set[str]:
    """The names that the imports under `if TYPE_CHECKING:` give, each written `X as X`, or `*`."""
    (branch,) = (node for node in HOUSE.body if isinstance(node, ast.If))
    assert ast.unparse(branch.test) == "TYPE_CHECKING"
    names = set()
    for statement in branch.body:
        assert isinstance(statement, ast.ImportFrom)
        for alias in statement.names:
            if alias.name == "*":
                found = vars(importlib.import_module(statement.module))
                names |= {name for name in found if not name.startswith("_")}
            else:
                assert alias.asname == alias.name, "pyright takes any other import for a private one"
                names.add(alias.name)
    return names


def test_type_checkers_see_all_names_and_no_others():
    assert seen_by_type_checkers() | {"__version__"} == set(dir(jg))


def test_no_function_answers_for_every_name_to_a_type_checker():
    visible = [node for node in HOUSE.body if isinstance(node, ast.FunctionDef)]
    assert visible == []


@pytest.mark.parametrize("name", dir(jg))
def test_each_name_is_there(name):
    assert getattr(jg, name) is not None


def test_a_misspelt_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="suprvised"):
        _ = jg.suprvised
