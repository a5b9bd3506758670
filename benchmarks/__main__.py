"""`python -m benchmarks`: every benchmark, then the tables and figures in the documents.

With names, only these modules. `--quick` takes minutes: few cases at small sizes, whose results and tables go to
`results/quick/` and leave those of the repository as they are.
"""

import argparse
import subprocess
import sys

from benchmarks import render
from benchmarks.harness import RESULTS

QUICK = ("lift_speed", "optimizers", "equations")
ALL = (
    *QUICK,
    "lift_accuracy",
    "lift_iterative",
    "scaling",
    "mnist",
    "minibatches",
    "two_steps",
    "orbits",
    "compile",
    "profile",
    "beside",
    "ensembles",
    "tables",
    "error_bars",
    "fits",
    "memory",
    "statements",
    "random_networks",
    "gpu",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("modules", nargs="*", help=f"of {', '.join(ALL)}; all by default, but gpu")
    parser.add_argument("--quick", action="store_true", help="minutes, into results/quick/")
    chosen = parser.parse_args()
    possible = QUICK if chosen.quick else ALL
    unknown = set(chosen.modules) - set(possible)
    if unknown:
        parser.error(f"no module {', '.join(sorted(unknown))}; there are {', '.join(possible)}")
    for module in chosen.modules or [name for name in possible if name != "gpu"]:
        command = [sys.executable, "-m", f"benchmarks.{module}", *(["--quick"] if chosen.quick else [])]
        subprocess.run(command, check=True)
    if chosen.quick:
        path = RESULTS / "quick" / "tables.md"
        path.write_text(render.summary(RESULTS / "quick"))
        print(path.read_text())
    else:
        render.main()


if __name__ == "__main__":
    main()
