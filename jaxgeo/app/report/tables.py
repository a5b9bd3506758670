"""What the page and the terminal say of networks that the evidence weighs."""

import collections
from typing import Any

from jaxgeo.app.runs import Run
from jaxgeo.app.runs.monitor import plain
from jaxgeo.tabular import TableModel


def networks_words(model: TableModel) -> str:
    """How many networks there are, and of which widths."""
    members = model.ensemble.members
    counts = collections.Counter(member.shape.widths for member in members)
    return f"{len(members)}: {', '.join(f'{count} with {_hidden(widths)}' for widths, count in counts.items())}"


def found_words(summary: dict[str, Any]) -> dict[str, str]:
    """What only these networks have, beside the figures of merit of every run."""
    found = summary["evidence"] or {}
    shown = {}
    if "boosting" in found:
        score = found["boosting"]
        shown["gradient boosting"] = f"{score:.1%}" if summary["kind"] == "classification" else plain(score)
    if "coverage" in found and "level" in found:
        shown[f"held-out rows in their {found['level']:.0%} intervals"] = f"{found['coverage']:.1%}"
    if "effective" in found:
        shown["γ, parameters that the data determine"] = f"{found['effective']:.1f} of {summary['K']}"
    return shown


def settings_of_table(run: Run) -> dict[str, str]:
    """How the networks were trained."""
    assert isinstance(run.model, TableModel)
    config = run.config
    return {
        "networks": networks_words(run.model),
        "weights of rows": config.weights or "none",
        "updates": f"{run.summary['steps']} of at most {config.max_steps}",
        "tolerance": f"a change of {config.tol:g} in the logarithm of the evidence",
        "the target's logarithm is learnt": "yes" if run.model.takes_logs else "no",
        "seed": str(config.seed),
        "held-out rows": str(run.summary["test_rows"]),
    }


def networks_card(model: TableModel) -> str:
    """A table of the networks with their weights, which are powers of their evidence."""
    ensemble = model.ensemble
    lines = []
    for member, found, weight in zip(ensemble.members, ensemble.evidences, ensemble.weights, strict=True):
        prior = "by input" if member.shape.by_input else "by layer"
        cells = [_hidden(member.shape.widths), prior, f"{found.determined.sum():.1f}", str(member.shape.size)]
        cells += [f"{found.log:.1f}", f"{weight:.3f}"]
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    header = "".join(f"<th>{name}</th>" for name in ("network", "precisions", "γ", "K", "log evidence", "weight"))
    return (
        '<section class="card"><h2>The networks</h2><table class="steps">'
        f"<thead><tr>{header}</tr></thead>{''.join(lines)}</table></section>"
    )


def _hidden(widths: tuple[int, ...]) -> str:
    return f"{'-'.join(map(str, widths))} hidden units" if widths else "a linear path alone"
