"""Ready problems and tables."""

import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from input_matrix.cells import Case, Entry
from input_matrix.values import (
    X,
    called,
    count,
    floats,
    number,
    optional,
)
from jaxgeo.app.data import digits, read_table, table_task
from jaxgeo.equations import (
    Network,
    choose_hidden,
    divergence,
    gradient,
    harmonic_10d,
    heat_1d,
    heat_4d,
    laplacian,
    log_fokker_planck_9d,
    poisson_2d,
    poisson_5d,
    poisson_100d,
)
from jaxgeo.fitting import Scaling


def ready() -> list[Entry]:
    folder = Path(tempfile.mkdtemp())

    def table(text: Any) -> Any:
        path = folder / "table.csv"
        path.write_bytes(text if isinstance(text, bytes) else str(text).encode())
        return table_task(read_table(path), "y").train_inputs

    rows = "".join(f"{i},{i * i % 7},{np.sin(i)}\n" for i in range(12))
    texts = {
        "empty": Case("", True),
        "only a header": Case("a,b,y\n", True),
        "NaN": Case("a,b,y\n" + rows + "nan,1,1.5\n", True),
        "inf": Case("a,b,y\n" + rows + "inf,1,1.5\n", True),
        "text": Case("a,b,y\n" + rows + "=A1+1,1,1.5\n", True),
        "ragged": Case("a,b,y\n" + rows + "1,1.5\n", True),
        "no target": Case("a,b,c\n" + rows, True),
        "binary": Case(b"\xff\xfe\x00a,b,y\n", True),
        "NUL": Case("a,b,y\n" + rows + "1\x00,2,3.5\n", True),
        "windows": Case("\ufeffa,b,y\r\n" + rows.replace("\n", "\r\n"), False),
        "huge field": Case("a,b,y\n" + rows + "1" * 200_000 + ",1,1.5\n", True),
    }
    widths = {
        "zero": Case((2, 0, 1), True),
        "negative": Case((2, -3, 1), True),
        "one": Case((2,), True),
        "empty": Case((), True),
        "fraction": Case((2, 1.5, 1), True),
        "text": Case("2-3-1", True),
        "None": Case(None, True),
        "list": Case([2, 3, 1], False),
    }
    scaling = Scaling.fit(("a", "b"), X)
    named = {"text": ("table.csv", "CSV", "column", "csv")}
    return [
        Entry("read_table", table, {"text": "a,b,y\n" + rows}, {"text": texts}, named),
        Entry(
            "read_table of a path",
            read_table,
            {"path": __file__},
            {
                "path": {
                    "missing": Case(folder / "none.csv", True),
                    "folder": Case(folder, True),
                    "None": Case(None, True),
                    "number": Case(1, True),
                }
            },
            {"path": ("none.csv", folder.name, "path")},
        ),
        Entry(
            "table_task",
            lambda **a: (
                table(a and "a,b,y\n" + rows) is not None
                and table_task(read_table(folder / "table.csv"), "y", **a).train_inputs
            ),
            {"num_samples": 5, "test_fraction": 0.2},
            {"num_samples": optional(count()), "test_fraction": {k: v for k, v in number().items() if k != "function"}},
            {"num_samples": ("num_samples", "train", "samples")},
        ),
        Entry(
            "digits",
            lambda num_samples: digits(num_samples).train_inputs,
            {"num_samples": 20},
            {"num_samples": count() | {"NumPy integer": Case(np.int64(20), False)}},
            {"num_samples": ("num_samples", "number of samples")},
        ),
        Entry(
            "Network",
            lambda sizes: Network(sizes, jnp.float64, key=jax.random.key(0))(jnp.ones(2)),
            {"sizes": (2, 3, 1)},
            {"sizes": widths},
        ),
        Entry(
            "choose_hidden",
            choose_hidden,
            {"num_inputs": 2, "num_outputs": 1, "num_rows": 5},
            {name: count() for name in ("num_inputs", "num_outputs", "num_rows")},
        ),
        Entry(
            "Scaling.fit",
            lambda values: Scaling.fit(("a", "b"), values).apply(X),
            {"values": X},
            {"values": {k: v for k, v in floats(X, fixed_length=False).items() if k not in ("more axes",)}},
        ),
        Entry(
            "Scaling.apply",
            scaling.apply,
            {"values": X},
            {
                "values": {
                    k: v for k, v in floats(X, fixed_length=False).items() if k not in ("more axes", "empty", "scalar")
                }
                | {"other columns": Case(np.ones((2, 3)), True)}
            },
        ),
        *(
            Entry(each.__name__, each, {}, {name: called() | {"None": Case(None, True)}})
            for each, name in ((gradient, "u"), (divergence, "f"), (laplacian, "u"))
        ),
        *(
            Entry(
                each.__name__,
                lambda widths, each=each: each(widths).init(jax.random.key(0)),
                {},
                {"widths": {"zero": Case((0,), True), "text": Case("64", True), "number": Case(64, True)}},
                {"widths": ("widths", "sizes")},
            )
            for each in (harmonic_10d, heat_1d, heat_4d, log_fokker_planck_9d, poisson_5d, poisson_100d)
        ),
        Entry(
            "poisson_2d",
            lambda widths: poisson_2d(widths).init(jax.random.key(0)),
            {"widths": (4,)},
            {
                "widths": {
                    "zero": Case((0,), True),
                    "negative": Case((-1,), True),
                    "text": Case("64", True),
                    "fraction": Case((1.5,), True),
                    "number": Case(64, True),
                }
            },
            {"widths": ("widths", "sizes")},
        ),
        Entry(
            "Equation.points",
            lambda counts: poisson_2d((4,)).points(jax.random.key(0), counts),
            {"counts": (9, 8)},
            {
                "counts": {
                    "zero": Case((0, 0), True),
                    "negative": Case((-1, 4), True),
                    "number": Case(9, True),
                    "fraction": Case((9.5, 8), True),
                }
            },
        ),
    ]
