"""The tables, and the numbers within sentences, match the committed results."""

import json
import re

import pytest

from benchmarks.__main__ import ALL
from benchmarks.harness import RESULTS
from benchmarks.render import TABLES, documents, rendered
from benchmarks.values import VALUES, filled, grouped, listed, rounded, short

TEXTS = {path.name: path.read_text(encoding="utf-8") for path in documents()}


def test_documents_are_rendered_from_the_results():
    assert {name: rendered(text) for name, text in TEXTS.items()} == TEXTS
    for name in TABLES:
        assert sum(f"<!-- table: {name} -->" in text for text in TEXTS.values()) == 1


def test_a_number_that_differs_from_its_result_is_replaced_and_the_rest_stays():
    given = "took <!-- value: mnist_seconds -->1<!-- end --> s, not 1."
    held = json.loads((RESULTS / "mnist.json").read_text())["adapted_levenberg_marquardt"]["row"]["reached"]
    assert filled(given) == given.replace(">1<", f">{held['1e-06']['seconds']:.0f}<")
    with pytest.raises(KeyError, match="no_such_value"):
        filled("<!-- value: no_such_value -->1<!-- end -->")


def test_each_value_is_shown_and_no_marker_breaks_a_paragraph():
    text = "\n".join(TEXTS.values())
    assert set(re.findall(r"<!-- value: (\w+) -->", text)) == set(VALUES)
    assert text.count("<!-- value: ") == text.count("<!-- end -->")
    # Markdown takes a line that begins with a comment for HTML, and a comment within code for code.
    assert not re.search(r"^[\s>*-]*<!-- (value|end -->)", text, re.MULTILINE)
    assert not re.search(r"`[^`\n]*<!-- value", re.sub(r"`[^`\n]*`", "", text))


def test_numbers_are_written_as_in_a_sentence():
    assert [short(3.46e-6), short(2e-11, 0), short(1.04e-4, 2)] == ["3.5e-6", "2e-11", "1.04e-4"]
    assert [grouped(1218), grouped(148481)] == ["1218", "148\N{NO-BREAK SPACE}481"]
    assert [rounded(3.09), rounded(96.4)] == ["3", "100"]
    assert [listed("a"), listed("ab"), listed("abc")] == ["a", "a and b", "a, b and c"]


def test_one_command_repeats_every_result():
    assert {path.stem for path in RESULTS.glob("*.json")} == set(ALL)
