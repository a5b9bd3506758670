"""What one does beside training: `jaxgeo rank` and `predict` with a run that is there, `bench` and `info`."""

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
from jaxgeo.app.runs.setup import prepare
from jaxgeo.app.runs.summary import environment
from jaxgeo.fitting.files import write_text
from jaxgeo.geometry import rank_report

# What a spreadsheet takes for the beginning of a formula, also in full width.
FORMULA = tuple("=+-@＝＋－＠")


def rank_command(path: Path, console: Console) -> None:
    """Print rank and spectrum of D at the start and at the end of the run in `path`."""
    use_precision(RunFolder(path).read_config())
    run = load(path)
    refuse_endless(run.config)
    with console.status("computing the rank of D"):
        setup = prepare(read_task(dataclasses.asdict(run.config)), run.config)
        if setup.network.sizes != run.model.sizes:
            raise ValueError(f"the table is another than that of the run in {path}: its network has other sizes.")
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
    """Write the prediction for each row of a table, as CSV, into `out` or to the standard output.

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
        # In UTF-8, also where the terminal is not.
        sys.stdout.flush()
        sys.stdout.buffer.write(content.encode())
        sys.stdout.buffer.flush()
    else:
        if os.path.lexists(out):
            raise ValueError(f"{out} exists already; choose another file with --out, or remove it.")
        write_text(out, content)
        say(console, "", f"{len(predicted)} predictions in {out}")


def _as_csv(cells: Sequence[str]) -> str:
    """A column, of which a spreadsheet takes each cell for one, in any country."""
    text = io.StringIO()
    # Where the comma stands before decimals, others separate cells.
    parted = any(character in cell for cell in cells for character in ";\t|\r")
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if parted else csv.QUOTE_MINIMAL)
    writer.writerows([_cell(cell)] for cell in cells)
    return text.getvalue()


def _shown(content: str) -> str:
    """Lines for a terminal, which does not do what a class of a stranger's run says."""
    return "".join(f"{visible(line)}\n" for line in content.splitlines())


def _cell(text: str) -> str:
    """A cell that a spreadsheet takes for text, not for a formula; numbers as they are."""
    # What shows nothing in front of a formula does not keep a spreadsheet from it; `sep=` would part all cells anew.
    shown = "".join(itertools.dropwhile(lambda character: unicodedata.category(character)[0] in "CZ", text))
    control = unicodedata.category(text[:1] or " ")[0] == "C"
    odd = control or shown.startswith(FORMULA) or shown[:4].lower() == "sep="
    return f"'{text}" if odd and not is_number(text) else text


def bench_command(modules: list[str], quick: bool) -> int:
    """Run the benchmarks, which come with the repository and not with the package."""
    if not Path("benchmarks", "__main__.py").is_file():
        raise ValueError("there is no folder benchmarks here; run this at the top of a copy of the repository.")
    command = [sys.executable, "-m", "benchmarks", *modules, *(["--quick"] if quick else [])]
    return subprocess.run(command, check=False).returncode


def info_command(console: Console) -> None:
    """Print versions, devices, the default precision, and which optional packages are installed."""
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
        "x64": f"{'on' if jnp.zeros(()).dtype == jnp.float64 else 'off'} by default; switched on by jaxgeo train, but "
        "for --precision float32",
    }
    for package, use in optional.items():
        facts[package.partition(".")[0]] = ("installed" if _is_installed(package) else "not installed") + f" ({use})"
    for name, value in facts.items():
        say(console, f"{name:>12} ", value)


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        # That of a package's parent.
        return False
