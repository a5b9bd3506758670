"""Ready problems and tables."""

import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from input_matrix.cells import Entry, entry, refused, without, works
from input_matrix.values import A_FUNCTION, COUNT, OPTIONAL_COUNT, POSITIVE, X, floats
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
    header = "a,b,y\n"
    texts = refused(
        empty="",
        only_a_header=header,
        inf=header + rows + "inf,1,1.5\n",
        text=header + rows + "=A1+1,1,1.5\n",
        ragged=header + rows + "1,1.5\n",
        no_target="a,b,c\n" + rows,
        binary=b"\xff\xfe\x00a,b,y\n",
        NUL=header + rows + "1\x00,2,3.5\n",
        huge_field=header + rows + "1" * 200_000 + ",1,1.5\n",
    ) | works(windows="\ufeffa,b,y\r\n" + rows.replace("\n", "\r\n"), gap=header + rows + "nan,1,1.5\n")
    sizes = refused(
        zero=(2, 0, 1), negative=(2, -3, 1), one=(2,), empty=(), fraction=(2, 1.5, 1), text="2-3-1", None_=None
    ) | works(list=[2, 3, 1])
    widths = refused(zero=(0,), text="64", number=64)
    equations = (harmonic_10d, heat_1d, heat_4d, log_fokker_planck_9d, poisson_5d, poisson_100d)
    values = without(floats(X, fixed_length=False), "more axes")

    def split(**arguments: Any) -> Any:
        table(header + rows)
        return table_task(read_table(folder / "table.csv"), "y", **arguments).train_inputs

    def equation(make: Any, widths: Any) -> Any:
        return make(widths).init(jax.random.key(0))

    shaped = {"widths": ("widths", "sizes")}
    scaling = Scaling.fit(("a", "b"), X)
    return [
        entry("read_table", table, named={"text": ("table.csv", "CSV", "column", "csv")}, text=texts),
        entry(
            "read_table of a path",
            read_table,
            named={"path": ("none.csv", folder.name, "path")},
            path=refused(missing=folder / "none.csv", folder=folder, None_=None, number=1),
        ),
        entry(
            "table_task",
            split,
            {"num_samples": 5, "test_fraction": 0.2},
            named={"num_samples": ("num_samples", "train", "samples")},
            num_samples=OPTIONAL_COUNT,
            test_fraction=without(POSITIVE, "function"),
        ),
        entry(
            "digits",
            lambda num_samples: digits(num_samples).train_inputs,
            named={"num_samples": ("num_samples", "number of samples")},
            num_samples=COUNT | works(NumPy_integer=np.int64(20)),
        ),
        entry("Network", lambda sizes: Network(sizes, jnp.float64, key=jax.random.key(0))(jnp.ones(2)), sizes=sizes),
        entry(
            "choose_hidden",
            choose_hidden,
            {"num_inputs": 2, "num_outputs": 1, "num_rows": 5},
            num_inputs=COUNT,
            num_outputs=COUNT,
            num_rows=COUNT,
        ),
        entry("Scaling.fit", lambda values: Scaling.fit(("a", "b"), values).apply(X), values=values),
        entry(
            "Scaling.apply",
            scaling.apply,
            values=without(values, "empty", "scalar") | refused(other_columns=np.ones((2, 3))),
        ),
        entry("gradient", gradient, u=A_FUNCTION),
        entry("divergence", divergence, f=A_FUNCTION),
        entry("laplacian", laplacian, u=A_FUNCTION),
        *(entry(make.__name__, equation, {"make": make}, named=shaped, widths=widths) for make in equations),
        entry(
            "poisson_2d",
            equation,
            {"make": poisson_2d},
            named=shaped,
            widths=widths | refused(negative=(-1,), fraction=(1.5,)),
        ),
        entry(
            "Equation.points",
            lambda counts: poisson_2d((4,)).points(jax.random.key(0), counts),
            counts=refused(zero=(0, 0), negative=(-1, 4), number=9, fraction=(9.5, 8)),
        ),
    ]
