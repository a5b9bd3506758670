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
from jaxgeo.app.data import Kind, read_table
from jaxgeo.app.data.table import is_number
from jaxgeo.app.runs import load
from jaxgeo.app.runs.folder import RunFolder
from jaxgeo.app.runs.setup import has_spectrum, prepare
from jaxgeo.app.runs.summary import environment
from jaxgeo.fitting.files import write_text
from jaxgeo.geometry import rank_report

# Characters that start a formula in a spreadsheet, including their full-width forms.
FORMULA = tuple("=+-@＝＋－＠")


def rank_command(path: Path, console: Console) -> None:
    """Print the rank and the spectrum of D at the start and at the end of the run in `path`."""
    use_precision(RunFolder(path).read_config())
    run = load(path)
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


def predict_command(path: Path, rows: Path, out: Path | None, console: Console) -> None:
    """Write the prediction for each row of a table as CSV, into `out` or to standard output.

    **Raises:** `ValueError` if the run or the table cannot be read, or a column is missing or not numeric.
    """
    use_precision(RunFolder(path).read_config())
    run = load(path)
    cells = run.encoder.read(read_table(rows))
    for note in run.encoder.substituted(cells):
        say(make_console(stderr=True), "note:", note, "yellow")
    predicted = run.predict(run.encoder.encode(cells))
    cells = [str(value) if run.kind is Kind.CLASSIFICATION else repr(float(value)) for value in predicted]
    content = _as_csv([run.config.target or "prediction", *cells])
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


def _as_csv(cells: Sequence[str]) -> str:
    """A column whose cells a spreadsheet reads as single cells, in any country."""
    text = io.StringIO()
    # Where a comma is the decimal separator, other characters separate cells.
    parted = any(character in cell for cell in cells for character in ";\t|\r")
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if parted else csv.QUOTE_MINIMAL)
    writer.writerows([_cell(cell)] for cell in cells)
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
