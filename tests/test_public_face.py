"""What type checkers see of `jaxgeo` is what exists: a misspelt name is an error, and no name is missing."""

import ast
import importlib
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

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
                names |= set(dir(importlib.import_module(statement.module)))
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
    with pytest.raises(AttributeError, match="suprvised.*did you mean .supervised"):
        _ = jg.suprvised


MODULES = [name for name in dir(jg) if isinstance(getattr(jg, name), ModuleType)]
PACKAGES = ["jaxgeo", *(found.name for found in pkgutil.walk_packages([str(PACKAGE)], "jaxgeo.") if found.ispkg)]
REFERENCE = "\n".join(page.read_text(encoding="utf-8") for page in (PACKAGE.parent / "docs" / "api").glob("*.md"))


def test_each_module_of_the_reference_is_an_attribute():
    named = set(re.findall(r"^::: jaxgeo\.([a-z]+)\b", REFERENCE, re.MULTILINE))
    assert len(named) > 8
    assert {name for name in named if isinstance(getattr(jg, name), ModuleType)} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_dir_of_a_module_shows_public_names_only(name):
    module = getattr(jg, name)
    shown = dir(module)
    assert shown
    assert [each for each in shown if each.startswith("_")] == []
    assert name == "app" or not any(isinstance(getattr(module, each), ModuleType) for each in shown)


@pytest.mark.parametrize("name", PACKAGES)
def test_nothing_has_the_name_of_a_module_beside_it(name):
    package = importlib.import_module(name)
    (folder,) = map(Path, package.__path__)
    files = {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert [each for each in dir(package) if each in files and not isinstance(getattr(package, each), ModuleType)] == []


def test_a_saved_run_is_loaded_by_its_folder(tmp_path):
    runs.write(tmp_path / "run")
    found = jg.load(tmp_path / "run")
    assert eqx.tree_equal(found.model, runs.network())
    assert found.summary["outcome"] == "reached"
    assert [row["s"] for row in found.metrics] == [row["s"] for row in runs.rows()]
    task = runs.task()
    rows = task.inputs.invert(task.test_inputs)
    expected = task.outputs.invert(jax.vmap(runs.network())(jnp.asarray(task.inputs.apply(rows))))[:, 0]
    np.testing.assert_allclose(jg.load(str(tmp_path / "run")).predict(rows), expected, rtol=1e-12)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="^[^(]* is not the folder of a run: there is no config.toml"):
        jg.load(tmp_path)
