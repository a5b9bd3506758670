"""The report: complete, self-contained, and safe with whatever a table is called."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import runs

from jaxgeo.app.report.page import write_report
from jaxgeo.app.report.words import pick


@pytest.fixture
def page(tmp_path):
    runs.write(tmp_path / "run")
    return write_report(tmp_path / "run").read_text(encoding="utf-8")


def test_the_page_asks_for_nothing_from_elsewhere(page):
    loads = re.findall(r'(?:src|href)\s*=\s*"([^"]*)"|url\(([^)]*)\)|@import', page)
    assert [one or two for one, two in loads if not (one or two).startswith(("#", "data:"))] == []
    assert "<script" not in page


def test_what_the_user_typed_is_text_not_markup(page):
    assert "<b>" not in page
    assert "data &lt;b&gt;.csv" in page
    assert "&lt;script&gt;" in page


def test_the_page_says_what_was_found(page):
    for part in ("s = 8; predicted before it began: 8", ">4<", ">13<", "2-3-1", "9.1578e-03", "prefers-color-scheme"):
        assert part in page, part
    assert page.count("<svg") == 3


def test_large_scores_are_in_plain_digits(tmp_path):
    runs.write(tmp_path / "run", [row | {"test_rmse": 30591.4} for row in runs.rows()], baseline=143012.6)
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    for part in ("<dd>30591</dd>", "<dt>always the mean</dt><dd>143013</dd>", "<dt>training error</dt><dd>1</dd>"):
        assert part in page, part


def test_figures_follow_the_page_in_light_and_dark(page):
    assert "var(--ink)" in page
    assert "#1f2933" not in page.split("</style>", 1)[1]


def test_ids_of_one_figure_do_not_touch_another(page):
    # Paths that two figures both define under one name must be the same paths.
    found = {}
    for name, path in re.findall(r'<path id="([^"]+)" d="([^"]*)"', page):
        assert found.setdefault(name, path) == path, name


def test_the_figures_are_files_of_their_own(tmp_path):
    runs.write(tmp_path / "run")
    write_report(tmp_path / "run")
    files = sorted((tmp_path / "run" / "figures").glob("*.svg"))
    assert [file.stem for file in files] == ["cost", "score", "spectrum"]
    for file in files:
        assert ElementTree.parse(file).getroot().tag.endswith("svg")


@pytest.mark.parametrize(
    ("metrics", "changes", "part"),
    [
        ([], {"outcome": "interrupted", "cost": 0.5}, "The run was interrupted"),
        (runs.rows()[:1], {"outcome": "max_steps"}, "used up"),
        (None, {"spectrum_start": None, "rank": None, "condition": None}, "came down"),
        (None, {"predicted_stopping_time": None, "outcome": "stalled"}, "ceased to fall"),
    ],
)
def test_an_unfinished_run_has_a_report_too(tmp_path, metrics, changes, part):
    runs.write(tmp_path / "run", metrics, **changes)
    assert part in write_report(tmp_path / "run").read_text(encoding="utf-8")


def test_the_table_keeps_first_and_last():
    rows = [{"s": s} for s in range(100)]
    few = [row["s"] for row in pick(rows)]
    assert (few[0], few[-1], len(few)) == (0, 99, 16)
    assert (np.diff(few) > 0).all()
    assert pick(rows[:5]) == rows[:5]
