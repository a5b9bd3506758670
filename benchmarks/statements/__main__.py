"""`python -m benchmarks.statements`: measure every statement, and write the results and the table."""

import json
import sys

import jax

from benchmarks.harness import RESULTS, environment
from benchmarks.statements import END, START, STATEMENTS, table
from benchmarks.statements.base import ROOT


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    rows, wrong = [], []
    for statement in STATEMENTS:
        value = float(statement.measure())
        print(f"{statement.source:44s} {value:.2g} {statement.bound}", file=sys.stderr, flush=True)
        wrong += [] if statement.holds(value) else [statement.source]
        row = {key: getattr(statement, key) for key in ("source", "says", "test", "what", "bound")}
        rows.append(row | {"value": value})
    if wrong:
        sys.exit(f"not as stated, and nothing written: {', '.join(wrong)}")
    results = {"environment": environment(), "dtype": "float64", "statements": rows}
    (RESULTS / "statements.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    page = ROOT / "docs" / "statements.md"
    before, _, rest = page.read_text().partition(START)
    page.write_text(f"{before}{START}\n{table(rows)}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
