"""`python -m benchmarks.statements`: how far measured numbers are from the statements of the source."""

import json
import sys

import jax

from benchmarks.harness import RESULTS, environment
from cases.statements import STATEMENTS


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    rows, wrong = [], []
    for statement in STATEMENTS:
        value = float(statement.measure())
        print(f"{statement.source:44s} {value:.2g} {statement.bound}", file=sys.stderr, flush=True)
        wrong += [] if statement.holds(value) else [statement.source]
        rows.append(statement.described() | {"value": value})
    if wrong:
        sys.exit(f"not as stated, and nothing written: {', '.join(wrong)}")
    results = {"environment": environment(), "dtype": "float64", "statements": rows}
    (RESULTS / "statements.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
