"""The command line, as a user meets it: exit codes, one-line errors, and the folder it leaves."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from jaxgeo.cli.app import run
from jaxgeo.training import load


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture
def table(home):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(15, 3))
    y = x[:, 0] - np.sin(x[:, 1])
    lines = [",".join(f"{v:.6f}" for v in (*row, value)) for row, value in zip(x, y, strict=True)]
    (home / "plain.csv").write_text("a,b,c,y\n" + "\n".join(lines) + "\n")
    return home / "plain.csv"


def one_line_error(capsys, arguments):
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["trian", "digits"], ["no command 'trian'", "did you mean 'train'"]),
        (["digits"], ["jaxgeo train digits"]),
        (["train", "digit"], ["no problem 'digit'", "did you mean 'digits'"]),
        (["train", "none.csv", "--target", "y"], ["none.csv does not exist"]),
        (["train", "digits", "--flow", "adpated"], ["no flow 'adpated'", "did you mean 'adapted'"]),
        (["train", "digits", "--precision", "float16"], ["no precision 'float16'", "float32"]),
        (["train", "digits", "--hidden", "64-x"], ["--hidden", "64-x"]),
        (["train", "digits", "--tol", "0"], ["--tol"]),
        (["train", "digits", "--samples", "3"], ["must lie in"]),
        (["train", "digits", "--target", "y"], ["--target is for tables"]),
        (["train", "digits", "--sampels", "3"], ["--sampels"]),
        (["train", "digits", "--samples", "many"], ["--samples", "valid integer"]),
        (["train"], ["PROBLEM"]),
        (["train", "plain.csv"], ["--target", "a, b, c, y"]),
        (["train", "plain.csv", "--target", "z"], ["no column 'z'"]),
        (["train", "plain.csv", "--target", "y", "--task", "regresion"], ["did you mean 'regression'"]),
        (["train", "plain.csv", "--target", "y", "--drop", "y"], ["--drop names the target"]),
        (["train", "plain.csv", "--target", "y", "--flow", "overparametrized", "--hidden", "1"], ["K ≥ QN"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(table, capsys, arguments, parts):
    message = one_line_error(capsys, arguments)
    assert [part for part in parts if part.lower() not in message.lower()] == [], message
    assert not (table.parent / "runs").exists()


def test_repeated_rows_point_to_the_rank_adaptive_flow(home, capsys):
    (home / "twice.csv").write_text("a,y\n" + "1,1.5\n2,2.5\n3,1.0\n" * 3)
    message = one_line_error(capsys, ["train", "twice.csv", "--target", "y"])
    assert "--flow rank-adaptive" in message
    assert "repeat" in message
    assert re.search(r"rank\(D\) is [23], but this flow needs 7", message)


def test_a_folder_in_use_is_not_overwritten(table, capsys):
    (table.parent / "kept").mkdir()
    (table.parent / "kept" / "thesis.txt").write_text("years")
    message = one_line_error(capsys, ["train", "plain.csv", "--target", "y", "--out", "kept"])
    assert "--out" in message
    assert os.listdir(table.parent / "kept") == ["thesis.txt"]


@pytest.mark.slow
def test_a_table_is_trained_and_loaded_back(table, capsys):
    arguments = ["train", "plain.csv", "--target", "y", "--hidden", "8-8", "--tol", "1e-2"]
    assert run(arguments) == 0
    output = capsys.readouterr().out
    for part in ("QN = 12", "K = 113", "rank 12 of 12", "predicted at", "deviation", "test error", "runs/plain"):
        assert part in output, part
    folder = table.parent / "runs" / "plain"
    kept = load(folder)
    assert kept.summary["outcome"] == "reached"
    assert kept.summary["stopping_time"] == pytest.approx(kept.summary["predicted_stopping_time"], rel=1e-4)
    assert kept.metrics[-1]["cost"] == pytest.approx(0.01 * kept.summary["cost0"], rel=1e-4)
    # The model itself gives the last recorded error on the rows that were held out.
    data = np.loadtxt(table, delimiter=",", skiprows=1)
    error = kept.predict(data[:, :3]) - data[:, 3]
    scores = kept.metrics[-1]
    total = 12 * scores["train_rmse"] ** 2 + 3 * scores["test_rmse"] ** 2
    assert np.sum(error**2) == pytest.approx(total, rel=1e-9)
    assert {"report.html", "metrics.jsonl", "config.toml", "parameters.eqx"} <= {path.name for path in folder.iterdir()}
    # The same again goes beside it, and repeats it bit for bit.
    assert run(arguments) == 0
    again = load(table.parent / "runs" / "plain-2")
    assert again.metrics == kept.metrics
    assert all(np.array_equal(a, b) for a, b in zip(*(jax.tree.leaves(r.model) for r in (kept, again)), strict=True))


def test_help_and_version(home, capsys):
    assert run(["train", "--help"]) == 0
    text = capsys.readouterr().out
    for option in ("--samples", "--hidden", "--tol", "--flow", "--rtol", "--seed", "--out", "--target", "--precision"):
        assert option in text
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("jaxgeo ")
    assert run([]) == 0
    assert "train" in capsys.readouterr().out


@pytest.mark.slow
def test_ctrl_c_leaves_a_usable_folder(home):
    command = [sys.executable, "-m", "jaxgeo", "train", "digits", "--samples", "30", "--rtol", "1e-9"]
    process = subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    metrics = home / "runs" / "digits" / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (metrics.exists() and metrics.read_text()):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    kept = load(home / "runs" / "digits")
    assert kept.summary["outcome"] == "interrupted"
    assert 1e-6 * kept.summary["cost0"] < kept.metrics[-1]["cost"] < kept.summary["cost0"]
    assert "interrupted" in (home / "runs" / "digits" / "report.html").read_text()
    assert [json.loads(line)["s"] for line in metrics.read_text().splitlines()] == [row["s"] for row in kept.metrics]
