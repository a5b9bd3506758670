"""Closed forms."""

import numpy as np

from input_matrix.cells import Entry, entry, only, refused, without, works
from input_matrix.values import COUNT, NOT_NEGATIVE, POSITIVE, Y, floats, number
from jaxgeo import theory as closed

KINDS = ("NaN", "inf", "strings", "another length", "list", "None", "NumPy", "integers", "text", "object")


def theory() -> list[Entry]:
    rows = only(floats(Y), *KINDS)
    anything = number(zero=True, negative=True, infinite=True)
    times = anything | works(vector=np.array([0.0, 1.0]), list=[0.5])
    time = anything | refused(vector=np.array([0.0, 1.0]), list=[0.5, 1.0])
    either = {"outputs0": ("outputs0", "targets"), "targets": ("targets", "outputs0")}
    law = {"s": 1.0, "cost0": 2.0, "num_samples": 3}
    line = {"s": 1.0, "outputs0": Y, "targets": Y, "num_samples": 4}
    stop = {"cost0": 1.0, "tol": 0.1, "num_samples": 3}
    steps = {"cost0": 1.0, "tol": 0.1, "learning_rate": 0.5}
    critical = {"orthogonal_gradient": Y, "num_samples": 4}
    some = without(rows, "another length")
    cost = {"cost0": NOT_NEGATIVE, "tol": POSITIVE}
    return [
        entry("theory.cost_at", closed.cost_at, law, s=times, cost0=NOT_NEGATIVE, num_samples=COUNT),
        entry(
            "theory.outputs_at",
            closed.outputs_at,
            line,
            named=either,
            s=time,
            outputs0=rows,
            targets=rows,
            num_samples=COUNT,
        ),
        entry("theory.stopping_time", closed.stopping_time, stop, num_samples=COUNT, **cost),
        entry("theory.critical_cost", closed.critical_cost, critical, orthogonal_gradient=some, num_samples=COUNT),
        entry("theory.num_steps", closed.num_steps, steps, learning_rate=POSITIVE, **cost),
    ]
