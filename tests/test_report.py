"""The report: complete, self-contained, and safe with any table name."""

import re
import xml.etree.ElementTree as ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

from jaxgeo.app.data import Encoder, Kind, Task
from jaxgeo.app.report.page import _classes as classes_of, write_report
from jaxgeo.app.report.words import pick
from jaxgeo.app.runs.held_out import MOST_CLASSES, held_out
from jaxgeo.equations import Network
from jaxgeo.fitting import Scaling


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return write_report(runs.write(tmp_path_factory.mktemp("kept") / "run").path)


@pytest.fixture
def page(report):
    return report.read_text(encoding="utf-8")


def test_the_page_asks_for_nothing_from_elsewhere(page):
    loads = re.findall(r'(?:src|href)\s*=\s*"([^"]*)"|url\(([^)]*)\)|@import', page)
    assert [one or two for one, two in loads if not (one or two).startswith(("#", "data:"))] == []
    assert "<script" not in page


def test_what_the_user_typed_is_text_not_markup(page):
    assert "<b>" not in page
    assert "data &lt;b&gt;.csv" in page
    assert "&lt;script&gt;" in page


def test_the_page_says_what_was_found(page):
    for part in (
        "the prediction before the run was 8",
        ">4<",
        ">13<",
        "2-3-1",
        "9.1578e-03",
        "prefers-color-scheme",
    ):
        assert part in page, part
    assert page.count("<svg") == 4


def test_held_out_rows_of_a_classification():
    page = classes_of(
        {
            "classes": ("cat", "<dog>"),
            "confusion": (5, 2, 0, 7),
            "held_out": {"row": (12, 3), "true": (0, 0), "predicted": (1, 1), "lead": (0.5, 0.25)},
        }
    )
    cells = re.findall(r'<td style="--share:([0-9.]+)">(\d*)</td>', page)
    assert cells == [("0.714", "5"), ("0.286", "2"), ("0.000", ""), ("1.000", "7")]
    assert "<tr><td>12</td><td>cat</td><td>&lt;dog&gt;</td><td>0.50</td></tr>" in page


@pytest.mark.parametrize("classes", [3, MOST_CLASSES + 1])
def test_the_surest_wrong_answers_are_named(classes):
    rng = np.random.default_rng(0)
    network = Network((2, 8, classes), jnp.float64, key=jax.random.key(0))
    inputs, labels = rng.normal(size=(60, 2)), rng.integers(classes, size=60)
    targets, scaling = np.eye(classes)[labels], Scaling.identity(tuple(map(str, range(classes))))
    numbers = Encoder.of_numbers(("a", "b"))
    task = Task(
        "t", "t", Kind.CLASSIFICATION, inputs[:9], targets[:9], inputs[9:], targets[9:], tuple(range(9, 60)),
        Scaling.identity(("a", "b")), scaling, numbers,
    )  # fmt: skip
    found = held_out(task, network)
    outputs = np.asarray(jax.vmap(network)(jnp.asarray(inputs[9:])))
    taken = outputs.argmax(axis=1)
    lead = outputs.max(axis=1) - outputs[np.arange(51), labels[9:]]
    for row, true, predicted, ahead in zip(*found["held_out"].values(), strict=True):
        assert (true, predicted) == (labels[int(row)], taken[int(row) - 9])
        assert ahead == pytest.approx(lead[int(row) - 9])
    np.testing.assert_allclose(found["held_out"]["lead"], sorted(lead[taken != labels[9:]], reverse=True)[:10])
    if classes <= MOST_CLASSES:
        expected = [[np.sum((labels[9:] == i) & (taken == j)) for j in range(classes)] for i in range(classes)]
        np.testing.assert_array_equal(np.reshape(found["confusion"], (classes, classes)), expected)
    else:
        assert found["confusion"] == []


def test_true_and_predicted_values_are_in_the_unit_of_the_target():
    task, network = runs.task(), runs.network()
    found = held_out(task, network)["held_out"]
    predicted = task.outputs.invert(jax.vmap(network)(jnp.asarray(task.test_inputs)))[:, 0]
    np.testing.assert_allclose(found["predicted"], predicted)
    np.testing.assert_allclose(found["true"], task.outputs.invert(task.test_targets)[:, 0])
    assert found["row"] == [6, 7]


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


def test_the_figures_are_files_of_their_own(report):
    files = sorted((report.parent / "figures").glob("*.svg"))
    assert [file.stem for file in files] == ["cost", "held_out", "score", "spectrum"]
    for file in files:
        assert ElementTree.parse(file).getroot().tag.endswith("svg")


@pytest.mark.parametrize(
    ("metrics", "changes", "part"),
    [
        ([], {"outcome": "interrupted", "cost": 0.5}, "The run was interrupted"),
        (runs.rows()[:1], {"outcome": "max_steps"}, "used up"),
        (None, {"spectrum_start": None, "rank": None, "condition": None}, "reached the tolerance"),
        (None, {"predicted_stopping_time": None, "outcome": "stalled"}, "stopped falling"),
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
