"""Imports inside jaxgeo follow one line of arrows, and nothing reaches into a dependency's private parts."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jaxgeo"

# A room imports from the lines above its own and from itself. Between the modules of a room there is no circle either.
ARROWS = """
    _checks _names _dependence _signals _compiled _sums
    linalg.tangents
    theory _fields _trainable
    costs
    _training_mode metrics
    outputs
    prior
    linalg.precision
    linalg.memory linalg.refinement linalg.triangular linalg.one_way linalg.shards linalg.widths linalg.vectors
    linalg.jacobian linalg.trials
    linalg.faults
    linalg.gram linalg.singular linalg.spectra
    linalg.measured linalg.solvers
    linalg.planning linalg.linearisation linalg.covariance
    linalg
    problem
    sharding
    flows
    integrate optim
    geometry uncertainty
    _public equations
    fitting
    tabular
    estimators app.data
    app.runs
    app.report
    app
    cli
    __main__
"""
LEVELS = {room: level for level, line in enumerate(ARROWS.split("\n")) for room in line.split()}

# Imports within a function: each keeps something light that is asked for seldom, and runs along the arrows.
LATE = {
    ("cli", "app.cli.app"),  # after the threads of OpenBLAS are set, and where a missing package can be named
    ("app.cli.compare", "app.report.figures"),  # matplotlib
    ("app.cli.work", "app.report.page"),  # matplotlib
}

PRIVATE = ("equinox.internal", "lineax.internal", "jaxtyping.internal")
DEPENDENCIES = ("jax", "jaxlib", "equinox", "lineax", "diffrax", "optimistix", "optax", "jaxtyping", "numpy")


class Import(NamedTuple):
    source: str
    target: str
    line: int
    late: bool


def module_name(path: Path) -> str:
    """`jaxgeo/linalg/jacobian.py` is "linalg.jacobian", `jaxgeo/linalg/__init__.py` "linalg", the package itself ""."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    """The longest named room that holds the module."""
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        if (name := ".".join(parts[:end])) in LEVELS:
            return name
    raise AssertionError(f"jaxgeo.{module} belongs to no room: add it to ARROWS in {Path(__file__).name}")


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

    def visit(node: ast.AST, late: bool) -> None:
        for name in imported_names(node, package):
            if name == "jaxgeo" or name.startswith("jaxgeo."):
                target = name.removeprefix("jaxgeo").lstrip(".")
                while target not in modules and target:
                    target = target.rpartition(".")[0]
                found.append(Import(module, target, node.lineno, late))
        late = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.If)
        for child in ast.iter_child_nodes(node):
            visit(child, late)

    visit(ast.parse(source), False)
    return found


def complaints(imports: list[Import]) -> list[str]:
    """One line for each import against the arrows. The house itself, "", stands above all rooms and names them."""
    lines = []
    for source, target, line, late in imports:
        where = f"jaxgeo.{source}:{line} imports jaxgeo.{target}"
        if source == "theory" and target != "_checks":
            lines.append(f"{where}: theory is the independent oracle and imports nothing that jaxgeo computes")
        elif source and not target:
            lines.append(f"{where}: against the arrows")
        elif source:
            here, there = room(source), room(target)
            if here != there and not there.startswith(f"{here}.") and LEVELS[there] >= LEVELS[here]:
                lines.append(f"{where}: against the arrows")
            if late and (source, target) not in LATE:
                lines.append(f"{where}: late, and not one of those that keep something light")
    graph: dict[str, set[str]] = {}
    for source, target, *_ in imports:
        graph.setdefault(source, set()).add(target)
    try:
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


def test_imports_follow_the_arrows():
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
    assert {(source, target) for source, target, _, late in imports if late and source} == LATE


MODULES = {
    "",
    "_checks",
    "theory",
    "costs",
    "outputs",
    "problem",
    "linalg",
    "linalg.jacobian",
    "linalg.lifting",
    "flows",
}


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("costs", "from jaxgeo.flows import AdaptedFlow", "against the arrows"),
        ("costs", "from jaxgeo import problem", "against the arrows"),
        ("costs", "import jaxgeo", "against the arrows"),
        ("costs", "def f():\n    from .flows import AdaptedFlow", "against the arrows"),
        ("linalg.jacobian", "from .lifting import lift", "against the arrows"),
        ("linalg.jacobian", "from jaxgeo.linalg import lift", "against the arrows"),
        ("linalg.jacobian", "from jaxgeo.problem import Problem", "against the arrows"),
        ("linalg.jacobian", "def f():\n    from jaxgeo.problem import Problem", "against the arrows"),
        ("linalg.jacobian", "if TYPE_CHECKING:\n    from jaxgeo.problem import Problem", "against the arrows"),
        ("problem", "def f():\n    from jaxgeo.linalg.jacobian import Jacobian", "late"),
        ("theory", "from jaxgeo.costs import L2", "independent oracle"),
        ("flows", "from jaxgeo.flows import AdaptedFlow", "circular"),
    ],
)
def test_a_wrong_import_is_caught(module, source, complaint):
    assert any(complaint in line for line in complaints(find_imports(source, module, MODULES)))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("flows", "from jaxgeo.linalg.lifting import lift\nfrom jaxgeo.costs import L2"),
        ("integrate", "from jaxgeo import theory"),
        ("theory", "from jaxgeo._checks import check_number"),
        ("problem", "from jaxgeo.linalg.jacobian import Jacobian"),
    ],
)
def test_a_right_import_passes(module, source):
    assert complaints(find_imports(source, module, MODULES)) == []


# Beside jaxgeo: which of the other folders each may import.
BESIDE = {"jaxgeo": set(), "cases": set(), "benchmarks": {"cases"}, "tests": {"cases"}}
TESTS_OF_BENCHMARKS = {"test_gpu_benchmark", "test_rendered_tables", "test_rivals"}


@pytest.mark.parametrize("folder", BESIDE)
def test_cases_stand_below_tests_and_benchmarks(folder):
    own = {path.stem for path in (ROOT / "tests").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    seen = 0
    for path in (ROOT / folder).rglob("*.py"):
        tops = {
            name.split(".")[0] for node in ast.walk(ast.parse(path.read_text())) for name in imported_names(node, "")
        }
        there = {*(tops & BESIDE.keys()), *({"tests"} if tops & own and folder != "tests" else ())}
        allowed = BESIDE[folder] | {folder, "jaxgeo"} | ({"benchmarks"} if path.stem in TESTS_OF_BENCHMARKS else set())
        assert there <= allowed, path
        seen += len(there - {"jaxgeo"})
    assert seen or folder == "jaxgeo"


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


def test_the_way_of_a_velocity_enters_files_that_are_there_once():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    way = re.search(r"### One velocity\n(.*?)\n### ", text, re.DOTALL)
    assert way
    files = re.findall(r"^ +([a-z_/]+\.py) ", way[1], re.MULTILINE)
    assert len(files) > 8
    assert len(files) == len(set(files))
    assert [file for file in files if not (PACKAGE / file).is_file()] == []


def test_no_private_names_of_dependencies():
    files = [path for folder in ("jaxgeo", "cases", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    found = {str(path.relative_to(ROOT)): names for path in files if (names := private_names(path.read_text()))}
    assert found == {}
