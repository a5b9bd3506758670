"""Closed forms."""

import numpy as np

import jaxgeo as jg
from input_matrix.cells import Case, Entry
from input_matrix.values import Y, count, floats, number


def theory() -> list[Entry]:
    cost = number(zero=True)
    samples = count()
    good = {"s": 1.0, "cost0": 2.0, "num_samples": 3}
    rows = {
        k: v
        for k, v in floats(Y).items()
        if k in ("NaN", "inf", "strings", "another length", "list", "None", "NumPy", "integers", "text", "object")
    }
    time = number(zero=True, negative=True, infinite=True) | {
        "vector": Case(np.array([0.0, 1.0]), False),
        "list": Case([0.5], False),
    }
    return [
        Entry("theory.cost_at", jg.theory.cost_at, good, {"s": time, "cost0": cost, "num_samples": samples}),
        Entry(
            "theory.outputs_at",
            jg.theory.outputs_at,
            {"s": 1.0, "outputs0": Y, "targets": Y, "num_samples": 4},
            {
                "s": time
                | {
                    "vector": Case(np.array([0.0, 1.0]), True),
                    "list": Case([0.5, 1.0], True),
                    "inf": Case(np.inf, False),
                    "negative": Case(-1.0, False),
                },
                "outputs0": rows,
                "targets": rows,
                "num_samples": samples,
            },
            {"outputs0": ("outputs0", "targets"), "targets": ("targets", "outputs0")},
        ),
        Entry(
            "theory.stopping_time",
            jg.theory.stopping_time,
            {"cost0": 1.0, "tol": 0.1, "num_samples": 3},
            {"cost0": cost, "tol": number(), "num_samples": samples},
        ),
        Entry(
            "theory.critical_cost",
            jg.theory.critical_cost,
            {"orthogonal_gradient": Y, "num_samples": 4},
            {"orthogonal_gradient": {k: v for k, v in rows.items() if k != "another length"}, "num_samples": samples},
        ),
        Entry(
            "theory.num_steps",
            jg.theory.num_steps,
            {"cost0": 1.0, "tol": 0.1, "learning_rate": 0.5},
            {"cost0": cost, "tol": number(), "learning_rate": number()},
        ),
    ]
