"""A stranger's folder: no hang, no huge allocation, and no number that is another."""

import dataclasses
import json
import math
import os
import warnings

import numpy as np
import pytest
import runs
from damages import forge, header, npz
from limits import GIB, MIB, check_line, limited
from pages import Page

from jaxgeo.app.cli.options import refuse_endless
from jaxgeo.app.report.page import write_report
from jaxgeo.app.runs import Config, load
from jaxgeo.app.runs.folder import RunFolder
from jaxgeo.fitting.digests import Digests
from jaxgeo.fitting.files import MOST_LINES, to_json
from jaxgeo.fitting.keeper import read_rows

# What is lost of a damaged run is told by warnings.
pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.usefixtures("bounds")]
ROWS = np.array([[1.0, 2.0], [5.0, -1.0]])


@pytest.fixture
def folder(tmp_path):
    return runs.write(tmp_path / "run")


def written(folder, name, content):
    (folder.path / name).write_bytes(content)
    forge(folder.path, name)


def changed(folder, file, /, **changes):
    written(folder, file, json.dumps(json.loads((folder.path / file).read_text()) | changes).encode())


def column(**changes):
    return [{**column, **changes} for column in runs.task().encoder.to_list()]


def reading(**changes):
    return [{**each, "reading": {**each["reading"], **changes}} for each in runs.task().encoder.to_list()]


def row(**changes):
    return b"".join(f"{to_json(row | changes)}\n".encode() for row in runs.rows())


# A pattern that tries all ways to part the blanks needs 61^8 steps for them.
DOTS = b"# " + (b"." + b" " * 60) * 8 + b"!\n"


# As deep as JSON is read, and deeper than Python calls itself.
DEEP = 980


def nested(folder, file, name):
    """A file one of whose values is nested deeply."""
    text = json.dumps(json.loads((folder.path / file).read_text()) | {name: "DEEP"})
    written(folder, file, text.replace('"DEEP"', '{"a": ' * DEEP + "1" + "}" * DEEP).encode())


def large(folder, name):
    with (folder.path / name).open("wb") as file:
        file.truncate(2**40)


FOLDERS = {
    "a hundred million lines": lambda f: written(f, "metrics.jsonl", b"\n" * 100 * MIB),
    "twenty million empty rows": lambda f: written(f, "metrics.jsonl", b"{}\n" * 20 * MIB),
    "a row of a million numbers": lambda f: written(
        f, "metrics.jsonl", json.dumps({str(i): 1 for i in range(10**6)}).encode()
    ),
    "rows of many numbers": lambda f: written(
        f, "metrics.jsonl", (json.dumps({f"a{i}": 1 for i in range(100)}) + "\n").encode() * 90_000
    ),
    "rows of many names": lambda f: written(
        f, "metrics.jsonl", row().replace(b"{", ("{" + "".join(f'"{i}": 1, ' for i in range(5000))).encode())
    ),
    "rows of millions of names": lambda f: written(
        f, "metrics.jsonl", "".join("{" + ",".join(f'"{k + i:08x}":1' for i in range(4500)) + "}\n"
                                    for k in range(0, 4500 * 1800, 4500)).encode()
    ),
    "integers without end": lambda f: written(f, "metrics.jsonl", row().replace(b"0.5", b"9" * 4000)),
    "integers beyond a float": lambda f: written(f, "metrics.jsonl", row().replace(b"0.5", b"9" * 400)),
    "costs at the edge": lambda f: written(f, "metrics.jsonl", row(cost=5e-324, law=1.7e308)),
    "times at the edge": lambda f: written(f, "metrics.jsonl", row(s_over_N=1.7e308)),
    "scores at the edge": lambda f: written(f, "metrics.jsonl", row(test_rmse=-1.7e308, train_rmse=1.7e308)),
    "times backwards": lambda f: written(f, "metrics.jsonl", row(s_over_N=-1e300, cost=-1.0)),
    "digests of 60 MiB": lambda f: (f.path / "digests.json").write_bytes(b"[" + b"[]," * 20 * MIB + b"[]]"),
    "digests of a million files": lambda f: (f.path / "digests.json").write_text(
        json.dumps({f"a{i}": ["b"] for i in range(10**6)})
    ),
    "a million digests of a file": lambda f: (f.path / "digests.json").write_text(
        json.dumps({"metrics.jsonl": [f"{i:x}" for i in range(4 * 10**6)]})
    ),
    "digests without end": lambda f: large(f, "digests.json"),
    "digests of a number": lambda f: (f.path / "digests.json").write_text("1"),
    "a link for digests": lambda f: [
        os.unlink(f.path / "digests.json"), os.symlink("/dev/zero", f.path / "digests.json")
    ],
    "names of settings with dots": lambda f: written(f, "config.toml", b"a." * 30_000 + b"a = 1"),
    "settings of 10 MiB": lambda f: written(f, "config.toml", b"a." * 5 * MIB + b"a = 1"),
    "names of settings in quotes": lambda f: written(f, "config.toml", b'"a" . ' * 9_000 + b"a = 1"),
    "settings in tables": lambda f: written(f, "config.toml", b"[a]\n" * 15_000),
    "settings in braces": lambda f: written(f, "config.toml", b"a = " + b"{a=" * 30_000),
    "settings nested deeply": lambda f: written(f, "config.toml", b"seed = " + b"{a=" * 200 + b"1" + b"}" * 200),
    "settings in many brackets": lambda f: written(f, "config.toml", b"seed = " + b"[" * 400 + b"]" * 400),
    "settings hidden by quotes": lambda f: written(
        f, "config.toml", b'seed = ["""\n""", {' + b"a." * 30_000 + b"a = 1}]"
    ),
    "quotes in a comment": lambda f: written(f, "config.toml", b"# " + b'\\"' * 32_000),
    "quotes in threes": lambda f: written(f, "config.toml", b'"""\\"\n' * 10_000),
    "a long table twice": lambda f: written(f, "config.toml", (b"[" + b"a" * 30_000 + b"]\n") * 2),
    "a summary nested deeply": lambda f: nested(f, "summary.json", "environment"),
    "a number nested deeply": lambda f: nested(f, "summary.json", "N"),
    "a network nested deeply": lambda f: nested(f, "network.json", "inputs"),
    "columns nested deeply": lambda f: nested(f, "network.json", "columns"),
    "a kind of 4 MiB": lambda f: changed(f, "network.json", kind="a" * 4 * MIB),
    "another network in the settings": lambda f: f.save_config(Config(**{**vars(runs.CONFIG), "hidden": (10**9,)})),
    "half a character": lambda f: changed(f, "summary.json", name="\ud800"),
    "half a character in a level": lambda f: changed(f, "network.json", columns=column(levels=["\udfff"])),
    "counts beyond a float": lambda f: changed(f, "summary.json", N=10**400),
    "steps beyond a float": lambda f: changed(f, "summary.json", steps=10**400),
    "a rank beyond a float": lambda f: changed(f, "summary.json", rank=10**4000),
    "a stop at the edge": lambda f: changed(f, "summary.json", predicted_stopping_time=1.7e308, N=1),
    "scores of all kinds": lambda f: changed(f, "summary.json", baseline=1.7e308, linear=-1.7e308, cost0=5e-324),
    "dots in a comment": lambda f: written(f, "config.toml", runs.CONFIG.to_toml().encode() + DOTS),
    "held-out columns of other names": lambda f: changed(f, "summary.json", held_out={"zzz": [1.0]}),
    "one held-out column": lambda f: changed(f, "summary.json", held_out={"true": [1.0]}),
    "held-out integers beyond 64 bits": lambda f: changed(
        f, "summary.json", held_out={"row": [1, 2], "true": [2**70, 2**71], "predicted": [2**70, 2**72]}
    ),
    "a million held-out rows": lambda f: changed(
        f, "summary.json", held_out=dict.fromkeys(("row", "true", "predicted"), [1] * 10**6)
    ),
    "classes of a regression": lambda f: changed(f, "summary.json", classes=["a"], confusion=[1]),
    "confusion beyond a float": lambda f: changed(
        f, "summary.json", kind="classification", classes=["a"], confusion=[-(10**4000)]
    ),
    "a summary of another kind": lambda f: changed(f, "summary.json", kind="classification"),
    "half a character in bytes": lambda f: written(
        f, "summary.json", (f.path / "summary.json").read_bytes().replace(b'"data"', b'"\xed\xa0\x80"')
    ),
    "half a character in UTF-16": lambda f: written(
        f, "summary.json", (f.path / "summary.json").read_text().replace('"data"', '"\\ud800"').encode("utf-16")
    ),
    "a name of 4 MiB": lambda f: changed(
        f, "network.json", outputs={"names": ["a" * 4 * MIB], "mean": [0.0], "scale": [1.0]}
    ),
    "levels of numbers": lambda f: changed(f, "network.json", columns=column(levels=["x"])),
    "a million singular values": lambda f: changed(f, "summary.json", spectrum_start=[1e-3] * 10**6),
    "singular values at the edge": lambda f: changed(f, "summary.json", spectrum_start=[1.7e308, 5e-324, -1.0]),
    "no singular values": lambda f: changed(f, "summary.json", spectrum_start=[], spectrum_end=[-1.0]),
    "a style of one character": lambda f: changed(f, "network.json", columns=reading(style="x")),
    "a style that is a pattern": lambda f: changed(f, "network.json", columns=reading(style="(a+)+$" * 1000)),
    "a date of a thousand parts": lambda f: changed(
        f, "network.json", columns=reading(meaning="date", style="%d" * 1000)
    ),
    "a sign that is a text": lambda f: changed(f, "network.json", columns=reading(sign="1")),
    "a column twice": lambda f: changed(f, "network.json", columns=[*column(), column()[0]]),
    "a hundred thousand levels": lambda f: changed(
        f, "network.json", columns=reading(meaning="text")[:1] + column(levels=[str(i) for i in range(10**5)])
    ),
    "no columns": lambda f: changed(f, "network.json", columns=[]),
    "columns of another kind": lambda f: changed(f, "network.json", columns=[[1, 2]]),
    "a scale below any other": lambda f: changed(
        f, "network.json", inputs={"names": ["a", "b"], "mean": [0.0, 0.0], "scale": [5e-324, 5e-324]}
    ),
    "a thousand layers": lambda f: changed(f, "network.json", sizes=[2, *[10**6] * 1000, 1]),
    "sizes below zero": lambda f: changed(f, "network.json", sizes=[2, -(10**9), 1]),
    "weights without end": lambda f: large(f, "parameters.eqx"),
    "an archive for weights": lambda f: written(f, "parameters.eqx", npz()),
    "a header of terabytes": lambda f: written(f, "parameters.eqx", header((10**12,))),
    "a header of objects": lambda f: written(f, "parameters.eqx", header((3, 2), "|O")),
    "a header that is a program": lambda f: written(
        f, "parameters.eqx", header((3, 2)).replace(b"'<f8'", b"(9**9)")
    ),
    "a header with brackets": lambda f: written(
        f, "parameters.eqx", b"\x93NUMPY\x01\x00" + (9000).to_bytes(2, "little") + b"(" * 9000
    ),
    "a million empty arrays": lambda f: written(f, "parameters.eqx", header((0, 10**30)) * 1000),
    "a pipe for weights": lambda f: [os.unlink(f.path / "parameters.eqx"), os.mkfifo(f.path / "parameters.eqx")],
    "a folder for figures": lambda f: (f.path / "figures" / "cost.svg").mkdir(parents=True),
    "a file for figures": lambda f: (f.path / "figures").write_text(""),
    "a pipe for figures": lambda f: os.mkfifo(f.path / "figures"),
}  # fmt: skip


# Of those that take some seconds the fast tests leave out most.
LONG = (
    "twenty million empty rows",
    "rows of many numbers",
    "digests of 60 MiB",
    "digests of a million files",
    "a million digests of a file",
    "rows of millions of names",
    "settings in tables",
    "a million singular values",
    "a hundred million lines",
    "a million held-out rows",
    "a row of a million numbers",
    "a hundred thousand levels",
    "scores at the edge",
    "times backwards",
    "singular values at the edge",
)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in FOLDERS])
def test_a_strangers_folder_is_shown_or_refused(folder, name):
    FOLDERS[name](folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            page = Page(write_report(folder.path).read_text(encoding="utf-8"))
            predicted = load(folder.path).predict(ROWS)
        except ValueError as error:
            check_line(error)
            return
    assert page.led == ["data:,"]
    assert np.isfinite(predicted).all()


def test_weights_take_twice_their_file_in_memory(tmp_path):
    width = 4096
    config = dataclasses.replace(runs.CONFIG, hidden=(width, width))
    folder, shapes = runs.write(tmp_path / "run"), [(width, 2), (width,), (width, width), (width,), (1, width), (1,)]
    with RunFolder.open(folder.path):
        folder.save_settings(config, runs.task(), (2, width, width, 1))
        folder.files.write("parameters.eqx", b"".join(header(shape) + bytes(8 * math.prod(shape)) for shape in shapes))
    size = (folder.path / "parameters.eqx").stat().st_size
    with limited(memory=3 * size + 64 * MIB):
        run = load(folder.path)
    assert run.model.layers[1].weight.shape == (width, width)


@pytest.mark.slow
def test_rows_beyond_a_million_are_lost_and_not_read(folder):
    content = b'{"a": 1}\n' * (MOST_LINES + 5)
    files = Digests(folder.path)
    files.write("metrics.jsonl", content)
    rows, lost = read_rows(files)
    assert (len(rows), lost, rows[-1]) == (MOST_LINES, 5, {"a": 1})


@pytest.mark.parametrize("problem", ["/dev/zero", "/dev/tty", "/dev/stdin", "pipe"])
def test_a_run_of_a_device_is_not_read_again(tmp_path, monkeypatch, problem):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    if not os.path.exists(problem) or os.path.isfile(problem):
        pytest.skip(f"{problem} is a file here")
    with pytest.raises(ValueError, match="not a plain file"):
        refuse_endless(problem)


@pytest.mark.slow
def test_the_digest_of_a_large_file_takes_no_memory(folder):
    with (folder.path / "large").open("wb") as file:
        file.truncate(3 * GIB)
    names = json.loads((folder.path / "digests.json").read_text()) | {"large": ["0" * 64, "1" * 64]}
    (folder.path / "digests.json").write_text(json.dumps(names))
    folder.files.settle()
    assert json.loads((folder.path / "digests.json").read_text()) == names
