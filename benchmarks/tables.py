"""A messy table from the shell: `jaxgeo train` compared with scikit-learn's models on the same rows.

The table has 3000 rows with categories, missing cells and a skewed price. Errors are on the held-out rows. CPU seconds
are for the whole command, with compilation and report, and for the fit alone of the other models.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import RidgeCV
from sklearn.neural_network import MLPRegressor
from threadpoolctl import threadpool_limits

from benchmarks.harness import Case, environment, run_cases
from jaxgeo.app.data import read_table, table_task
from jaxgeo.app.runs import load
from jaxgeo.estimators import JaxgeoRegressor

DISTRICTS = {"Old Town": 0.5, "Harbour": 0.4, "North": 0.0, "South": -0.1, "Hills": 0.6, "West": 0.05, "Airport": -0.4}
KINDS = {"flat": 0.0, "house": 0.25, "loft": 0.3}
CONDITIONS = {"new": 0.15, "good": 0.0, "fair": 0.0, "poor": -0.25}
RIVALS: dict[str, Any] = {
    "JaxgeoRegressor": lambda: JaxgeoRegressor(random_state=0),
    "RidgeCV": lambda: RidgeCV(np.logspace(-3, 4, 15)),
    "HistGradientBoostingRegressor": lambda: HistGradientBoostingRegressor(random_state=0),
    "MLPRegressor": lambda: MLPRegressor(random_state=0, max_iter=500),
    "MLPRegressor, early stopping": lambda: MLPRegressor(early_stopping=True, random_state=0, max_iter=500),
}


def prices(seed: int, rows: int) -> dict[str, list[str]]:
    """Columns of text: homes with gaps, whose price is skewed and has outliers."""
    rng = np.random.default_rng(seed)
    area = rng.lognormal(4.4, 0.4, rows)
    year = rng.integers(1900, 2021, rows)
    distance, energy = rng.exponential(6, rows), rng.normal(120, 40, rows)
    district = rng.choice(list(DISTRICTS), rows, p=[0.1, 0.1, 0.25, 0.25, 0.1, 0.15, 0.05])
    kind = rng.choice(list(KINDS), rows, p=[0.7, 0.25, 0.05])
    condition = rng.choice(list(CONDITIONS), rows, p=[0.15, 0.5, 0.25, 0.1])
    balcony = rng.random(rows) < 0.5
    logarithm = (
        12.2
        + 0.9 * np.log(area / 80)
        + [DISTRICTS[name] for name in district]
        + np.array([KINDS[name] for name in kind])
        + [CONDITIONS[name] for name in condition]
        + 0.004 * (year - 1960) * (year > 1960)
        - 0.03 * distance
        - 0.001 * (energy - 120)
        + 0.05 * balcony
        + 0.35 * (district == "Hills") * (kind == "house")
        + rng.normal(0, 0.22, rows)
        + 0.6 * rng.standard_exponential(rows) * (rng.random(rows) < 0.08)
    )
    columns = {
        "area": [f"{each:.1f}" for each in area],
        "year": [str(each) for each in year],
        "distance": [f"{each:.2f}" for each in distance],
        "energy": [f"{each:.1f}" for each in energy],
        "district": list(district),
        "kind": list(kind),
        "condition": list(condition),
        "balcony": [str(bool(each)) for each in balcony],
        "price": [f"{each:.0f}" for each in np.exp(logarithm)],
    }
    for name, share in (("year", 0.08), ("energy", 0.2), ("condition", 0.1), ("distance", 0.05)):
        columns[name] = ["" if gap else cell for cell, gap in zip(columns[name], rng.random(rows) < share, strict=True)]
    return columns


def on_prices(seeds: range, rows: int) -> Iterator[dict[str, Any]]:
    """The root mean square error on the held-out rows, and CPU seconds, for each seed."""
    before, found = environment("scikit-learn", "pandas"), {}
    for seed in seeds:
        columns = prices(seed, rows)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "prices.csv"
            path.write_text("\n".join(map(",".join, [list(columns), *zip(*columns.values(), strict=True)])) + "\n")
            start = os.times()
            command = [sys.executable, "-m", "jaxgeo", "train", "prices.csv", "--target", "price"]
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
            end = os.times()
            seconds = end.children_user + end.children_system - start.children_user - start.children_system
            run = load(Path(folder) / "runs" / "prices")
            found[str(seed)] = {"jaxgeo train": {"error": run.metrics[-1]["test_rmse"], "cpu_s": seconds}}
            found[str(seed)]["the mean"] = {"error": run.summary["baseline"], "cpu_s": 0.0}
            task = table_task(read_table(path), "price", most_outputs=None)
        for name, make in RIVALS.items():
            cpu = time.process_time()
            # JaxgeoRegressor chooses the scale of the price itself.
            scaled = name != "JaxgeoRegressor"
            prices_of = (lambda z: z[:, 0]) if scaled else (lambda z, task=task: task.outputs.invert(z)[:, 0])
            # Threads that wait in a busy loop would count as work.
            with threadpool_limits(1):
                model = make().fit(task.train_inputs, (task.train_targets if scaled else task.raw_targets)[:, 0])
            seconds = time.process_time() - cpu
            missed = model.predict(task.test_inputs) - prices_of(task.test_targets)
            error = float(np.sqrt(np.mean(missed**2)) * (task.outputs.scale[0] if scaled else 1.0))
            found[str(seed)][name] = {"error": error, "cpu_s": seconds}
        yield {"environment": before, "rows": rows, "held_out": len(task.test_inputs), "seeds": found}


CASES = {"prices": Case(lambda: on_prices(range(3), 3000), 1800.0)}
QUICK = {"prices": Case(lambda: on_prices(range(1), 300), 600.0)}


if __name__ == "__main__":
    run_cases("tables", CASES, QUICK)
