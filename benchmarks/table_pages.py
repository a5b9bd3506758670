"""The results on tables as tables in Markdown."""

import statistics
from typing import Any

from benchmarks.markdown import environment, table


def tables(result: dict[str, Any]) -> str:
    """Errors of each method on the price tables."""
    seeds = result["seeds"].values()
    lines = []
    for name in next(iter(seeds)):
        rows = [seed[name] for seed in seeds]
        seconds = statistics.median(row["cpu_s"] for row in rows)
        lines.append([f"`{name}`", *(f"{row['error']:.0f}" for row in rows), f"{seconds:.2g}"])
    header = ["", *(f"error, table {seed}" for seed in result["seeds"]), "CPU s"]
    return table(header, lines) + "\n" + environment(result) + "\n"


def coverage(result: dict[str, Any]) -> str:
    """Coverage and width of intervals, and R²."""
    header = ["", "", f"coverage of {result['level']:.0%}", "width", "R²", "seconds"]
    lines = []
    for name, methods in result["tables"].items():
        for method, row in methods.items():
            numbers = f"{row['coverage']:.3f}", f"{row['width']:.2f}", f"{row['r2']:.3f}", f"{row['seconds']:.2g}"
            lines.append([name, method, *numbers])
    return table(header, lines) + "\n" + environment(result) + "\n"


def compared(result: dict[str, Any]) -> str:
    """R² or log loss of each method on each table, the best in bold, with CPU seconds of our fits, and the ranks."""
    ranks, found = result["ranks"], result["tables"]
    methods = list(ranks)
    key = "log_loss" if any("log_loss" in row[methods[0]] for row in found.values()) else "r2"
    sign = 1 if key == "log_loss" else -1
    lines = []
    for name, row in found.items():
        best = min(sign * row[method][key] for method in methods if method in row)
        cells = [_cell(row, method, key, best, sign) for method in methods]
        ours = row[methods[0]]
        held = [f"{ours['coverage']:.2f}"] if "coverage" in ours else []
        lines.append([name, f"{row['trained_rows']} × {row['inputs']}", *cells, f"{ours['cpu_s']:.2g}", *held])
    blanks = [""] * (len(lines[0]) - 2 - len(methods))
    lines.append(["mean", "", *(f"{ranks[method]['mean']:.3f}" for method in methods), *blanks])
    lines.append(["mean rank", "", *(f"{ranks[method]['mean_rank']:.2f}" for method in methods), *blanks])
    header = ["", "rows × inputs", *(f"`{name}`" if " " not in name else name for name in methods), "CPU s"]
    return table([*header, *["coverage"] * (len(blanks) - 1)], lines) + "\n" + environment(result) + "\n"


def _cell(row: dict[str, Any], method: str, key: str, best: float, sign: int) -> str:
    if method not in row:
        return "–"
    text = f"{row[method][key]:.3f}"
    return f"**{text}**" if sign * row[method][key] == best else text
