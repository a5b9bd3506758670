"""Figures in the documents, from the results; `python -m benchmarks.render` draws them with the tables."""

from typing import Any

from matplotlib.figure import Figure

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
        # The second pair of axes has made the ticks anew.
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
