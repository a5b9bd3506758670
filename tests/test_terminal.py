"""The output of the command line: any text, on any terminal, and every error in one line."""

import io
import sys
import zipfile

import numpy as np
import pytest
from commands import TRAIN, error_of

from jaxgeo.app.cli.app import run
from jaxgeo.app.cli.streams import Streams, visible
from jaxgeo.app.runs import load


def test_what_is_shown_moves_no_cursor():
    assert visible("a\x1b[2Jb\u202ec\nd\x07") == "a\\u001b[2Jb\\u202ec d\\u0007"


@pytest.mark.parametrize(
    "columns", ["1", *(pytest.param(columns, marks=pytest.mark.slow) for columns in ("20", "0", "-3", "x"))]
)
def test_a_narrow_terminal_gets_all_digits(trained, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    assert run(["resume", "one"]) == 0
    output = capsys.readouterr().out
    row = load(trained).metrics[-1]
    assert f"{row['cost']:.4e}" in output
    assert f"report  {'one/report.html'}" in output


class Full:
    """A file on a full disk, or a pipe without a reader."""

    encoding = "ascii"

    def __init__(self, error):
        self.buffer, self.error = self, error

    def isatty(self):
        return False

    def flush(self):
        pass

    def write(self, content):
        raise self.error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BrokenPipeError(32, "Broken pipe"), 0),
        pytest.param(OSError(28, "No space left"), 1, marks=pytest.mark.slow),
    ],
)
def test_a_training_goes_on_without_a_reader(table, capsys, monkeypatch, error, code):
    monkeypatch.setattr(sys, "stdout", Full(error))
    assert run(["train", "plain.csv", *TRAIN, "--out", "two"]) == code
    assert load("two").summary["outcome"] == "max_steps"
    assert ("No space left" in capsys.readouterr().err) is bool(code)


def test_an_ascii_terminal_gets_ascii(capsys, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
    with Streams():
        print("cond(DDᵀ) ≥ 3 … €")
    assert raw.getvalue() == b"cond(DD^T) >= 3 ... \\u20ac\n"


def test_an_error_of_its_own_is_one_line_with_the_traceback_in_a_file(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "300")

    def fail(console):
        raise AttributeError("no such\nthing")

    monkeypatch.setattr("jaxgeo.app.cli.app.info_command", fail)
    message = error_of(capsys, ["info"], 1)
    (file,) = tmp_path.glob("jaxgeo-*.txt")
    assert f"internal error of jaxgeo (AttributeError: no such thing); please report it, and attach {file}" in message
    assert "Traceback" in file.read_text()


@pytest.mark.parametrize(
    ("error", "code", "part"),
    [
        (OSError(36, "File name too long", "x"), 2, "x: File name too long"),
        (MemoryError(), 1, "memory"),
        (RuntimeError("RESOURCE_EXHAUSTED: 8 TB"), 1, "memory"),
        (ModuleNotFoundError("Parquet is read by pyarrow; run: pip install pyarrow"), 2, "pip install pyarrow"),
    ],
)
def test_every_error_leaves_through_one_door(capsys, monkeypatch, error, code, part):
    def fail(console):
        raise error

    monkeypatch.setattr("jaxgeo.app.cli.app.info_command", fail)
    assert part in error_of(capsys, ["info"], code)


@pytest.mark.parametrize(("suffix", "package"), [("parquet", "pyarrow"), ("xlsx", "openpyxl")])
def test_a_table_without_the_package_that_reads_it(table, capsys, monkeypatch, suffix, package):
    for name in (package, "fastparquet"):
        monkeypatch.setitem(sys.modules, name, None)
    with zipfile.ZipFile(table.with_suffix(f".{suffix}"), "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    assert f"pip install {package}" in error_of(capsys, ["train", f"plain.{suffix}", "--target", "y"])


def test_an_array_under_the_name_of_several_is_refused(table, capsys):
    with (table.parent / "n.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    assert "not a readable NPZ file" in error_of(capsys, ["train", "n.npz", "--target", "y"])
