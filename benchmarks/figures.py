"""Figures in the documents, from the results; `python -m benchmarks.render` draws them with the tables."""

import statistics
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from benchmarks.rivals import OURS

# Of ENGD with Woodbury and a line search, arXiv 2505.12149: updates and relative error at this batch and network.
PUBLISHED = {"poisson_5d_deep": ((61, 6e-4), (252, 6e-6))}
# The same with its last value, and SPRING, which has the lowest error there.
PUBLISHED_DEEP = {
    "ENGD-W, line search": (*PUBLISHED["poisson_5d_deep"], (5509, 4.3e-7)),
    "SPRING": ((491, 6e-4), (790, 6e-6), (1272, 6e-7), (4726, 1.7e-7)),
}
# Problems side by side in a figure.
ACROSS = 4
SWEPT = {"N": "N", "Q": "Q", "width": "width", "depth": "hidden layers"}


def _size(axis: str, point: dict[str, Any]) -> int:
    widths = point["widths"]
    return {"N": point["N"], "Q": widths[-1], "width": widths[1], "depth": len(widths) - 2}[axis]


def lift_sweep(results: dict[str, Any]) -> Figure:
    """Time of a damped lift against N, Q, width and depth, with the flops that the plan of the Gram matrix predicts."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    axes = figure.subplots(1, 4, sharey=True)
    for axis, (name, label) in zip(axes, SWEPT.items(), strict=True):
        points = results["sweep"][name]
        sizes = [_size(name, point) for point in points]
        times = {row: [point["rows"][row]["median_ms"] for point in points] for row in ("jaxgeo", "gradient")}
        axis.loglog(sizes, times["jaxgeo"], "o-", color="C0", label="damped lift")
        axis.loglog(sizes, times["gradient"], "s-", color="C7", label="plain gradient")
        axis.set_xlabel(label)
        flops = axis.twinx()
        flops.loglog(sizes, [point["predicted_gflop"] for point in points], "k--", label="predicted for G, right axis")
        flops.set_ylim(1e-2, 1e2)
        # The second pair of axes has reset the ticks.
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.minorticks_off()
        flops.minorticks_off()
        if axis is axes[-1]:
            flops.set_ylabel("GFlop")
        else:
            flops.set_yticklabels([])
        if axis is axes[0]:
            axis.set_ylabel("milliseconds")
            handles = axis.get_legend_handles_labels()[0] + flops.get_legend_handles_labels()[0]
            figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False)
    return figure


def equation_errors(results: dict[str, Any]) -> Figure:
    """Relative L2 error against updates and seconds: each start, jaxgeo's median in bold, and the others."""
    bands = -(-len(results) // ACROSS)
    figure = Figure(figsize=(11, 5.6 * bands), layout="constrained")
    axes = figure.subplots(2 * bands, ACROSS, squeeze=False)
    # Each problem has one axis above the other.
    pairs = axes.reshape(bands, 2, ACROSS).swapaxes(1, 2).reshape(-1, 2)
    for pair, (case, result) in zip(pairs, results.items(), strict=False):
        pair[1].sharey(pair[0])
        for number, (axis, label) in enumerate(zip(pair, ("updates", "seconds"), strict=True)):
            for color, (name, row) in enumerate(result["rows"].items()):
                curves = [[(point[number], point[2]) for point in run["errors"][1:]] for run in row["runs"]]
                _curves(axis, curves, f"C{color}", name)
            if number == 0 and case in PUBLISHED:
                axis.plot(*zip(*PUBLISHED[case], strict=True), "kx", label="published: ENGD-W, line search")
            axis.set(xscale="log", yscale="log", xlabel=label)
            # Over a decade or less, matplotlib would label every tick between powers of ten, with overlaps.
            axis.xaxis.set_minor_formatter(NullFormatter())
        pair[0].set_title(case)
    for axis in axes[:, 0]:
        axis.set_ylabel("relative error")
    for axis in pairs[len(results) :].flat:
        axis.set_axis_off()
    _legend(figure)
    return figure


def front(results: dict[str, Any]) -> Figure:
    """Relative error against seconds on the 2-D Poisson equation: every start, and the medians in bold."""
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axis = figure.subplots()
    rows = results["poisson_2d"]["rows"]
    for color, (name, row) in enumerate(rows.items()):
        curves = [[(seconds, error) for _, seconds, error in run["errors"][1:]] for run in row["runs"]]
        _curves(axis, curves, f"C{color}", name)
    axis.set(xscale="log", yscale="log", xlabel="seconds on two CPU cores", ylabel="relative error")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.legend(frameon=False)
    return figure


def deep_poisson(result: dict[str, Any]) -> Figure:
    """Relative error against steps on the 5-D Poisson equation with 10 065 parameters, and published results."""
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axis = figure.subplots()
    _curves(axis, [[(updates, error) for updates, _, error in result["errors"][1:]]], "C0", "jaxgeo, by default")
    for marker, (name, points) in zip("x+", PUBLISHED_DEEP.items(), strict=True):
        axis.plot(*zip(*points, strict=True), f"k{marker}", label=f"published: {name}")
    axis.set(xscale="log", yscale="log", xlabel="steps, each on fresh points", ylabel="relative error")
    axis.legend(frameon=False)
    return figure


def _curves(axis: Axes, curves: list[list[tuple[float, float]]], color: str, name: str) -> None:
    """Draw every curve thin, and the median bold as far as all curves reach; draw a single curve bold."""
    if len(curves) > 1:
        for curve in curves:
            axis.plot(*zip(*curve, strict=True), color=color, linewidth=0.6, alpha=0.5)
    median = [
        tuple(statistics.median(values) for values in zip(*points, strict=True))
        for points in zip(*curves, strict=False)
    ]
    axis.plot(*zip(*median, strict=True), color=color, linewidth=2, label=name)


def races(results: dict[str, dict[str, Any]]) -> Figure:
    """Cost against seconds: a panel for each problem with the runs of every optimizer, one colour for all its rates."""
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    axes = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
    names = list(dict.fromkeys(_family(name) for runs in results.values() for name in runs))
    colors = dict(zip(names, colormaps["tab20"].colors, strict=False))
    for axis, (title, runs) in zip(axes, results.items(), strict=True):
        for name, run in runs.items():
            points = [(seconds, cost) for _, seconds, cost in run.get("curve", [])[1:]]
            if points:
                width = 2.5 if name in OURS else 1
                axis.plot(*zip(*points, strict=True), color=colors[_family(name)], linewidth=width, label=_family(name))
        axis.set(xscale="log", yscale="log", xlabel="seconds", title=title)
    axes[0].set_ylabel("cost")
    _legend(figure)
    return figure


def minibatches(results: dict[str, dict[str, Any]]) -> Figure:
    """Held-out negative log likelihood over updates, above, and over seconds, below: a thin line for each split."""
    images = {case: result for case, result in results.items() if "gradients_a_step" in result}
    figure = Figure(figsize=(11, 6), layout="constrained")
    axes = figure.subplots(2, len(images), squeeze=False)
    for column, (case, result) in enumerate(images.items()):
        for index, (name, budgets) in enumerate(result["rows"].items()):
            for row, budget in enumerate(("equal_steps", "equal_time")):
                for run in budgets.get(budget, budgets["equal_steps"])["runs"]:
                    points = [(point[row], point[2]) for point in run["curve"]]
                    axes[row, column].plot(*zip(*points, strict=True), color=f"C{index}", linewidth=1, label=name)
        axes[0, column].set(xlabel="updates", title=case.replace("_", ", "))
        axes[1, column].set(xlabel="seconds", xscale="log")
        # Labels between powers of ten run into one another.
        axes[1, column].xaxis.set_minor_formatter("")
        for axis in axes[:, column]:
            axis.set_yscale("log")
    for axis in axes[:, 0]:
        axis.set_ylabel("negative log likelihood")
    _legend(figure)
    return figure


def _family(name: str) -> str:
    return name.split("(")[0]


def _legend(figure: Figure) -> None:
    """One legend for all panels, above them, with each name once."""
    handles: dict[str, Any] = {}
    for axis in figure.axes:
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.legend(
        handles.values(), handles.keys(), loc="outside upper center", ncols=4, frameon=False, fontsize="small"
    )
