"""`python -m benchmarks` runs every benchmark, then renders the tables and figures in the documents.

With names, it runs only these modules. `--quick` takes minutes: it runs few cases at small sizes, writes results and
tables to `results/quick/`, and leaves those of the repository unchanged.
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
    "models",
    "neural_ode",
    "profile",
    "beside",
    "ensembles",
    "tables",
    "estimators",
    "error_bars",
    "differential",
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
