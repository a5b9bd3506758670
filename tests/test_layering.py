"""Imports inside jaxgeo run left to right through its rooms, and nothing reaches into a dependency's private parts."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jaxgeo"

# Left to right. A room imports from rooms of a smaller number, and its own
# modules from one another without a circle.
ROOMS = {
    "theory": 0,
    "_checks": 0,
    "_dependence": 0,
    "_trainable": 1,
    "_training_mode": 2,
    "costs": 1,
    "metrics": 2,
    "outputs": 3,
    "linalg.tangents": 1,
    "linalg.precision": 4,
    "linalg.refinement": 4,
    "linalg.memory": 4,
    "linalg.jacobian": 4,
    "linalg.certificate": 5,
    "linalg.shards": 4,
    "linalg.uses": 5,
    "linalg.views": 6,
    "linalg.products": 7,
    "linalg.tracing": 8,
    "linalg.factors": 9,
    "linalg.plan": 10,
    "linalg.assembly": 11,
    "linalg.ring": 12,
    "linalg.gram": 13,
    "linalg.spectrum": 14,
    "linalg.solvers": 14,
    "linalg.lift": 15,
    "linalg.rank": 15,
    "linalg.routes": 15,
    "linalg.streaming": 15,
    "linalg": 16,
    "problem": 16.5,
    "sharding": 16.6,
    "flows": 17,
    "integrate": 18,
    "optim": 18,
    "geometry": 19,
    # The table of contents: what trains and shows is written with the public names.
    "_public": 19,
    "": 20,
    "problems": 21,
    "training": 22,
    "estimators": 22,
    "report": 23,
    "cli": 24,
    "__main__": 25,
}

# What type checkers read under `if TYPE_CHECKING:`; at run time it is loaded when it is asked for.
EXCEPTIONS = {("", "training"), ("", "problems"), ("", "estimators")}

PRIVATE = ("equinox.internal", "lineax.internal", "jaxtyping.internal")
DEPENDENCIES = ("jax", "jaxlib", "equinox", "lineax", "diffrax", "optimistix", "optax", "jaxtyping", "numpy")


class Import(NamedTuple):
    source: str
    target: str
    line: int
    deferred: bool


def module_name(path: Path) -> str:
    """`jaxgeo/linalg/gram.py` is "linalg.gram", `jaxgeo/linalg/__init__.py` "linalg", the package itself ""."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    """The longest named room that holds the module."""
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        if (name := ".".join(parts[:end])) in ROOMS:
            return name
    raise AssertionError(f"jaxgeo.{module} belongs to no room: add it to ROOMS in {Path(__file__).name}")


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imported_names(node: ast.AST, package: str) -> list[str]:
    """Full dotted names that an import statement in `package` binds."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parents = package.split(".")
            parents = parents[: len(parents) - node.level + 1]
            base = ".".join(parents + ([node.module] if node.module else []))
        return [f"{base}.{alias.name}" for alias in node.names]
    return []


def find_imports(source: str, module: str, modules: set[str], *, is_package: bool = False) -> list[Import]:
    """Imports of jaxgeo by jaxgeo, each resolved to the module that it runs."""
    full = f"jaxgeo.{module}".rstrip(".")
    package = full if is_package else full.rpartition(".")[0]
    found = []

    def visit(node: ast.AST, deferred: bool) -> None:
        for name in imported_names(node, package):
            if name == "jaxgeo" or name.startswith("jaxgeo."):
                target = name.removeprefix("jaxgeo").lstrip(".")
                while target not in modules and target:
                    target = target.rpartition(".")[0]
                found.append(Import(module, target, node.lineno, deferred))
        deferred = deferred or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or is_type_checking(node)
        for child in ast.iter_child_nodes(node):
            visit(child, deferred)

    visit(ast.parse(source), False)
    return found


def complaints(imports: list[Import]) -> list[str]:
    """One line for each import against the order."""
    lines = []
    for source, target, line, deferred in imports:
        where = f"jaxgeo.{source}:{line} imports jaxgeo.{target}"
        if deferred and (source, target) in EXCEPTIONS:
            continue
        if source == "theory":
            lines.append(f"{where}: theory is the independent oracle and imports nothing of jaxgeo")
            continue
        here, there = room(source) if source else "", room(target) if target else ""
        inside = here == there or there.startswith(f"{here}.")
        if not inside and ROOMS[there] >= ROOMS[here]:
            lines.append(f"{where}: against the order of the rooms")
    try:
        graph: dict[str, set[str]] = {}
        for source, target, _, deferred in imports:
            if not (deferred and (source, target) in EXCEPTIONS):
                graph.setdefault(source, set()).add(target)
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        lines.append("circular import: " + " -> ".join(f"jaxgeo.{name}" for name in reversed(error.args[1])))
    return lines


def private_names(source: str) -> list[str]:
    """Imported or dotted names of a dependency with a private part."""
    tree = ast.parse(source)
    aliases = {
        alias.asname: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.asname
    }
    names = [name for node in ast.walk(tree) for name in imported_names(node, "")]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            head, _, rest = ast.unparse(node).partition(".")
            names.append(f"{aliases.get(head, head)}.{rest}")
    return sorted(
        {
            name
            for name in names
            if name.split(".")[0] in DEPENDENCIES
            and (
                any(name == p or name.startswith(f"{p}.") for p in PRIVATE)
                or any(part.startswith("_") and not part.endswith("__") for part in name.split("."))
            )
        }
    )


def test_imports_run_left_to_right():
    files = sorted(PACKAGE.rglob("*.py"))
    modules = {module_name(path) for path in files}
    imports = [
        found
        for path in files
        for found in find_imports(path.read_text(), module_name(path), modules, is_package=path.name == "__init__.py")
    ]
    assert imports
    for name in modules - {""}:
        room(name)
    assert complaints(imports) == []


MODULES = {
    "",
    "_checks",
    "theory",
    "costs",
    "problem",
    "linalg",
    "linalg.jacobian",
    "linalg.lift",
    "flows",
    "integrate",
}


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("costs", "from jaxgeo.flows import AdaptedFlow", "against the order"),
        ("costs", "from jaxgeo import problem", "against the order"),
        ("costs", "import jaxgeo", "against the order"),
        ("costs", "def f():\n    from .flows import AdaptedFlow", "against the order"),
        ("linalg.jacobian", "from .lift import lift", "against the order"),
        ("linalg.jacobian", "from jaxgeo.linalg import lift", "against the order"),
        ("linalg.jacobian", "from jaxgeo.problem import Problem", "against the order"),
        ("linalg.jacobian", "def f():\n    from jaxgeo.problem import Problem", "against the order"),
        ("theory", "from jaxgeo._checks import check_finite", "independent oracle"),
        ("flows", "from jaxgeo.flows import AdaptedFlow", "circular"),
    ],
)
def test_a_wrong_import_is_caught(module, source, complaint):
    assert any(complaint in line for line in complaints(find_imports(source, module, MODULES)))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("flows", "from jaxgeo.linalg.lift import lift\nfrom jaxgeo.costs import L2"),
        ("integrate", "from jaxgeo import theory"),
        ("problem", "from jaxgeo.linalg.jacobian import Jacobian"),
    ],
)
def test_a_right_import_passes(module, source):
    assert complaints(find_imports(source, module, MODULES)) == []


def test_a_circle_inside_a_room_is_caught():
    modules = {"integrate", "integrate.solve", "integrate.events"}
    imports = find_imports("from jaxgeo.integrate.events import f", "integrate.solve", modules)
    assert complaints(imports) == []
    imports += find_imports("from .solve import g", "integrate.events", modules)
    assert any("circular" in line for line in complaints(imports))


@pytest.mark.parametrize(
    "source",
    [
        "from jax._src import core",
        "import equinox.internal as eqxi",
        "from equinox import internal",
        "import lineax.internal",
        "from diffrax._integrate import f",
        "import jax\njax._src.core.f()",
        "import optax as ox\nox._src.base",
    ],
)
def test_a_private_name_is_caught(source):
    assert private_names(source)


def test_public_names_pass():
    assert private_names("import jax\nimport numpy as np\njax.numpy.ones\nself._x\njax.__version__") == []


def test_no_private_names_of_dependencies():
    files = [path for folder in ("jaxgeo", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    found = {str(path.relative_to(ROOT)): names for path in files if (names := private_names(path.read_text()))}
    assert found == {}
