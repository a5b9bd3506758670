"""Citations of the source exist there, and everything numbered there is implemented or measured here."""

import ast
import inspect
import json
import re
from functools import cache
from pathlib import Path

import pytest
from source_numbers import DEFINITIONS, EXISTING, NUMBERS, RESULTS, cited, cited_results

import jaxgeo
import jaxgeo.equations
from cases.statements import STATEMENTS

ROOT = Path(__file__).parents[1]
CODE = [path for folder in ("jaxgeo", "cases", "tests", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]
PROSE = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "notebooks").glob("*.ipynb"))]
EQUATIONS = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8")
ROWS = [line.split("|")[1:-1] for line in EQUATIONS.splitlines() if line.startswith("| ") and "`" in line]
OF_THE_SOURCE = [row for row in ROWS if cited(row[0])]
OF_OTHERS = [row for row in ROWS if not cited(row[0])]
NAME = re.compile(r"`([A-Za-z_][\w.]*)`")
TAG = re.compile(r"Paper: (.*)")


@cache
def texts(path: Path) -> list[str]:
    """The docstrings and comments of a module, the cells of text in a notebook, or a page without its examples."""
    content = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        return ["".join(cell["source"]) for cell in json.loads(content)["cells"] if cell["cell_type"] == "markdown"]
    if path.suffix == ".md":
        return [re.sub(r"```.*?```", "", content, flags=re.DOTALL)]
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    found = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(content)) if isinstance(node, kinds)]
    return [re.sub(r"```.*?```", "", text, flags=re.DOTALL) for text in found] + re.findall(r"# .*", content)


def documentation(name: str) -> str:
    """The docstring of a public name."""
    value: object = jaxgeo
    for part in name.split("."):
        value = getattr(value, part)
    return inspect.getdoc(value) or ""


def tagged(name: str) -> set[str]:
    """What the line `Paper:` of a public name cites."""
    return set().union(*(cited(tag) for tag in TAG.findall(documentation(name))))


@pytest.mark.parametrize("path", [*CODE, *PROSE], ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_cited_is_in_the_source(path):
    for text in texts(path):
        # A theorem of another source is cited in the sentence that names it.
        own = re.sub(r"Reference: .*(\n.+)*|2408\.01517.*", "", text)
        # Numbers in parentheses that are no equations have another form in prose, such as 2.50.
        numbers = {each for each in cited(own) if each[0] == "("}
        assert numbers | cited_results(own) <= EXISTING, sorted(numbers | cited_results(own) - EXISTING)
        for tag in TAG.findall(text):
            assert cited(tag), (
                f"`Paper: {tag}` cites nothing of the source; say `Reference: author, title, year, place`"
            )
            assert cited(tag) <= EXISTING, sorted(cited(tag) - EXISTING)
            assert "arXiv" not in tag


@pytest.mark.parametrize("row", OF_THE_SOURCE, ids=lambda row: row[0].strip())
def test_what_implements_an_equation_says_which(row):
    """Each name cites something of its row, and all of the row is cited by one of its names."""
    of_row, names = cited(row[0]), NAME.findall(row[2])
    assert names
    tags = {name: tagged(name) for name in names}
    for name, tag in tags.items():
        assert tag & of_row, f"`{name}` needs a line `Paper: {row[0].strip()}`; its lines cite {sorted(tag)}"
    together = set().union(*tags.values())
    assert of_row <= together, sorted(of_row - together)


@pytest.mark.parametrize("row", OF_OTHERS[1:], ids=lambda row: row[0].strip()[:20])
def test_what_implements_another_source_refers_to_it(row):
    for name in NAME.findall(row[2]):
        text = " ".join(documentation(name).split())
        assert re.search(r"Reference: [A-Z]\. .+, .+, (19|20)\d\d, .+", text), name


def test_every_number_of_the_source_is_implemented_or_measured():
    measured = set().union(*(cited(statement.source) for statement in STATEMENTS))
    implemented = set().union(*(cited(line.split("|")[1]) for line in EQUATIONS.splitlines() if line.startswith("| ")))
    assert measured <= EXISTING
    assert measured | implemented >= NUMBERS | RESULTS
    # What can be false is measured, whether or not a function implements it.
    assert measured | DEFINITIONS >= NUMBERS | RESULTS, sorted((NUMBERS | RESULTS) - measured - DEFINITIONS)
    assert measured | implemented >= DEFINITIONS


def test_the_texts_were_read():
    assert len(OF_THE_SOURCE) > 30
    assert len(OF_OTHERS) >= 3
    assert len(NUMBERS) == 115
    assert sum(len(TAG.findall(text)) for path in CODE for text in texts(path)) > 80
    assert cited("Propositions 2.4 and 5.3, (2.17)–(2.19)") == {"Prop. 2.4", "Prop. 5.3", "(2.17)", "(2.18)", "(2.19)"}
    assert not cited("(2.34), Theorem 2.2") <= EXISTING
