"""Commands other than training: `jaxgeo rank` and `predict` on an existing run, `bench` and `info`."""

import csv
import dataclasses
import importlib.util
import io
import itertools
import os
import subprocess
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from jaxgeo.app.cli.display import make_console, print_table, say
from jaxgeo.app.cli.options import read_task, refuse_endless
from jaxgeo.app.cli.streams import visible
from jaxgeo.app.cli.work import use_precision
from jaxgeo.app.data import Kind, Table as Rows, read_table
from jaxgeo.app.data.cells import Meaning, Reading
from jaxgeo.app.data.encoder import names_rows
from jaxgeo.app.data.table import is_number
from jaxgeo.app.runs import load
from jaxgeo.app.runs.folder import RunFolder
from jaxgeo.app.runs.setup import has_spectrum, prepare
from jaxgeo.app.runs.summary import environment
from jaxgeo.equations import Network
from jaxgeo.fitting.files import write_text
from jaxgeo.geometry import rank_report

# Characters that start a formula in a spreadsheet, including their full-width forms.
FORMULA = tuple("=+-@＝＋－＠")


def rank_command(path: Path, console: Console) -> None:
    """Print the rank and the spectrum of D at the start and at the end of the run in `path`."""
    use_precision(RunFolder(path).read_config())
    run = load(path)
    if not isinstance(run.model, Network):
        raise ValueError(
            f"the run in {path} has several networks, weighted by their evidence, and no single D; train one with "
            "--flow or --optimizer."
        )
    refuse_endless(run.config.problem)
    with console.status("computing the rank of D"):
        setup = prepare(read_task(dataclasses.asdict(run.config)), run.config)
        if setup.network.sizes != run.model.sizes:
            raise ValueError(f"the table is not that of the run in {path}: the sizes of the network differ.")
        if not has_spectrum(setup.num_rows, setup.num_params):
            raise ValueError(
                f"D of the run in {path} has QN × K = {setup.num_rows} × {setup.num_params} entries, too many for all "
                "its singular values; `jaxgeo.geometry.spectrum_estimate` finds the largest."
            )
        params, _ = setup.problem.partition(run.model)
        reports = {
            "start": setup.report or rank_report(setup.problem, setup.params),
            "end": rank_report(setup.problem, params),
        }
    table = Table("D at the", *reports, box=None, header_style="bold")
    full = min(setup.num_rows, setup.num_params)
    rows = {
        "rank": [f"{report.rank} of {full}" for report in reports.values()],
        "cond(DDᵀ)": [f"{report.condition:.3g}" for report in reports.values()],
        "largest eigenvalue of DDᵀ": [f"{report.eigenvalues[0]:.3g}" for report in reports.values()],
        "smallest that counts": [f"{report.eigenvalues[report.rank - 1]:.3g}" for report in reports.values()],
        "gap to those that do not": [f"{report.gap:.3g}" for report in reports.values()],
    }
    for name, cells in rows.items():
        table.add_row(name, *cells)
    print_table(console, table)
    console.print(f"QN = {setup.num_rows}, K = {setup.num_params}: {reports['end'].regime}", highlight=False)


def predict_command(
    path: Path,
    rows: Path,
    out: Path | None,
    console: Console,
    keep: Sequence[str] = (),
    interval: float | None = None,
) -> None:
    """Write the prediction for each row of a table as CSV, into `out` or to standard output.

    **Arguments:**

    - `keep`: columns of the table to repeat beside the predictions; by default one that tells rows apart.
    - `interval`: write standard deviations and the ends of intervals of this probability as well.

    **Raises:** `ValueError` if the run or the table cannot be read, or a column is missing or not numeric.
    """
    if interval is not None and not 0 < interval < 1:
        raise ValueError(f"--interval must be a probability between 0 and 1, such as 0.9; got {interval}.")
    use_precision(RunFolder(path).read_config())
    run = load(path)
    table = read_table(rows)
    labels = _labels(table, keep, run.config.target)
    cells = run.encoder.read(table)
    for note in run.encoder.substituted(cells, run.inputs):
        say(make_console(stderr=True), "note:", note, "yellow")
    inputs, name = run.encoder.encode(cells), run.config.target or "prediction"
    classify = run.kind is Kind.CLASSIFICATION
    if interval is None:
        predicted, ends = run.predict(inputs), {}
    else:
        predicted, deviations = run.predict(inputs, return_std=True)
        low, high = run.predict_interval(inputs, interval)
        ends = {"_std": deviations, "_low": low, "_high": high}
    columns = {**labels, name: [str(value) if classify else repr(float(value)) for value in predicted]}
    columns |= {f"{name}{end}": [*map(repr, values.tolist())] for end, values in ends.items()}
    content = _as_csv([[*columns], *zip(*columns.values(), strict=True)])
    if out is None:
        if sys.stdout.isatty():
            content = _shown(content)
        # Use UTF-8, even if the terminal does not.
        sys.stdout.flush()
        sys.stdout.buffer.write(content.encode())
        sys.stdout.buffer.flush()
    else:
        if os.path.lexists(out):
            raise ValueError(f"{out} exists already; choose another file with --out, or remove it.")
        write_text(out, content)
        say(console, "", f"{len(predicted)} predictions in {out}")


def _labels(table: Rows, keep: Sequence[str], target: str) -> dict[str, list[str]]:
    """Columns that say to which row a prediction belongs.

    These are the columns `keep`; or else the first that by its name tells rows apart, such as `id` or the index that
    pandas writes; or else the number of the row, from 1.
    """
    if target in keep:
        raise ValueError(f"--keep names the target {target!r}, which is the name of the predictions; leave it out.")
    chosen = keep or [name for name in table.names if names_rows(name) and name != target][:1]
    if not chosen:
        return {"row": [str(number + 1) for number in range(len(table.frame))]}
    found = {name: Reading(Meaning.TEXT).read(table, name) for name in chosen}
    return {
        "row" if name == "(row)" else name: ["" if cell is None else cell for cell in cells]
        for name, cells in found.items()
    }


def _as_csv(rows: Sequence[Sequence[str]]) -> str:
    """Rows whose cells a spreadsheet reads as they are, in any country."""
    text = io.StringIO()
    # Where a comma is the decimal separator, other characters separate cells.
    parted = any(character in cell for row in rows for cell in row for character in ";\t|\r")
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if parted else csv.QUOTE_MINIMAL)
    writer.writerows([_cell(cell) for cell in row] for row in rows)
    return text.getvalue()


def _shown(content: str) -> str:
    """Lines that are safe for a terminal, whatever the class names in somebody else's run contain."""
    return "".join(f"{visible(line)}\n" for line in content.splitlines())


def _cell(text: str) -> str:
    """A cell that a spreadsheet reads as text, not as a formula; numbers stay as they are."""
    # Invisible characters before a formula do not stop a spreadsheet from running it; `sep=` would change all cells.
    shown = "".join(itertools.dropwhile(lambda character: unicodedata.category(character)[0] in "CZ", text))
    control = unicodedata.category(text[:1] or " ")[0] == "C"
    odd = control or shown.startswith(FORMULA) or shown[:4].lower() == "sep="
    return f"'{text}" if odd and not is_number(text) else text


def bench_command(modules: list[str], quick: bool) -> int:
    """Run the benchmarks, which are part of the repository but not of the package."""
    if not Path("benchmarks", "__main__.py").is_file():
        raise ValueError(
            "there is no folder `benchmarks` here; run this in the top folder of a copy of the repository."
        )
    command = [sys.executable, "-m", "benchmarks", *modules, *(["--quick"] if quick else [])]
    return subprocess.run(command, check=False).returncode


def info_command(console: Console) -> None:
    """Print versions, devices, the default precision, and the installed optional packages."""
    optional = {
        "orbax.checkpoint": "checkpoints",
        "pandas": "tables",
        "pyarrow": "Parquet tables",
        "openpyxl": "Excel tables",
        "tensorboardX": "curves for TensorBoard",
        "matplotlib": "reports",
        "sklearn": "digits",
    }
    facts = {
        **environment(),
        "devices": ", ".join(str(device) for device in jax.devices()),
        "x64": f"{'on' if jnp.zeros(()).dtype == jnp.float64 else 'off'} by default; jaxgeo train switches it "
        "on, except with --precision float32",
    }
    for package, use in optional.items():
        facts[package.partition(".")[0]] = ("installed" if _is_installed(package) else "not installed") + f" ({use})"
    for name, value in facts.items():
        say(console, f"{name:>12} ", value)


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        # The parent package is missing.
        return False
