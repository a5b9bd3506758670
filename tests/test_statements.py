"""The statements of the source hold, the results match, and the tests that they name exist."""

import ast
import json
import math
from pathlib import Path

import numpy as np
import pytest

from cases import problems
from cases.statements import STATEMENTS, Statement, base

ROOT = Path(__file__).parents[1]
OWN = "test_statements.py::test_statement_holds"
# Where another test looks closer at the same, this one is for the slow run.
MEASURED = [
    pytest.param(each, id=each.source, marks=[pytest.mark.slow] * (each.slow or each.test != OWN))
    for each in STATEMENTS
]


@pytest.mark.parametrize("statement", MEASURED)
def test_statement_holds(statement):
    value = float(statement.measure())
    print(statement.source, value, statement.bound)
    assert statement.holds(value)


def test_what_was_measured_is_of_these_statements():
    rows = json.loads((ROOT / "benchmarks/results/statements.json").read_text())["statements"]
    for row, statement in zip(rows, STATEMENTS, strict=True):
        value = row.pop("value")
        assert row == statement.described()
        assert statement.holds(value)


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda statement: statement.source)
def test_named_test_exists(statement):
    name, _, function = statement.test.partition("::")
    tree = ast.parse((ROOT / "tests" / name).read_text())
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_a_bound_is_one_sided_and_nan_is_outside():
    for statement in STATEMENTS:
        assert (statement.most is None) is not (statement.least is None)
        assert not statement.holds(math.nan)
    small, large = Statement("", "", "", lambda: 0.0, 1e-3), Statement("", "", "", lambda: 0.0, least=0.5)
    assert (small.holds(1e-4), small.holds(1e-2), large.holds(0.4), large.holds(0.6)) == (True, False, False, True)


NOTICED = [
    "(1.9), (1.19)",
    "(1.18)",
    "(1.22)",
    "(1.23); Theorem 2.1, (2.2)",
    "(1.24); Theorem 2.1, (2.3)",
    "(1.25); Theorem 2.1, (2.3)",
    "(1.26), (1.27); Theorem 2.1, (2.4)",
    "(1.28); Theorem 2.1, (2.5), (2.9)",
    "(2.22), (2.25)",
    "(2.28)–(2.30)",
    "Prop. 2.4, (2.24)",
    "(4.4)",
    "Theorem 4.1, (4.7), (4.11)",
    "(4.13)",
    "(1.30); Theorem 5.1, (5.2)",
    "(1.31); Theorem 5.1, (5.3), (5.8)",
    "(1.32); Theorem 5.1, (5.4)",
    "(5.14), (5.15)",
    "(5.17)",
    "Prop. 5.3, (5.18)",
    "(6.1)",
    "(6.2)",
    "(6.3)",
    "(6.4)",
]


@pytest.mark.slow
def test_a_slightly_wrong_jacobian_is_noticed(monkeypatch):
    """With 0.1 % of noise on the D that the library is compared with, none of what is said of D holds any more."""
    exact = problems.Case.dense

    def noisy(case):
        matrix = exact(case)
        return matrix * (1 + 1e-3 * np.random.default_rng(5).standard_normal(matrix.shape))

    monkeypatch.setattr(problems.Case, "dense", noisy)
    base.known.cache_clear()
    try:
        chosen = [each for each in STATEMENTS if each.source in NOTICED]
        assert {each.source for each in chosen} == set(NOTICED)
        assert [each.source for each in chosen if each.holds(float(each.measure()))] == []
    finally:
        base.known.cache_clear()
