"""Every numbered statement of arXiv:2311.15487, and how far the numbers are from it.

`python -m benchmarks.statements` writes `results/statements.json` and the table of `docs/statements.md`. Each module
has the statements of its sections, in the order of the source.
"""

from typing import Any

from benchmarks.statements import (
    borderline,
    bundle,
    comparison,
    equilibria,
    introduction,
    overparametrized,
    rank_loss,
    underparametrized,
)
from benchmarks.statements.base import Statement as Statement

START, END = "<!-- measured: begin -->", "<!-- measured: end -->"
PARTS = (introduction, overparametrized, bundle, comparison, rank_loss, equilibria, underparametrized, borderline)
STATEMENTS: list[Statement] = [statement for part in PARTS for statement in part.STATEMENTS]


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = ["| Statement | What it says | Test | Measured | Value | Must be |", "|---|---|---|---|---|---|"]
    for row in rows:
        says, what = (row[key].replace("|", "\\|") for key in ("says", "what"))
        lines.append(f"| {row['source']} | {says} | `{row['test']}` | {what} | {row['value']:.2g} | {row['bound']} |")
    return "\n".join(lines)
