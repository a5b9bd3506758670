"""The table of statements shows what was measured, and the tests that it names are there."""

import ast
import json
from pathlib import Path

import pytest

from benchmarks.statements import END, START, STATEMENTS, table

ROOT = Path(__file__).parents[1]


def test_table_is_what_was_measured():
    rows = json.loads((ROOT / "benchmarks/results/statements.json").read_text())["statements"]
    shown = (ROOT / "docs/statements.md").read_text().partition(START)[2].partition(END)[0].strip()
    assert shown == table(rows)
    assert [row["source"] for row in rows] == [statement.source for statement in STATEMENTS]


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda statement: statement.source)
def test_named_test_exists(statement):
    name, _, function = statement.test.partition("::")
    tree = ast.parse((ROOT / "tests" / name).read_text())
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
