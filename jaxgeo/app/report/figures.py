"""The figures of a report, as SVG text."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxgeo.app.report.words import BASELINES, axis, pick
from jaxgeo.app.runs.monitor import kept_row

# matplotlib obeys a file `matplotlibrc` in the current folder, which may be a stranger's, or a pipe without an end.
with contextlib.chdir(Path(__file__).parent):
    import matplotlib as mpl
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

INK, FIRST, SECOND, FAINT = "#1f2933", "#1769aa", "#c2571a", "#9aa5b1"

RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# Most error bars in a figure.
MOST_BARS = 300
# Most points of a curve. More could not be distinguished, and would take a minute for each million.
MOST_POINTS = 2000

Summary = dict[str, Any]
Rows = list[dict[str, Any]]

STYLE = {
    "svg.fonttype": "path",
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


def cost_figure(summary: Summary, rows: Rows) -> str | None:
    """The cost; along a flow also its law, and the deviation from it."""
    if not rows:
        return None
    name, label = axis(rows)

    def draw(figure: Figure) -> None:
        axes: Any = figure.subplots()
        judged = [row for row in rows if "validation_cost" in row]
        axes.semilogy(_column(rows, name), _column(rows, "cost"), "-", color=SECOND, lw=1.2, label="training rows")
        if judged:
            costs = _column(judged, "validation_cost")
            axes.semilogy(_column(judged, name), costs, "-", color=FIRST, lw=1.2, label="validation rows")
        _mark_saved(axes, rows, name)
        axes.set(xlabel=label, ylabel="cost C")
        if judged:
            axes.legend()

    def draw_law(figure: Figure) -> None:
        axes: Any = figure.subplots(2, 1, sharex=True, height_ratios=[2.4, 1])
        top, bottom = axes
        tau, cost = _column(rows, name), _column(rows, "cost")
        end = max(tau[-1], (summary["predicted_stopping_time"] or 0.0) / summary["N"]) or 1.0
        line = np.linspace(0, end, 200)
        top.semilogy(
            line, summary["cost0"] * np.exp(-2 * line), color=SECOND, lw=5, alpha=0.35, label="law exp(−2s/N) C(0)"
        )
        top.semilogy(tau, cost, "o-", color=FIRST, ms=4, lw=1.2, label="cost")
        if summary["predicted_stopping_time"] is not None:
            top.axvline(summary["predicted_stopping_time"] / summary["N"], color=FAINT, ls="--", label="predicted stop")
        top.set_ylabel("cost C")
        top.legend()
        # A logarithmic axis cannot show zero, and the first point is on the law by definition.
        off = np.maximum(np.abs(_column(rows, "deviation")[1:]), 1e-16)
        bottom.semilogy(tau[1:], off, "o-", color=FIRST, ms=3, lw=1)
        # Whole decades, and two at least: labels between them would not fit.
        if np.isfinite(off).any():
            low, high = np.floor(np.log10(np.nanmin(off))), np.ceil(np.log10(np.nanmax(off)))
            bottom.set_ylim(10 ** min(low, high - 2), 10**high)
        bottom.set(xlabel=label, ylabel="|C/law − 1|")

    return _svg("cost", draw if name == "step" else draw_law, height=4.4)


def spectrum_figure(summary: Summary, rows: Rows) -> str | None:
    """Eigenvalues of DDᵀ at the start and at the end."""
    if summary["spectrum_start"] is None:
        return None

    def draw(figure: Figure) -> None:
        axes: Any = figure.subplots()
        for name, color in (("start", SECOND), ("end", FIRST)):
            values = summary[f"spectrum_{name}"]
            if values is not None:
                positive = np.array([value for value in values if value > 0])
                shown = np.array(pick(range(len(positive)), MOST_POINTS), int)
                axes.semilogy(shown + 1, positive[shown], color=color, lw=1.8, label=f"at the {name}")
        axes.set(xlabel="number, largest first", ylabel="eigenvalue of DDᵀ")
        axes.legend()

    return _svg("spectrum", draw)


def score_figure(summary: Summary, rows: Rows) -> str | None:
    """Accuracy or error on training and held-out rows."""
    if not rows:
        return None

    def draw(figure: Figure) -> None:
        axes: Any = figure.subplots()
        score = "accuracy" if summary["kind"] == "classification" else "rmse"
        name, label = axis(rows)
        tau = _column(rows, name)
        axes.plot(tau, _column(rows, f"train_{score}"), "o-", color=SECOND, ms=3, label="training rows")
        axes.plot(tau, _column(rows, f"test_{score}"), "o-", color=FIRST, ms=3, label="held-out rows")
        axes.axhline(summary["baseline"], color=FAINT, ls="--", label=BASELINES[summary["kind"]])
        _mark_saved(axes, rows, name)
        axes.set(xlabel=label, ylabel="accuracy" if score == "accuracy" else "root mean square error")
        axes.set_ylim(0, 1.03 if score == "accuracy" else None)
        axes.legend()

    return _svg("score", draw)


def held_out_figure(summary: Summary, rows: Rows) -> str | None:
    """True and predicted values of the held-out rows, with standard deviations if known, and a histogram of the errors.

    For regression.
    """
    if summary["classes"] or not summary["held_out"]:
        return None
    true, predicted = (np.array(summary["held_out"][name], np.float64) for name in ("true", "predicted"))
    # Bars of all rows would cover each other.
    barred = np.array(pick(range(len(true)), MOST_BARS), int) if "deviation" in summary["held_out"] else None

    def draw(figure: Figure) -> None:
        axes: Any = figure.subplots(1, 2, width_ratios=[3, 2])
        ends = [min(true.min(), predicted.min()), max(true.max(), predicted.max())]
        axes[0].plot(ends, ends, color=FAINT, lw=1)
        if barred is not None:
            bars = np.array(summary["held_out"]["deviation"], np.float64)[barred]
            axes[0].errorbar(true[barred], predicted[barred], bars, fmt="none", ecolor=FAINT, elinewidth=0.8)
        axes[0].plot(true, predicted, ".", color=FIRST, ms=4, alpha=0.6)
        axes[0].set(xlabel="true", ylabel="predicted")
        axes[1].hist(predicted - true, bins="auto", color=FIRST, alpha=0.7)
        axes[1].set(xlabel="predicted − true", ylabel="rows")

    return _svg("held_out", draw)


def comparison_figure(curves: dict[str, Rows], score: str, baseline: float) -> str:
    """The costs and held-out scores of several methods over time."""

    def draw(figure: Figure) -> None:
        axes: Any = figure.subplots(2, 1, sharex=True)
        colors = (FIRST, SECOND, "#2e7d32", "#7b3fa0", INK)
        for (name, rows), color in zip(curves.items(), colors, strict=False):
            seconds = _column(rows, "seconds")
            axes[0].semilogy(seconds, _column(rows, "cost"), ".-", color=color, ms=4, lw=1.2, label=name)
            axes[1].plot(seconds, _column(rows, score), ".-", color=color, ms=4, lw=1.2)
        axes[1].axhline(baseline, color=FAINT, ls="--")
        axes[0].set_ylabel("cost C")
        axes[0].legend()
        kind = "accuracy" if score == "test_accuracy" else "root mean square error"
        axes[1].set(xlabel="seconds, including compilation", ylabel=f"held-out {kind}")

    return alone(_svg("comparison", draw, height=5.6))


FIGURES: dict[str, tuple[str, Callable[[Summary, Rows], str | None]]] = {
    "cost": ("The cost", cost_figure),
    "score": ("Training and held-out rows", score_figure),
    "held_out": ("Held-out rows", held_out_figure),
    "spectrum": ("The spectrum of DDᵀ", spectrum_figure),
}


def _mark_saved(axes: Any, rows: Rows, name: str) -> None:
    """A line at the network that is saved, unless it is the last."""
    if kept_row(rows) is not rows[-1]:
        axes.axvline(kept_row(rows)[name], color=FAINT, ls=":", label="saved")


def _column(rows: Rows, name: str) -> np.ndarray:
    return np.array([row[name] for row in rows])


def alone(svg: str) -> str:
    """A figure as a separate file: on white, and never wider than its container."""
    return svg.replace("<svg", '<svg style="background:#fff;max-width:100%;height:auto"', 1)


def _svg(salt: str, draw: Callable[[Figure], None], height: float = 3.4) -> str:
    # A separate salt keeps the ids of different figures on the same page apart.
    with mpl.rc_context():
        # A report looks the same whatever the user's own settings are.
        mpl.rcdefaults()
        mpl.rcParams.update({**STYLE, "svg.hashsalt": salt})
        figure = Figure(figsize=(5.0, height), layout="constrained")
        draw(figure)
        file = io.StringIO()
        for axes in figure.axes:
            _label_powers(axes.yaxis)
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]


def _label_powers(axis: Axis) -> None:
    """Label the powers of ten alone on a logarithmic axis that shows several.

    matplotlib parses its own labels as mathematics and places many unlabelled ticks, which takes longer than to draw
    the curves.
    """
    low, high = sorted(axis.get_view_interval())
    if axis.get_scale() == "log" and high >= 100 * low:
        axis.set_major_formatter(lambda value, _: "10" + f"{np.log10(value):.0f}".translate(RAISED))
        axis.set_minor_locator(NullLocator())
