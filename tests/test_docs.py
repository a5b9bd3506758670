"""The examples on the pages give the results they show, every page is in the menu, and every name exists."""

import ast
import doctest
import importlib.util
import json
import re
from pathlib import Path

import pytest

import jaxgeo as jg

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
SLOW = {"coming", "ode", "gram", "index", "numerics", "start", "training", "uncertainty"}
WITH_EXAMPLES = [page for page in PAGES if ">>> " in page.read_text()]


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] * (page.stem in SLOW), id=page.stem) for page in WITH_EXAMPLES]
)
def test_examples(page):
    failed, attempted = doctest.testfile(str(page), module_relative=False)
    assert attempted > 3
    assert failed == 0


def test_each_page_is_in_the_menu():
    menu = set(re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text()))
    notebooks = {f"tutorials/{path.stem}.md" for path in (ROOT / "notebooks").glob("*.ipynb")}
    reference = {f"api/{path.name}" for path in (ROOT / "docs" / "api").glob("*.md")}
    assert menu == {page.name for page in PAGES} | notebooks | reference


def test_what_the_pages_name_exists():
    pages = [ROOT / "README.md", *PAGES]
    names = {name for page in pages for name in re.findall(r"\bjg\.((?:[a-z_]+\.)?[A-Za-z_]\w+)", page.read_text())}
    assert len(names) > 30
    for name in names:
        found = jg
        for part in name.split("."):
            assert hasattr(found, part), name
            found = getattr(found, part)


def test_code_blocks_are_python():
    blocks = [block for page in PAGES for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)]
    assert len(blocks) > 15
    for block in blocks:
        examples = doctest.DocTestParser().get_examples(block)
        for source in [example.source for example in examples] or [block]:
            ast.parse(source)


@pytest.fixture
def formulas():
    """The hook of the documentation."""
    pytest.importorskip("latex2mathml")
    spec = importlib.util.spec_from_file_location("formulas", ROOT / "docs" / "hooks" / "formulas.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_names_in_tables_may_be_broken_between_their_parts_and_numbers_nowhere(formulas):
    name = "<code>jg.optim.adam(rate=0.5, --tol)</code>"
    wbr = '<code>jg.<wbr>optim.<wbr>adam(<wbr>rate=<wbr>0.<wbr>5, <span class="word">--tol</span>)</code>'
    assert formulas.breakable(f"<td>a {name}</td> -- <pre>--tol</pre>") == f"<td>a {wbr}</td> -- <pre>--tol</pre>"
    given = '<p title="1 000">10 000 or 1 281 of 12 3456</p><pre>1 000</pre><code>2 000</code> 148 481 to 1e-06'
    told = (
        '<p title="1 000">10~000 or 1~281 of 12 3456</p><pre>1 000</pre><code>2 000</code> 148~481 to '
        '<span class="word">1e-06</span>'
    )
    assert formulas.unbroken(given) == told.replace("~", "\N{NO-BREAK SPACE}")


def test_every_formula_is_typeset(formulas):
    """Each $…$ of the pages and notebooks."""
    page = formulas.typeset(r'<p><span class="arithmatex">\(a &lt; \theta\)</span></p>')
    assert re.search("<mi>a</mi>.*<mo>(<|&lt;|&#x0003C;)</mo>.*<mi>(θ|&#x003B8;)</mi>", page)
    texts = [path.read_text() for path in PAGES]
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        texts += [
            "".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "markdown"
        ]
    found = set()
    for text in texts:
        prose = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
        found |= {one or other for one, other in re.findall(r"\$\$(.+?)\$\$|\$([^$]+)\$", prose, re.DOTALL)}
    assert len(found) > 50
    for formula in found:
        page = formulas.typeset(f'<span class="arithmatex">\\({formula}\\)</span>')
        assert page.startswith("<math")
        assert "\\" not in page, formula
