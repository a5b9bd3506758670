"""Words and choices that the page and the terminal share."""

from typing import Any

import numpy as np

ENDINGS = {
    "reached": "the cost came down to the tolerance",
    "stalled": "the cost ceased to fall above the tolerance",
    "max_steps": "the allowed steps were used up before the tolerance",
    "failed": "the integration failed",
    "interrupted": "the run was interrupted",
}


def pick(rows: list[dict[str, Any]], most: int = 16) -> list[dict[str, Any]]:
    """At most `most` rows, evenly spread, with the first and the last."""
    if len(rows) <= most:
        return rows
    return [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, most).round().astype(int))]
