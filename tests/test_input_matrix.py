"""Every public entry point copes with whatever is passed to it; `input_matrix` creates the table of cases.

A group of cells runs in a separate process, under a user's conditions: without type checks, and with the usual
promotion of dtypes. A crash or a hang then fails a test instead of ending the test run.
"""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from input_matrix.cells import Case, Cell, Entry, cells, judge
from input_matrix.groups import NAMES

SLOW = {
    "algebra",
    "costs",
    "integrators",
    "optimizers",
    "geometry",
    "estimators",
    "training",
    "restrained",
    "problems",
    "ready",
}


@pytest.mark.parametrize("group", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in NAMES])
def test_each_cell_works_or_is_refused_by_name(group):
    package = Path(__file__).with_name("input_matrix")
    done = subprocess.run([sys.executable, str(package), group], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    counts = Counter(row["verdict"] for row in found)
    print(f"{group}: {len(found)} cells, {counts['works']} work and {counts['refused']} are refused")
    assert [row for row in found if row["verdict"] == "wrong"] == []
    assert counts["works"] > 0
    assert counts["refused"] > 0


def cell(call, refused=True):
    return Cell("cell", call, refused, ("`size`",))


def fail(error):
    raise error


@pytest.mark.parametrize(
    ("call", "refused", "verdict"),
    [
        (lambda: 1.0, False, "works"),
        (lambda: 1.0, True, "wrong"),
        (lambda: {"a": [float("nan")]}, False, "wrong"),
        (lambda: fail(ValueError("`size` must be positive")), False, "refused"),
        (lambda: fail(ValueError("something is amiss")), True, "wrong"),
        (lambda: fail(IndexError("`size` is out of range")), True, "wrong"),
        (lambda: fail(RuntimeError("`size` failed")), True, "wrong"),
    ],
)
def test_a_verdict(call, refused, verdict):
    assert judge(cell(call, refused))[0] == verdict


def test_a_case_replaces_one_argument():
    entry = Entry("power", pow, {"base": 2, "exp": 3}, {"exp": {"zero": Case(0, False)}})
    (only,) = cells([entry])
    assert only.name == "power(exp: zero)"
    assert only.call() == 1
