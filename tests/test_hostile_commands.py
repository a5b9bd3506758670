"""Commands on what a stranger gave: settings, wide networks, names of megabytes, files in the current folder."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest
import runs
from commands import error_of
from limits import MIB, check_line

import jaxgeo as jg
from jaxgeo.app.cli.display import make_console, say, show
from jaxgeo.app.cli.options import _read, resolve
from jaxgeo.app.data import Kind, read_table, table_task
from jaxgeo.app.data.table import as_table
from jaxgeo.app.report.figures import cost_figure
from jaxgeo.app.runs import load
from jaxgeo.app.runs.folder import RunFolder
from jaxgeo.app.runs.setup import has_spectrum
from jaxgeo.equations import Network

pytestmark = pytest.mark.usefixtures("bounds")


def test_rank_is_not_taken_of_a_matrix_that_is_too_large(tmp_path, capsys):
    x = np.random.default_rng(0).normal(size=(12_500, 3))
    np.savetxt(tmp_path / "t.csv", x, header="a,b,y", delimiter=",", comments="")
    config = dataclasses.replace(
        runs.CONFIG,
        problem=str(tmp_path / "t.csv"),
        target="y",
        samples=10_000,
        hidden=(1000,),
        flow="standard",
        drop=(),
    )
    folder = runs.write(tmp_path / "run")
    with RunFolder.open(folder.path):
        task = table_task(read_table(tmp_path / "t.csv"), "y", num_samples=10_000)
        folder.save_settings(config, task, (2, 1000, 1))
        folder.save_parameters(Network((2, 1000, 1), jnp.float64, key=jax.random.key(0)))
    message = error_of(capsys, ["rank", str(folder.path)])
    assert "D of the run in" in message
    assert "10000 × 4001 entries" in message


def test_a_spectrum_is_taken_of_what_fits():
    # By the singular values of D; by those of DDᵀ with few rows; by neither with many.
    assert has_spectrum(10_000, 1600)
    assert has_spectrum(1000, 30_000)
    assert not has_spectrum(10_000, 2000)
    assert not has_spectrum(1000, 30_001)
    assert not has_spectrum(1000, 1001, 1_000_000)


# About as long as CSV may have it.
LONG = "x" * 131_000


def write_csv(path, name="a", cells=("1", "2", "4", "3"), target=("1.5", "2.5", "0.5", "1.25")):
    rows = zip(cells * 5, target * 5, strict=True)
    path.write_text(f"{name},b,y\n" + "".join(f"{a},{i * i},{y}\n" for i, (a, y) in enumerate(rows)))
    return str(path)


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_a_name_of_a_column_has_an_end(tmp_path, capsys, ending):
    path = tmp_path / f"t{ending}"
    write_csv(path, LONG) if ending == ".csv" else path.write_text(f'{{"{LONG}": 1, "y": 2}}\n' * 3)
    message = error_of(capsys, ["train", str(path), "--target", "y"])
    assert f"the name of column 1 of {path} has 131000 characters, and may have 1000" in message


def test_a_name_that_is_asked_for_is_shown_in_part(tmp_path, capsys):
    path = write_csv(tmp_path / "t.csv")
    # As long as the system takes an argument.
    message = error_of(capsys, ["train", path, "--target", LONG[:100_000]])
    assert f"has no column '{'x' * 40}…'. Its columns: a, b, y." in message
    assert len(message) < 500


def test_long_texts_are_neither_levels_nor_classes(tmp_path, capsys):
    cells = (LONG, LONG + "b", LONG, "c")
    task = table_task(read_table(write_csv(tmp_path / "t.csv", cells=cells)), "y", kind=Kind.REGRESSION)
    assert "'a', which holds texts of up to 131001 characters" in "".join(task.notes)
    assert task.inputs.names == ("b",)
    with pytest.raises(ValueError, match="a class of 131001 characters, and names of classes may have 1000"):
        table_task(read_table(write_csv(tmp_path / "t.csv", target=cells)), "y")
    with pytest.raises(ValueError, match=r"holds text \('x{40}…'\), not quantities"):
        table_task(read_table(write_csv(tmp_path / "t.csv", target=cells)), "y", kind=Kind.REGRESSION)


def test_the_longest_names_are_read_back(tmp_path):
    cells, name = ("u" * 1000, "v" * 1000, "v" * 1000, "w"), "a" * 1000
    table = read_table(write_csv(tmp_path / "t.csv", name, cells))
    task = table_task(table, "y", kind=Kind.REGRESSION)
    sizes = (len(task.inputs.names), *runs.CONFIG.hidden, 1)
    folder = runs.write(tmp_path / "run")
    with RunFolder.open(folder.path):
        folder.save_settings(runs.CONFIG, task, sizes)
        folder.save_parameters(Network(sizes, jnp.float64, key=jax.random.key(0)))
    run = load(folder.path)
    assert run.inputs.names == (f"{name}={'u' * 1000}", f"{name}={'v' * 1000}", f"{name}=w", "b")
    assert np.isfinite(run.predict({name: cells, "b": [1, 2, 3, 4]})).all()


@pytest.mark.slow
def test_tens_of_thousands_of_columns_are_read_back(tmp_path):
    count = 60_000
    rng, names = np.random.default_rng(0), [f"column {i}" for i in range(count)]
    table = as_table({**dict(zip(names, rng.normal(size=(count, 4)), strict=True)), "y": [1.5, 2.5, 0.5, 1.25]})
    task = table_task(table, "y", kind=Kind.REGRESSION)
    config = dataclasses.replace(runs.CONFIG, hidden=(1,))
    folder = runs.write(tmp_path / "run")
    with RunFolder.open(folder.path):
        folder.save_settings(config, task, (count, 1, 1))
        folder.save_parameters(Network((count, 1, 1), jnp.float64, key=jax.random.key(0)))
    assert load(folder.path).inputs.names == tuple(names)


def test_what_could_not_be_read_back_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxgeo.app.runs.folder.MOST_NETWORK", 500)
    with pytest.raises(
        ValueError, match="the names and scales of 2 inputs take .* and may take 500; leave columns out"
    ):
        runs.write(tmp_path / "run")


def test_notes_on_columns_come_to_an_end(tmp_path):
    names = [f"n{i}" for i in range(100)]
    lines = [";".join(f"{i}{k},5" for k in range(100)) + f";{i * i},25" for i in range(10)]
    (tmp_path / "t.csv").write_text(";".join([*names, "y"]) + "\n" + "\n".join(lines) + "\n")
    notes = table_task(read_table(tmp_path / "t.csv"), "y").notes
    assert len(notes) == 41
    assert "Of other columns there is as much to tell: " in notes[-1]
    gaps = [",".join("" if (i + k) % 3 else "1.5" if i < 5 else "2" for k in range(100)) + f",{i}.5" for i in range(10)]
    (tmp_path / "t.csv").write_text(",".join([*names, "y"]) + "\n" + "\n".join(gaps) + "\n")
    notes = table_task(read_table(tmp_path / "t.csv"), "y").notes
    assert "Missing cells have an input of their own in: n0, " in notes[-1]
    assert notes[-1].endswith("n11, … (100 in all).")


def test_a_terminal_shows_the_beginning_of_a_long_text(capsys):
    for tell in (lambda text: say(make_console(), "label", text), lambda text: show(make_console(), "label", text, 9)):
        tell("a" * 20 * MIB)
        told = capsys.readouterr().out
        assert told.count("a") == 10_001  # with that of the label
        assert told.rstrip().endswith("a…")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b'# \\"' * 10_000 + b"\n" + b"a." * 10_000, "many parts with dots"),
        (b'\\"' * 200_000, "400000 bytes, and at most 65536"),
        (b"." * 3 * MIB, "at most 65536"),
        (b"seed = " + b"[" * 400 + b"]" * 400, "seed must be an integer; got"),
        (b"\xff", "can't decode"),
        ("pipe", "not a plain file"),
        ("/dev/zero", "not a plain file"),
        ("folder", "directory"),
    ],
)
def test_settings_from_elsewhere_are_read_within_bounds(tmp_path, content, part):
    path = tmp_path / "settings.toml"
    if content == "pipe":
        os.mkfifo(path)
    elif content == "folder":
        path.mkdir()
    elif isinstance(content, str):
        path.symlink_to(content)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=part) as error:
        resolve({}, path)
    check_line(error.value)
    assert str(path) in str(error.value)


def test_a_pipe_that_settings_name_is_not_waited_for(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "settings.toml").write_text(f'problem = "{tmp_path}/pipe.csv"\ntarget = "y"\n')
    message = error_of(capsys, ["train", "--config", str(tmp_path / "settings.toml")])
    assert "pipe.csv, which is empty or not a plain file" in message


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_a_point_is_read_from_a_plain_file(tmp_path, make):
    make(tmp_path / "point.eqx")
    with pytest.raises(ValueError, match="is not a plain file; pass what `save_point` wrote"):
        jg.integrate.load_point(tmp_path / "point", jnp.zeros(3))


def test_settings_may_be_behind_a_link_and_hold_any_text(tmp_path):
    (tmp_path / "settings.toml").write_text('# a.b.c.d.e.f.g.h.i.j.k\nproblem = """a.b.c.d.e.f.g.h.i.j\n"'
                                            + '"""\nseed = 3 # "\nhidden = [\n4, # "\n]\n')  # fmt: skip
    (tmp_path / "link.toml").symlink_to("settings.toml")
    assert _read(tmp_path / "link.toml") == {"problem": 'a.b.c.d.e.f.g.h.i.j\n"', "seed": 3, "hidden": (4,)}


# --- settings of matplotlib, the user's and a stranger's

ODD = {"text.usetex": True, "font.size": 40, "axes.facecolor": "red", "svg.fonttype": "none", "lines.linestyle": ":"}


def test_a_figure_has_no_settings_but_its_own(monkeypatch):
    figure = cost_figure(runs.summary(), runs.rows())
    for name, value in ODD.items():
        monkeypatch.setitem(mpl.rcParams, name, value)
    assert cost_figure(runs.summary(), runs.rows()) == figure
    assert {name: mpl.rcParams[name] for name in ODD} == ODD


def test_settings_of_matplotlib_in_the_current_folder_are_not_read(tmp_path, monkeypatch):
    # To open it would wait for a writer for ever.
    os.mkfifo(tmp_path / "matplotlibrc")
    code = "import os, runs; from jaxgeo.app.report.figures import cost_figure\n"
    code += "print(cost_figure(runs.summary(), runs.rows())); print(os.getcwd())"
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(jg.__file__).parents[1])])
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths}, capture_output=True,
        text=True, timeout=50, check=True,
    )  # fmt: skip
    assert found.stdout.split() == [*cost_figure(runs.summary(), runs.rows()).split(), str(tmp_path)]
