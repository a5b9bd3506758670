"""One self-contained HTML page about a run, made only from its folder."""

import html
import json
import math
import re
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from jaxgeo.app.report.figures import FAINT, FIGURES, FIRST, INK, MOST_POINTS, SECOND, alone
from jaxgeo.app.report.tables import found_words, networks_card, settings_of_table
from jaxgeo.app.report.words import BASELINES, ending, pick_rows, step_table
from jaxgeo.app.runs import Run, load
from jaxgeo.app.runs.folder import RunFolder
from jaxgeo.app.runs.monitor import kept_row, moment, plain
from jaxgeo.tabular import TableModel


def write_report(path: Path | str) -> Path:
    """Write `report.html` and `figures/*.svg` into the folder of a run; returns the page's path.

    **Raises:** `ValueError` unless the folder holds a run.
    """
    run = load(path)
    folder = RunFolder(run.path)
    sections, rows = [], pick_rows(run.metrics, MOST_POINTS)
    for name, (title, figure) in FIGURES.items():
        try:
            svg = figure(run.summary, rows)
        # An axis cannot show numbers at the limits of a float; matplotlib then raises various errors.
        except (ArithmeticError, ValueError, IndexError, RuntimeError) as error:
            reason = html.escape(" ".join(str(error).split())[:200])
            sections.append(f'<section class="card"><h2>{title}</h2>This figure cannot be drawn: {reason}.</section>')
            continue
        if svg is not None:
            folder.write_text(f"figures/{name}.svg", alone(svg))
            sections.append(f'<section class="card"><h2>{title}</h2>{_inline(svg, title)}</section>')
    folder.write_text("report.html", render(run, sections))
    return run.path / "report.html"


def render(run: Run, figures: list[str]) -> str:
    """The page as text."""
    summary = run.summary
    template = Template(resources.files("jaxgeo.app.report").joinpath("template.html").read_text(encoding="utf-8"))
    warnings = "".join(f"<li>{_text(text)}</li>" for text in summary["warnings"])
    return template.substitute(
        title=html.escape(f"jaxgeo: {summary['name']}"),
        name=html.escape(summary["name"]),
        lead=_text(lead(run)),
        tiles="".join(f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd></div>" for k, v in tiles(run).items()),
        warnings=f'<section class="card notes"><h2>Please note</h2><ul>{warnings}</ul></section>' if warnings else "",
        figures="".join(figures),
        classes=_classes(summary) + (networks_card(run.model) if isinstance(run.model, TableModel) else ""),
        **dict(zip(("header", "steps"), _table(*step_table(run.metrics)), strict=True)),
        trained=_pairs({"data": summary["source"], **_settings(run)}),
        environment=_pairs(summary["environment"]),
        folder=html.escape(json.dumps(run.path.as_posix(), ensure_ascii=False)),
    )


# Options and powers of ten, which a browser would break at their signs.
WORD = re.compile(r"--[\w-]+|\d[\d.]*e[+-]\d+")


def _text(text: str) -> str:
    """Text as HTML, whose options and numbers stay on one line."""
    return WORD.sub(r'<span class="word">\g<0></span>', html.escape(text))


def lead(run: Run) -> str:
    """The outcome of the run, and the costs of the network that is saved."""
    summary, rows = run.summary, run.metrics
    ended, took = (
        ending(summary).capitalize(),
        f"{summary['steps']} steps and {summary['seconds']:.0f} seconds",
    )
    kept = kept_row(rows) if rows else {}
    judged = f"; on the validation rows it is {kept['validation_cost']:.4g}" if "validation_cost" in kept else ""
    if rows and kept is not rows[-1]:
        text = (
            f"{ended}, after {took}. The network that is saved is the one at {moment(kept)}. Its cost on the training "
            f"rows is {summary['cost']:.4g}, from {summary['cost0']:.4g}{judged}."
        )
    else:
        text = f"{ended}: from {summary['cost0']:.4g} to {summary['cost']:.4g} in {took}{judged}."
    if summary["predicted_stopping_time"] and summary["stopping_time"] and summary["outcome"] == "reached":
        off = abs(summary["stopping_time"] / summary["predicted_stopping_time"] - 1)
        text += (
            f" It stopped at s = {summary['stopping_time']:.6g}; the prediction before the run was "
            f"{summary['predicted_stopping_time']:.6g} (relative difference {off:.1e})."
        )
    return text


def tiles(run: Run) -> dict[str, str]:
    """The figures of merit, as text; the score on held-out rows comes first."""
    summary, last = run.summary, kept_row(run.metrics) if run.metrics else {}
    classify = summary["kind"] == "classification"
    shown = {}
    for name, label in (("test", "held-out"), ("train", "training")):
        if f"{name}_accuracy" in last:
            shown[f"{label} accuracy"] = f"{last[f'{name}_accuracy']:.1%}"
        if f"{name}_rmse" in last:
            shown[f"{label} error"] = plain(last[f"{name}_rmse"])
        if name == "test":
            for simple, score in (("a linear model", "linear"), (BASELINES[summary["kind"]], "baseline")):
                shown[simple] = f"{summary[score]:.1%}" if classify else plain(summary[score])
            shown |= found_words(summary)
    if summary["predicted_stopping_time"] is not None:
        shown["largest |C/law − 1|"] = f"{summary['largest_deviation']:.1e}"
    shown |= {"N": str(summary["N"]), "QN": str(summary["QN"]), "K": str(summary["K"])}
    if summary["rank"] is not None:
        condition = math.inf if summary["condition"] is None else summary["condition"]
        shown |= {"rank(D)": str(summary["rank"]), "cond(DDᵀ)": f"{condition:.3g}"}
    return shown


def _settings(run: Run) -> dict[str, str]:
    config = run.config
    if isinstance(run.model, TableModel):
        return settings_of_table(run)
    optional = {
        "learning rate": config.learning_rate,
        "batch size": config.batch_size,
        "patience": config.patience,
        "step tolerance": config.rtol,
    }
    return {
        "network": "-".join(map(str, run.model.sizes)),
        **({"optimizer": config.optimizer} if config.optimizer else {"flow": config.flow}),
        "tolerance": f"{config.tol:g} times C(0)",
        **{name: f"{value:g}" for name, value in optional.items() if value is not None},
        "precision": config.precision,
        "seed": str(config.seed),
        "held-out rows": str(run.summary["test_rows"]),
    }


def _classes(summary: dict[str, Any]) -> str:
    """For classification: the confusion table, and the wrong answers with the highest confidence."""
    names, pairs, wrong = summary["classes"], summary["confusion"], summary["held_out"]
    cards = ""
    if pairs:
        size = len(names)
        most = max(max(pairs), 1)
        rows = []
        for true, name in enumerate(names):
            cells = "".join(
                f'<td style="--share:{pairs[true * size + taken] / most:.3f}">{pairs[true * size + taken] or ""}</td>'
                for taken in range(size)
            )
            rows.append(f"<tr><th>{html.escape(name)}</th>{cells}</tr>")
        header = "".join(f"<th>{html.escape(name)}</th>" for name in names)
        cards += (
            '<section class="card"><h2>Held-out rows: true class (down), predicted class (across)</h2>'
            f'<table class="confusion"><thead><tr><th></th>{header}</tr></thead>{"".join(rows)}</table></section>'
        )
    if names and wrong.get("row"):
        columns = (wrong[name] for name in ("row", "true", "predicted", "lead"))
        lines = [
            [str(int(row)), names[int(true)], names[int(predicted)], f"{lead:.2f}"]
            for row, true, predicted, lead in zip(*columns, strict=True)
        ]
        header, body = _table(["row", "true", "predicted", "margin"], lines)
        cards += (
            '<section class="card"><h2>Wrong with the highest confidence</h2><table class="steps">'
            f"<thead><tr>{header}</tr></thead>{body}</table></section>"
        )
    return cards


def _table(header: list[str], rows: list[list[str]]) -> tuple[str, str]:
    """The cells of the header, and the rows of the body."""
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return "".join(f"<th>{html.escape(name)}</th>" for name in header), body


def _pairs(pairs: dict[str, str]) -> str:
    return "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in pairs.items())


def _inline(svg: str, title: str) -> str:
    """A figure that uses the colours of the page, light or dark."""
    for color, name in ((INK, "ink"), (FIRST, "first"), (SECOND, "second"), (FAINT, "faint")):
        svg = svg.replace(color, f"var(--{name})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1)
