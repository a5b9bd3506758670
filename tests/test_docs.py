"""The examples on the pages give what they say, the pages are all in the menu, and what they name exists."""

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
    assert menu == {page.name for page in PAGES} | notebooks


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


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed")
def test_no_command_of_tex_is_left_in_a_tutorial():
    spec = importlib.util.spec_from_file_location("render", ROOT / "notebooks" / "render.py")
    assert spec is not None
    assert spec.loader is not None
    render = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(render)
    assert render.formula(r"\partial_s x = -\mathcal P\nabla_x C") == "`∂_s x = -𝒫∇_x C`"
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        prose = re.sub(r"```.*?```", "", render.page(json.loads(path.read_text())), flags=re.DOTALL)
        assert not re.findall(r"\\[a-zA-Z]+|\$", prose), path.name
