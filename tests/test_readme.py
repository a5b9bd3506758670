"""The README's code runs as it stands, and its commands exist."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_library_example_runs_and_its_prediction_holds():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (example,) = [block for block in blocks if "solve_flow" in block]
    names = {}
    exec(example, names)
    solution = names["solution"]
    assert abs(solution.s[-1] / solution.stopping_time - 1) < 1e-4
    assert abs(names["problem"].cost(solution.params) / 1e-6 - 1) < 1e-3
    assert names["trained"](names["x"][0]).shape == (1,)


def test_the_loading_snippet_is_two_lines_that_name_what_exists():
    (snippet,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "load(" in block]
    first, second = snippet.strip().splitlines()
    names = {}
    exec(first, names)
    assert callable(names["jg"].load)
    assert second == 'model = jg.load("runs/digits").model'


def test_the_extras_that_are_named_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r'"\.\[(\w+)\]"', README)) == {"cli", "test"} <= set(extras)


def test_links_lead_to_files():
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).is_file(), link
