"""Combinations of options: each is refused before training, or trained, read back, resumed and predicted with.

`JAXGEO_SETTINGS=500 pytest -m slow tests/test_settings.py -s` tries five hundred instead of twenty, ten in each
test, and counts them.
"""

import collections
import os
import shutil
import types

import jax
import numpy as np
import pytest
from rich.console import Console

import jaxgeo.app.report.page as page
from jaxgeo.app.cli import compare
from jaxgeo.app.cli.app import run
from jaxgeo.app.cli.options import resolve
from jaxgeo.app.runs import load
from jaxgeo.fitting import Interruptible
from jaxgeo.optim.endings import Outcome

TABLE = np.random.default_rng(0).normal(size=(14, 3))
# Each with values of which about half can be meant, alone or with the others.
OPTIONS = {
    "--target": ("y", "y", "y", "label", "none"),
    "--task": (None, None, "regression", "classification", "both"),
    "--drop": (None, None, None, "a", "y", "text"),
    "--samples": (None, None, "5", "13", "14", "0", "-1", "99999999999999999999"),
    "--test-fraction": (None, None, "0.3", "0.9", "1", "1e-300", "nan"),
    "--hidden": ("4", "3-3", "2", "0", "a", "99999999", None, None, None),
    "--weights": (None, None, "b", "w", "w", "label", "none"),
    "--flow": (None, None, "adapted", "standard", "rank-adaptive", "underparametrized"),
    "--optimizer": (None, "sgd", "adam", "momentum", "levenberg-marquardt", "lbfgs", "evidence"),
    "--learning-rate": (None, None, None, "0.1", "1e300", "5e-324", "inf", "0"),
    "--batch-size": (None, None, None, "2", "7", "1000000000000"),
    "--tol": (None, None, "0.5", "1e-12", "1e-30", "1e-320", "0", "nan"),
    "--rtol": (None, None, None, "1e-3", "0.9", "1e-30"),
    "--patience": (None, None, None, "1", "1000000000", "0"),
    "--record-every": (None, None, None, "1", "3", "1000000", "1000000000"),
    "--precision": (None, None, "float32", "float16"),
    "--seed": (None, None, "7", str(2**32), str(2**63 - 1), str(2**63), "-1"),
    "--keep-every": (None, "0", "inf", "1e-300", "nan", "-1"),
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    lines = [
        f"{a:.5f},{b:.5f},{y:.5f},{'hi' if a > 0 else '-lo'},=x{i},{1 + i % 3}" for i, (a, b, y) in enumerate(TABLE)
    ]
    (tmp_path / "t.csv").write_text("a,b,y,label,text,w\n" + "\n".join(lines) + "\n")
    return tmp_path


def draw(number):
    """The options of a combination: most are left out, so that about half of all train."""
    rng = np.random.default_rng(number)
    chosen = {name: values[rng.integers(len(values))] for name, values in OPTIONS.items() if rng.random() < 0.1}
    # Every third is by networks that the evidence weighs, unless another option asks for one network.
    chosen = {"--target": "y", "--hidden": None if number % 3 == 0 else "4", "--drop": "text", **chosen}
    return [part for name, value in chosen.items() if value is not None for part in (name, value)]


def judge(number, home, capsys):
    """What became of a combination; an `AssertionError` if that is none of what it may be."""
    arguments = ["train", "t.csv", "--drop", "label", *draw(number), "--max-steps", "1", "--out", "run"]
    if arguments[arguments.index("--target") + 1] == "label":
        arguments[2:4] = ["--drop", "y"]
    code = run(arguments)
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert "internal error of jaxgeo" not in told, told
    if code == 2:
        assert [line for line in told.splitlines() if line.startswith("error: ")] == told.splitlines()[-1:], told
        assert not (home / "run").exists(), told
        return "refused"
    assert code in (0, 1), told
    assert load("run").config.max_steps == 1
    assert run(["resume", "run", "--max-steps", "2"]) in (0, 1), capsys.readouterr().err
    assert load("run").config.max_steps == 2
    capsys.readouterr()
    code = run(["predict", "run", "t.csv"])
    output, told = capsys.readouterr()
    assert (code, len(output.splitlines())) == (0, 15) or "not finite" in told, told
    assert "nan" not in output
    return "trained" if code == 0 else "diverged"


@pytest.fixture
def as_users_have_it():
    """Promotion by JAX's own rules, which optax needs, also on the threads that train."""
    strict = jax.config.jax_numpy_dtype_promotion, jax.config.jax_numpy_rank_promotion
    for values in (("standard", "allow"), strict):
        jax.config.update("jax_numpy_dtype_promotion", values[0])
        jax.config.update("jax_numpy_rank_promotion", values[1])
        if values is not strict:
            yield


@pytest.fixture
def few_figures(monkeypatch):
    """One figure a report: they take most of the time, and depend on the rows alone."""
    monkeypatch.setattr(page, "FIGURES", {"cost": page.FIGURES["cost"]})


COUNT, PART = int(os.environ.get("JAXGEO_SETTINGS", "20")), 10


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("as_users_have_it", "few_figures")
@pytest.mark.parametrize("first", range(0, COUNT, PART))
def test_any_combination_is_refused_or_goes_all_the_way(home, capsys, first):
    counts, faults = collections.Counter(), []
    for number in range(first, min(first + PART, COUNT)):
        try:
            counts[judge(number, home, capsys)] += 1
        except AssertionError as error:
            faults.append((number, draw(number), str(error)[:400]))
        shutil.rmtree(home / "run", ignore_errors=True)
    # Their programs take ten megabytes each.
    jax.clear_caches()
    with capsys.disabled():
        print(dict(counts))
    assert faults == []
    assert counts["trained"] > 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, 1e-3),
        ({"flow": "overparametrized"}, 1e-3),
        ({"flow": "standard"}, 1e-5),
        ({"flow": "rank-adaptive"}, 1e-5),
        # K < QN.
        ({"flow": "adapted", "hidden": (1,)}, 1e-5),
        ({"flow": "underparametrized", "hidden": (1,)}, 1e-5),
        ({"precision": "float32"}, 1e-3),
        ({"flow": "standard", "rtol": 1e-7}, 1e-7),
    ],
)
def test_the_steps_are_larger_where_they_are_corrected(given, expected):
    config, _ = resolve({"problem": "digits", "samples": 30, **given}, None)
    assert config.rtol == expected


def test_each_flow_that_is_compared_has_its_own_tolerance(tmp_path, monkeypatch):
    seen = {}

    def fit(*_, method, rtol, **__):
        seen[type(method).__name__] = rtol
        return types.SimpleNamespace(rows=[], outcome=Outcome.MAX_STEPS)

    monkeypatch.setattr(compare, "fit", fit)
    monkeypatch.setattr("jaxgeo.app.report.figures.comparison_figure", lambda *_: "")
    hears = Interruptible(lambda: None)
    for asked, expected in (({}, (1e-3, 1e-5)), ({"rtol": 1e-6}, (1e-6, 1e-6))):
        given = {"problem": "digits", "samples": 10, "hidden": (16,), **asked}
        compare.compare_command(given, None, 1.0, tmp_path / str(len(asked)), Console(quiet=True), hears)
        assert (seen["AdaptedFlow"], seen["StandardFlow"]) == expected
        assert {rtol for name, rtol in seen.items() if not name.endswith("Flow")} == {None}
