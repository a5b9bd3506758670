"""A run folder with known contents, created without training."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxgeo.app.data import Encoder, Kind, Task
from jaxgeo.app.runs import Config
from jaxgeo.app.runs.folder import RunFolder
from jaxgeo.equations import Network
from jaxgeo.fitting import Scaling

SIZES = (2, 3, 1)
CONFIG = Config(
    "data <b>.csv", 4, (3,), "adapted", 1e-2, 1e-5, 100, 0, "float64", target="naïve €", task="regression", drop=("q",)
)


def task():
    rng = np.random.default_rng(0)
    raw, y = rng.normal(3, 2, (6, 2)), rng.normal(10, 5, (6, 1))
    inputs, outputs = Scaling.fit(("a", "b"), raw[:4]), Scaling.fit(("naïve €",), y[:4])
    x, t = inputs.apply(raw), outputs.apply(y)
    return Task(
        "data",
        "data <b>.csv",
        Kind.REGRESSION,
        x[:4],
        t[:4],
        x[4:],
        t[4:],
        (6, 7),
        inputs,
        outputs,
        Encoder.of_numbers(("a", "b")),
    )


def network(dtype=jnp.float64, seed=5):
    return Network(SIZES, dtype, key=jax.random.key(seed))


def rows(count=5):
    tau = np.linspace(0, 2, count)
    return [
        {
            "s": 4 * float(t),
            "s_over_N": float(t),
            "cost": 0.5 * float(np.exp(-2 * t)),
            "law": 0.5 * float(np.exp(-2 * t)),
            "deviation": 0.0,
            "train_rmse": 1.0,
            "test_rmse": 2.0,
        }
        for t in tau
    ]


def summary(outcome="reached", **changes):
    return {
        "name": "data",
        "source": "data <b>.csv",
        "kind": "regression",
        "outcome": outcome,
        "message": "",
        "N": 4,
        "QN": 4,
        "K": 13,
        "test_rows": 2,
        "rank": 4,
        "condition": 8.0,
        "spectrum_start": (8.0, 4.0, 2.0, 1.0),
        "spectrum_end": None,
        "cost0": 0.5,
        "cost": 0.5 * float(np.exp(-4)),
        "predicted_stopping_time": 8.0,
        "stopping_time": 8.0,
        "largest_deviation": 0.0,
        "steps": 4,
        "seconds": 1.0,
        "baseline": 3.0,
        "linear": 2.5,
        "notes": (),
        "warnings": ("<script>alert(1)</script>",),
        "environment": {"Python": "3"},
        "classes": (),
        "confusion": (),
        "held_out": {"row": (6, 7), "true": (1.0, 2.5), "predicted": (1.5, 2.0)},
        "evidence": None,
    } | changes


def write(path, metrics=None, **changes):
    with RunFolder.create(path, fresh_name=False) as folder:
        folder.save_settings(CONFIG, task(), SIZES)
        folder.save_parameters(network())
        folder.save_metrics(rows() if metrics is None else metrics)
        folder.save_summary(summary(**changes))
    return folder
