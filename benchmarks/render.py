"""Tables and numbers in the documents, from the results: `python -m benchmarks.render`.

A document has a table between the lines `<!-- table: NAME -->` and `<!-- end of table -->`. `TABLES` says from which
results, and by which function, each table is rendered. Numbers within sentences are in `benchmarks.values`.
"""

import json
import math
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

from benchmarks.figures import deep_poisson, equation_errors, front, lift_sweep, minibatches, races
from benchmarks.harness import RESULTS
from benchmarks.markdown import environment, number, reason, table
from benchmarks.speeds import beside, profile, scaling, speed
from benchmarks.table_pages import compared, coverage, tables
from benchmarks.values import filled

ROOT = RESULTS.parent.parent
PLACE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def _accuracy(result: dict[str, Any]) -> str:
    rows = result["rows"]
    solvers = list(rows[0]["errors"])
    lines = []
    for lost in sorted({row["lost"] for row in rows}):
        for condition in sorted({row["condition"] for row in rows}):
            errors = [row["errors"] for row in rows if (row["condition"], row["lost"]) == (condition, lost)]
            cells = [
                " / ".join(f"{max(error[name][key] for error in errors):.0e}" for key in ("lift", "outputs"))
                for name in solvers
            ]
            lines.append([f"{condition:.0e}", f"−{lost}" if lost else "full", *cells])
    worst = result["auto_over_best_worst"]
    finite = "All are finite." if result["all_finite"] else "Some are not finite."
    summary = (
        f"Error of `Auto` relative to the smallest error in the same row: at most {worst['lift']:.2g} (lift), "
        f"{worst['outputs']:.2g} (outputs). {finite}\n"
    )
    return table(["cond(D)", "rank", *(f"`{name}`" for name in solvers)], lines) + "\n" + summary


def _conjugate_gradients(result: dict[str, Any]) -> str:
    lines = [
        [title, str(result[name]["steps"]), f"{result[name]['residual']:.1e}", f"{result[name]['seconds']:.0f}"]
        for title, name in ((f"`Nystrom(rank={result['sketch']})`", "nystrom"), ("none", "none"))
    ]
    header = ["preconditioner", "steps", "relative residual", "seconds, with compilation"]
    return (
        f"QN = {result['QN']}, K = {result['K']}, {result['dtype']}, tolerance {result['rtol']:.0e}, peak memory "
        f"{result['peak_memory_mib'] / 1024:.1f} GiB. {environment(result)}\n\n" + table(header, lines)
    )


def _equations(results: dict[str, Any]) -> str:
    lines = []
    for case, result in results.items():
        for name, row in result["rows"].items():
            runs = row["runs"]
            seconds = statistics.mean(run["seconds"] for run in runs)
            updates = round(statistics.mean(run["updates"] for run in runs))
            errors = [f"{row[key]:.1e}" for key in ("median_error", "worst_error")]
            lines.append([f"`{case}`", f"`{name}`", str(len(runs)), *errors, str(updates), f"{seconds:.0f}"])
    header = ["problem", "optimizer", "starts", "median error", "worst error", "updates", "seconds a start"]
    where = [f"`{case}`: {environment(result)}" for case, result in results.items()]
    return table(header, lines) + "\n" + " ".join(where) + "\n"


def _reached(run: dict[str, Any], value: str, unit: str) -> list[str]:
    """Cost, steps and seconds up to `value`, or up to the end of a run above it."""
    found = run["reached"][value]
    cost, at = (value, found) if found else (f"{run['final']:.0e}", run)
    return [cost, f"{at['steps']} {unit}", f"{at['seconds']:.2f}"]


def _digits(result: dict[str, Any]) -> str:
    lines = []
    for name, runs in result["rows"].items():
        if len(runs) == 1:
            lines.append([f"`{name}`", *_reached(runs[0], "1e-06", "steps")])
            continue
        reached = [run["reached"]["1e-26"] for run in runs]
        solves, seconds = ([one[key] for one in reached] for key in ("steps", "seconds"))
        cells = ["1e-26", f"{min(solves)}–{max(solves)} solves", f"{statistics.median(seconds):.2f}"]
        lines.append([f"`{name}`", *cells])
    return table(["optimizer", "cost reached", "after", "seconds"], lines) + "\n" + environment(result) + "\n"


def _diabetes(result: dict[str, Any]) -> str:
    return _race(result["rows"]) + environment(result) + "\n"


def _mnist(results: dict[str, Any]) -> str:
    whole = next(result for result in results.values() if "environment" in result)
    return _race(_runs(results)) + environment(whole) + "\n"


def _runs(results: dict[str, Any]) -> dict[str, Any]:
    """The run of each case, or the reason why there is none."""
    return {name: result.get("row", result) for name, result in results.items()}


def _race(runs: dict[str, Any]) -> str:
    """Seconds of each optimizer to some costs."""
    lines = []
    for name, run in runs.items():
        if "failed" in run:
            lines.append([f"`{name}`", reason(run), "", "", "", ""])
            continue
        cells = [run["reached"][value] for value in ("1e-06", "1e-12", "1e-20")]
        times = [f"{cell['seconds']:.2f}" if cell else "—" for cell in cells]
        lines.append([f"`{name}`", f"{min(point[2] for point in run['curve']):.0e}", str(run["steps"]), *times])
    header = ["optimizer", "least cost", "steps", "seconds to 1e-6", "to 1e-12", "to 1e-20"]
    return table(header, lines) + "\n"


def _classification(result: dict[str, Any]) -> str:
    lines = []
    for cost in ("l2", "cross_entropy"):
        for name, row in result[cost].items():
            accuracy = f"{100 * row['accuracy_mean']:.2f} ± {100 * row['accuracy_sd']:.2f}"
            lines.append([cost, name.replace("_", " "), accuracy, str(row["epochs"]), f"{row['seconds_mean']:.2f}"])
    header = ["cost", "optimizer", "test accuracy, %", "epochs", "seconds"]
    return table(header, lines) + "\n" + environment(result) + "\n"


def _two_steps(result: dict[str, Any]) -> str:
    lines = []
    for step in range(3):
        train, test = ([run[key][step] for run in result["runs"]] for key in ("train_cost", "test_cost"))
        accuracy = 100 * statistics.median(run["test_accuracy"][step] for run in result["runs"])
        cells = [statistics.median(train), max(train), statistics.median(test)]
        lines.append([str(step), *(f"{cell:.1e}" for cell in cells), f"{accuracy:.1f}"])
    header = ["steps", "median training cost", "worst training cost", "median test cost", "test accuracy, %"]
    return table(header, lines) + "\n" + environment(result) + "\n"


def _orbits(result: dict[str, Any]) -> str:
    lines = [
        [
            name,
            f"{row['rtol']:.0e}",
            str(row["lifts"]),
            f"{row['seconds']:.0f}",
            f"{row['largest_error_of_an_output']:.1e}",
            f"{row['largest_defect_down_to_1e-20']:.1e}",
        ]
        for name, row in result["rows"].items()
    ]
    header = ["solver", "rtol", "lifts", "seconds", "largest error of an output", "of the cost, relative"]
    return table(header, lines) + "\n" + environment(result) + "\n"


def _statements(results: dict[str, Any]) -> str:
    lines = []
    for row in results["statements"]:
        says, what = (row[key].replace("|", "\\|") for key in ("says", "what"))
        lines.append([row["source"], says, f"`{row['test']}`", what, f"{row['value']:.2g}", row["bound"]])
    return table(["Statement", "What it says", "Test", "Measured", "Value", "Must be"], lines)


def _gpu_steps(results: dict[str, Any]) -> str:
    names = ("gradient", "Adam step", "jaxgeo", "jaxgeo, default solver", "dense Jacobian, no TF32", "dense Jacobian")
    lines = []
    for case in (case for case in results if case.startswith("step_")):
        result = results[case]
        rows = [result["rows"].get(name, {}) for name in names]
        times = [number(row["median_ms"]) if "median_ms" in row else "–" for row in rows]
        lines.append([str(result["QN"]), f"{result['K']:.3g}", *times])
    header = ["QN", "K", "gradient", "Adam", "`GramCholesky`", "default", "dense D, float32", "dense D, TF32"]
    return table(header, lines) + "\n" + environment(result) + "\n"


def _gpu_accuracy(result: dict[str, Any]) -> str:
    lines = [[name, *(f"{error:.1e}" for error in row.values())] for name, row in result["relative_errors"].items()]
    return table(["", "float32", "TF32 allowed"], lines) + f"\nQN = {result['QN']}, K = {result['K']}.\n"


def _gpu_update(result: dict[str, Any]) -> str:
    lines = [[name, number(row["median_ms"])] for name, row in result["rows"].items()]
    return table(["float64", "ms"], lines) + f"\nQN = {result['QN']}, K = {result['K']}.\n"


def _fits(results: dict[str, Any]) -> str:
    rows = {name: row for result in results.values() for name, row in result["fits"].items()}
    solved: dict[str, list[dict[str, Any] | None]] = {}
    for row in rows.values():
        costs = [found["cost"] for of_solver in row.values() for found in of_solver.values()]
        least = min(cost for cost in costs if math.isfinite(cost))
        for solver, of_solver in row.items():
            good = [found if found["cost"] <= least * (1 + 1e-8) + 1e-20 else None for found in of_solver.values()]
            solved.setdefault(solver, []).extend(good)
    lines = []
    for solver, found in solved.items():
        both = [(a, b) for a, b in zip(found, solved["lm"], strict=True) if a and b]
        ratios = [ours["updates"] / theirs["updates"] for ours, theirs in both if theirs["updates"]]
        updates = sorted(each["updates"] for each in found if each)
        evaluations = [each["evaluations"] for each in found if each and "evaluations" in each]
        digits = [each["digits"] for each in found if each and "digits" in each]
        lines.append([
            f"`{solver}`",
            f"{len(updates)} of {2 * len(rows)}",
            f"{statistics.median(updates):.0f}",
            f"{statistics.median(ratios):.2f}",
            f"{statistics.quantiles(ratios, n=10)[-1]:.2f}",
            f"{statistics.median(evaluations):.0f}" if evaluations else "",
            f"{statistics.median(digits):.1f}",
        ])  # fmt: skip
    header = ["", "solved", "updates", "relative to MINPACK", "90th percentile", "evaluations", "digits"]
    late = [each["late"] for each in solved["jaxgeo"] if each]
    some = next(iter(results.values()))
    summary = (
        f"{len(rows)} fits; medians. Updates are evaluations of the Jacobian, and steps for optimistix. Evaluations "
        f"of the model include those within derivatives. jaxgeo ends {statistics.median(late):.0f} updates after its "
        f"cost is final to 1e-10 (median; at most {max(late)}). {environment(some)}\n"
    )
    return table(header, lines) + "\n" + summary


def _minibatches(results: dict[str, Any]) -> str:
    """Medians over the splits that were not used to choose rates."""
    results = {case: result for case, result in results.items() if "gradients_a_step" in result}
    lines = []
    for case, result in results.items():
        for name, budgets in result["rows"].items():
            for budget, row in budgets.items():
                best = [min(run["curve"], key=lambda point: point[2]) for run in row["runs"]]
                loss, accuracy, steps, seconds = (statistics.median(point[k] for point in best) for k in (2, 3, 0, 1))
                cells = [f"{loss:.3f}", f"{accuracy:.3f}", f"{steps:.0f}", f"{seconds:.2f}"]
                lines.append(
                    [case.replace("_", ", "), f"`{name}`", f"{row['rate']:g}", budget.replace("_", " "), *cells]
                )
    header = ["problem", "optimizer", "rate", "at", "lowest NLL", "accuracy there", "after steps", "seconds"]
    prices = ", ".join(f"{result['gradients_a_step']:.1f} ({case})" for case, result in results.items())
    splits = ", ".join(
        f"{case}: {len(result['splits'])} splits; rates were chosen on {len(result['tuning_splits'])} other"
        for case, result in results.items()
    )
    notes = f"CPU time of an update of jaxgeo in gradients of the batch (median): {prices}. {splits}."
    return (
        table(header, lines) + "\n" + notes.replace("_", ", ") + " " + environment(next(iter(results.values()))) + "\n"
    )


def _tasks(results: dict[str, Any]) -> str:
    """The races with AdamW alone: all starts at the end."""
    lines = []
    for case, what in (("table", "mean squared error"), ("characters", "negative log likelihood")):
        for name, row in results[case]["rows"].items():
            ends = [run[-1] for run in row["runs"]]
            losses = ", ".join(f"{end[2]:.3f}" if case == "characters" else f"{end[2]:.0e}" for end in ends)
            seconds = statistics.median(end[1] for end in ends)
            lines.append([case, f"`{name}`", f"{row['rate']:g}", what, losses, str(ends[0][0]), f"{seconds:.1f}"])
    header = ["problem", "optimizer", "rate", "held-out", "of each start", "updates", "seconds"]
    return table(header, lines) + "\n" + environment(results["table"]) + "\n"


class Table(NamedTuple):
    """The source of a table: a case of a module, or all of its cases."""

    module: str
    case: str | None
    make: Callable[[dict[str, Any]], str]

    def render(self, folder: Path) -> str:
        results = json.loads((folder / f"{self.module}.json").read_text())
        return self.make(results if self.case is None else results[self.case])


TABLES = {
    **{f"lift_accuracy_{dtype}": Table("lift_accuracy", dtype, _accuracy) for dtype in ("float64", "float32")},
    **{f"lift_speed_{case}": Table("lift_speed", case, speed) for case in ("a", "b", "c", "pde", "pde_wide")},
    "conjugate_gradients": Table("lift_iterative", "conjugate_gradients", _conjugate_gradients),
    "optimizers_digits": Table("optimizers", "digits", _digits),
    "optimizers_diabetes": Table("optimizers", "diabetes", _diabetes),
    "mnist": Table("mnist", None, _mnist),
    "optimizers_classification": Table("optimizers", "classification", _classification),
    "minibatches": Table("minibatches", None, _minibatches),
    "minibatch_tasks": Table("minibatches", None, _tasks),
    "two_steps": Table("two_steps", "zeros_and_ones", _two_steps),
    "equations": Table("equations", None, _equations),
    "gpu_steps": Table("gpu", None, _gpu_steps),
    "gpu_accuracy": Table("gpu", "accuracy", _gpu_accuracy),
    "gpu_update": Table("gpu", "update", _gpu_update),
    "fits": Table("fits", None, _fits),
    "orbits": Table("orbits", "digits", _orbits),
    "scaling": Table("scaling", None, scaling),
    "tables": Table("tables", "prices", tables),
    "profile": Table("profile", "updates", profile),
    "beside": Table("beside", None, beside),
    "coverage": Table("error_bars", "coverage", coverage),
    "estimators_numbers": Table("estimators", "numbers", compared),
    "estimators_classes": Table("estimators", "classes", compared),
    "statements": Table("statements", None, _statements),
}


def rendered(text: str) -> str:
    """A document with its tables and numbers rendered again."""

    def place(match: re.Match[str]) -> str:
        start, name, end = match.groups()
        return f"{start}\n{TABLES[name].render(RESULTS)}\n{end}"

    return filled(PLACE.sub(place, text))


def summary(folder: Path) -> str:
    """Every table for which a folder has results."""
    found = []
    for name, each in TABLES.items():
        path = folder / f"{each.module}.json"
        if path.exists() and (each.case is None or each.case in json.loads(path.read_text())):
            found.append(f"## {name}\n\n{each.render(folder)}")
    return "\n".join(found)


def documents() -> list[Path]:
    """Where tables and numbers can be."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def draw_figures() -> None:
    """The figures in the documents."""

    def read(module: str) -> dict[str, Any]:
        return json.loads((RESULTS / f"{module}.json").read_text())

    diabetes = read("optimizers")["diabetes"]["rows"]
    mnist = _runs(read("mnist"))
    drawn = {
        "front": front(read("equations")),
        "lift_sweep": lift_sweep(read("lift_speed")),
        "deep_poisson": deep_poisson(read("gpu")["p5"]),
        "equations": equation_errors(read("equations")),
        "minibatches": minibatches(read("minibatches")),
        "races": races({"diabetes, QN = 442": diabetes, "1000 of MNIST, QN = 10 000": mnist}),
    }
    folder = ROOT / "docs" / "figures"
    folder.mkdir(exist_ok=True)
    # Write no date and no random names, so that the same results give the same file.
    with matplotlib.rc_context({"svg.hashsalt": "jaxgeo"}):
        for name, figure in drawn.items():
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


def main() -> None:
    draw_figures()
    for path in documents():
        path.write_text(rendered(path.read_text()))


if __name__ == "__main__":
    main()
