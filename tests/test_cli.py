"""The command line from a user's view: exit codes, one-line errors, and the folder it writes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree

import jax
import numpy as np
import pytest
from commands import error_of

from jaxgeo.app.cli.app import run
from jaxgeo.app.runs import load
from jaxgeo.app.runs.monitor import kept_row


@pytest.fixture
def table(home):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(15, 3))
    y = x[:, 0] - np.sin(x[:, 1])
    lines = [",".join(f"{v:.6f}" for v in (*row, value)) for row, value in zip(x, y, strict=True)]
    (home / "plain.csv").write_text("a,b,c,y\n" + "\n".join(lines) + "\n")
    return home / "plain.csv"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["trian", "digits"], ["no command 'trian'", "did you mean 'train'"]),
        (["digits"], ["jaxgeo train digits"]),
        (["plain.csv", "--target", "y"], ["did you mean: jaxgeo train plain.csv --target y?"]),
        (["version"], ["did you mean '--version'?"]),
        (["train", "digit"], ["no problem 'digit'", "did you mean 'digits'"]),
        (["train", "none.csv", "--target", "y"], ["none.csv does not exist"]),
        (["train", "digits", "--flow", "adpated"], ["no flow 'adpated'", "did you mean 'adapted'"]),
        (["train", "digits", "--precision", "float16"], ["no precision 'float16'", "float32"]),
        (["train", "digits", "--hidden", "64-x"], ["--hidden", "64-x"]),
        (["train", "digits", "--tol", "0"], ["--tol"]),
        (["train", "digits", "--samples", "3"], ["must lie in"]),
        (["train", "digits", "--target", "y"], ["--target only applies to tables"]),
        (["train", "digits", "--sampels", "3"], ["--sampels", ". See jaxgeo train --help."]),
        (["train", "digits", "--samples", "many"], ["--samples", "valid integer"]),
        (["train"], ["PROBLEM"]),
        (["train", "digits", "--optimizer", "adma"], ["no optimizer 'adma'", "did you mean 'adam'"]),
        (["train", "digits", "--optimizer", "adam", "--flow", "adapted"], ["not both"]),
        (["train", "digits", "--learning-rate", "0.1"], ["--learning-rate is for optimizers"]),
        (["train", "digits", "--optimizer", "lbfgs", "--learning-rate", "0.1"], ["chooses its own steps"]),
        (["train", "digits", "--optimizer", "adam", "--batch-size", "0"], ["--batch-size must be positive"]),
        (["train", "--config", "none.toml"], ["none.toml cannot be read"]),
        (["train", "--config", "plain.csv"], ["plain.csv: not TOML:", "line 1", "quotes"]),
        (["resume", "none"], ["none is not the folder of a run", "config.toml"]),
        (["rank", "none"], ["none is not the folder of a run"]),
        (["predict", "none", "plain.csv"], ["none is not the folder of a run"]),
        (["compare", "digits", "--seconds", "0"], ["--seconds"]),
        (["train", "plain.csv"], ["--target", "a, b, c, y"]),
        (["train", "plain.csv", "--target", "z"], ["no column 'z'"]),
        (["train", "plain.csv", "--target", "y", "--task", "regresion"], ["did you mean 'regression'"]),
        (["train", "plain.csv", "--target", "y", "--drop", "y"], ["--drop names the target"]),
        (["train", "plain.csv", "--target", "y", "--drop", "aa"], ["no column 'aa'; did you mean 'a'?"]),
        (["train", "plain.csv", "--target", "y", "--tol", "0,01"], ["--tol", "with a decimal point, such as 0.001"]),
        (["train", "plain.csv", "--target", "y", "--flow", "overparametrized", "--hidden", "1"], ["K ≥ QN"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(table, capsys, arguments, parts):
    message = error_of(capsys, arguments)
    assert [part for part in parts if part.lower() not in message.lower()] == [], message
    assert not (table.parent / "runs").exists()


def test_repeated_rows_point_to_the_rank_adaptive_flow(home, capsys):
    (home / "twice.csv").write_text("a,y\n" + "1,1.5\n2,2.5\n3,1.0\n" * 3)
    message = error_of(capsys, ["train", "twice.csv", "--target", "y", "--flow", "adapted"])
    assert "--flow rank-adaptive" in message
    assert "repeat" in message
    assert re.search(r"rank\(D\) is [23], but this flow needs 7", message)


def train_on_close_rows(home, distance, *method):
    x = np.random.default_rng(0).normal(size=(8, 3))
    x[1] = x[0] + distance
    lines = [",".join(f"{v:.12f}" for v in (*row, np.sin(row[0]) + i)) for i, row in enumerate(x)]
    (home / "near.csv").write_text("a,b,c,y\n" + "\n".join(lines) + "\n")
    options = ["--target", "y", "--hidden", "8-8", "--test-fraction", "0.1", "--tol", "0.9", "--max-steps", "20"]
    run(["train", "near.csv", *method, *options])


@pytest.mark.slow
def test_what_makes_the_steps_slow_is_told_before_they_are_taken(home, capsys):
    train_on_close_rows(home, 1e-6, "--flow", "adapted")
    before, _, after = capsys.readouterr().out.partition("deviation")
    assert "is close to what float64 resolves" in before
    assert "is close to what" not in after


@pytest.mark.slow
def test_an_optimizer_is_told_of_the_condition_at_the_end(home, capsys):
    train_on_close_rows(home, 1e-8, "--optimizer", "levenberg-marquardt")
    output = capsys.readouterr().out
    assert "many times slower" not in output
    assert "is close to what float64 can resolve" in output


def test_a_folder_in_use_is_not_overwritten(table, capsys):
    (table.parent / "kept").mkdir()
    (table.parent / "kept" / "thesis.txt").write_text("years")
    message = error_of(capsys, ["train", "plain.csv", "--target", "y", "--out", "kept"])
    assert "--out" in message
    assert os.listdir(table.parent / "kept") == ["thesis.txt"]


@pytest.mark.slow
def test_a_table_is_trained_and_loaded_back(table, capsys):
    arguments = ["train", "plain.csv", "--target", "y", "--hidden", "8-8", "--tol", "1e-2", "--flow", "adapted"]
    assert run(arguments) == 0
    output = capsys.readouterr().out
    for part in ("QN = 12", "K = 113", "rank 12 of 12", "predicted at", "deviation", "held-out error", "runs/plain"):
        assert part in output, part
    assert output.count("compiling …") == 1
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


@pytest.mark.slow
def test_with_patience_the_scores_are_those_of_the_network_that_is_kept(table, capsys):
    arguments = ["train", "plain.csv", "--target", "y", "--hidden", "8-8", "--optimizer", "levenberg-marquardt"]
    assert run([*arguments, "--test-fraction", "0.4", "--max-steps", "12", "--tol", "1e-12", "--patience", "50"]) == 0
    output = capsys.readouterr().out
    kept = load(table.parent / "runs" / "plain")
    row = kept_row(kept.metrics)
    assert row["step"] < kept.metrics[-1]["step"]
    assert f"saved and scored is the one at update {row['step']}," in output
    assert "fit noise" not in output
    data = np.loadtxt(table, delimiter=",", skiprows=1)
    judged = 2 * 2 * row["validation_cost"] * kept.outputs.scale[0] ** 2
    total = 7 * row["train_rmse"] ** 2 + 6 * row["test_rmse"] ** 2 + judged
    assert np.sum((kept.predict(data[:, :3]) - data[:, 3]) ** 2) == pytest.approx(total, rel=1e-9)
    scores = f"{row['train_rmse']:.4g}", f"{row['test_rmse']:.4g}"
    assert f"training error {scores[0]}, held-out error {scores[1]} " in output
    page = (kept.path / "report.html").read_text()
    assert all(f"<dd>{score}</dd>" in page for score in scores)


@pytest.mark.slow
def test_a_single_network_on_a_table_is_stopped_by_rows_that_are_held_out(home, capsys):
    """A linear model that predicts better is named first."""
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(60, 3)), rng.normal(size=60)
    rows = [f"{a:.4f},{b:.4f},{c:.4f},{a - b + e:.4f}" for (a, b, c), e in zip(x, noise, strict=True)]
    (home / "linear.csv").write_text("a,b,c,y\n" + "\n".join(rows) + "\n")
    assert run(["train", "linear.csv", "--target", "y", "--max-steps", "30", "--hidden", "32-32"]) == 0
    kept = load(home / "runs" / "linear")
    assert (kept.config.optimizer, kept.config.patience, kept.config.hidden) == ("levenberg-marquardt", 10, (32, 32))
    assert (kept.summary["N"], kept.summary["test_rows"], kept.config.samples) == (38, 12, 48)
    row = kept_row(kept.metrics)
    judged = [each["validation_cost"] for each in kept.metrics if "validation_cost" in each]
    assert row["validation_cost"] == min(judged)
    design = np.column_stack([x, np.ones(60)])
    order = np.random.default_rng(0).permutation(60)
    train, test = order[10:48], order[48:]
    fitted = np.linalg.lstsq(design[train], (x[:, 0] - x[:, 1] + noise)[train])[0]
    error = np.sqrt(np.mean((design[test] @ fitted - (x[:, 0] - x[:, 1] + noise)[test]) ** 2))
    assert kept.summary["linear"] == pytest.approx(error, rel=0.1)
    worse = row["test_rmse"] > kept.summary["linear"]
    assert worse == ("worse than" in kept.summary["warnings"][0])
    # The headline is about the network that is saved, which is marked in the table.
    assert row is not kept.metrics[-1]
    assert kept.summary["cost"] == row["cost"]
    page = (kept.path / "report.html").read_text()
    assert f"the one at update {row['step']}. Its cost on the training rows is {row['cost']:.4g}, from " in page
    assert f"on the validation rows it is {row['validation_cost']:.4g}." in page
    saved = [
        str(row["step"]),
        f"{row['cost']:.4e}",
        f"{row['validation_cost']:.4e}",
        f"{row['test_rmse']:.4g}",
        "saved",
    ]
    assert [line.split() for line in capsys.readouterr().out.splitlines() if line.endswith(" saved")] == [saved]
    assert "".join(f"<td>{cell}</td>" for cell in saved) in page


@pytest.fixture
def trained(table):
    """A run by minibatches, and its arguments."""
    arguments = [
        "train",
        "plain.csv",
        "--target",
        "y",
        "--model",
        "8-8",
        "--optimizer",
        "adapted-momentum",
        "--batch-size",
        "4",
    ]
    assert run([*arguments, "--max-steps", "30", "--keep-every", "0", "--out", "one"]) == 0
    return table.parent / "one"


@pytest.mark.slow
def test_a_config_repeats_a_run_bit_for_bit_and_options_come_before_it(trained, capsys):
    assert run(["train", "--config", "one/config.toml", "--out", "two"]) == 0
    for name in ("parameters.eqx", "metrics.jsonl", "config.toml", "network.json"):
        assert (trained / name).read_bytes() == (trained.parent / "two" / name).read_bytes(), name
    assert run(["train", "--config", "one/config.toml", "--seed", "5", "--out", "three"]) == 0
    assert load("three").config.seed == 5
    assert (trained / "parameters.eqx").read_bytes() != (trained.parent / "three" / "parameters.eqx").read_bytes()
    assert (trained / "report.html").read_text().count("<th>update</th>") == 1


def test_what_is_done_with_a_run(trained, capsys):
    (trained.parent / "new.csv").write_text("c,a,note,b\n1,2,x,3\n0.5,0.25,y,-1\n")
    capsys.readouterr()
    assert run(["predict", "one", "new.csv"]) == 0
    name, *values = capsys.readouterr().out.split()
    expected = load(trained).predict(np.array([[2, 3, 1], [0.25, -1, 0.5]]))
    assert name == "row,y"
    assert values == [f"{number},{value!r}" for number, value in enumerate(expected.tolist(), 1)]
    assert run(["predict", "one", "new.csv", "--out", "predicted.csv"]) == 0
    assert (trained.parent / "predicted.csv").read_text().split() == [name, *values]
    assert "predicted.csv exists" in error_of(capsys, ["predict", "one", "new.csv", "--out", "predicted.csv"])
    # An index, or columns that are asked for, take the place of the number of the row.
    (trained.parent / "named.csv").write_text("shop_id,c,a,note,b\n7,1,2,=x,3\n9,0.5,0.25,,-1\n")
    assert run(["predict", "one", "named.csv"]) == 0
    assert capsys.readouterr().out == "shop_id,y\n7,{!r}\n9,{!r}\n".format(*expected.tolist())
    assert run(["predict", "one", "named.csv", "--keep", "note", "--keep", "shop_id"]) == 0
    assert capsys.readouterr().out.split()[:2] == ["note,shop_id,y", f"'=x,7,{float(expected[0])!r}"]
    assert "did you mean 'note'" in error_of(capsys, ["predict", "one", "named.csv", "--keep", "notes"])
    (trained.parent / "far.csv").write_text("c,a,b\n1,2,3\n0.5,-1e4,-1\n0.5,1e4,-1\n")
    assert run(["predict", "one", "far.csv"]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "note: 2 of 3 rows of column 'a' are far from the training rows, such as -10000 where those are " in told
    (trained.parent / "few.csv").write_text("c,b\n1,2\n")
    assert "no column 'a'" in error_of(capsys, ["predict", "one", "few.csv"])
    assert run(["rank", "one"]) == 0
    assert "12 of 12" in capsys.readouterr().out
    # A run that has ended is left as it is.
    before = (trained / "parameters.eqx").read_bytes()
    assert run(["resume", "one"]) == 0
    assert (trained / "parameters.eqx").read_bytes() == before
    assert run(["info"]) == 0
    output = capsys.readouterr().out
    assert [part for part in ("jax ", "devices", "x64", "orbax") if part not in output] == []


@pytest.mark.slow
def test_a_run_that_had_ended_says_so_and_goes_on_once_it_may(trained, capsys):
    capsys.readouterr()
    assert run(["resume", "one"]) == 0
    assert "had already ended" in capsys.readouterr().out
    before = load(trained).summary
    assert any("Taken as regression" in note for note in before["warnings"])
    assert run(["resume", "one", "--max-steps", "36"]) == 0
    output = capsys.readouterr().out
    assert "had already ended" not in output
    assert output.count("Taken as regression") == 1
    assert (load(trained).summary["steps"], load(trained).config.max_steps) == (36, 36)
    config = trained / "config.toml"
    config.write_text(config.read_text().replace("max_steps = 36", "max_steps = 96"))
    assert "If you have edited config.toml" in error_of(capsys, ["resume", "one"])


@pytest.mark.slow
def test_a_run_on_a_table_that_has_changed_is_not_gone_on_with(trained, table, capsys):
    table.write_text(table.read_text().replace(table.read_text().splitlines()[3], "1,2,3,4"))
    assert "the samples or targets have changed" in error_of(capsys, ["resume", "one"])


@pytest.mark.slow
def test_a_killed_run_is_resumed_to_the_same_end(home):
    command = [sys.executable, "-m", "jaxgeo", "train", "digits", "--samples", "20", "--hidden", "16-16", "--out"]
    subprocess.run([*command, "whole"], cwd=home, check=True, stdout=subprocess.DEVNULL)
    process = subprocess.Popen([*command, "killed", "--keep-every", "0"], cwd=home, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (home / "killed" / "checkpoints" / "1").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert load(home / "killed").summary["outcome"] == "interrupted"
    subprocess.run(
        [sys.executable, "-m", "jaxgeo", "resume", "killed"], cwd=home, check=True, stdout=subprocess.DEVNULL
    )
    for name in ("parameters.eqx", "metrics.jsonl"):
        assert (home / "killed" / name).read_bytes() == (home / "whole" / name).read_bytes(), name
    assert load(home / "killed").summary["outcome"] == "reached"


@pytest.mark.slow
def test_methods_are_compared_in_one_figure(table):
    command = [sys.executable, "-m", "jaxgeo", "compare", "plain.csv", "--target", "y", "--model", "8-8"]
    subprocess.run(
        [*command, "--seconds", "30", "--tol", "1e-2"], cwd=table.parent, check=True, stdout=subprocess.DEVNULL
    )
    folder = table.parent / "runs" / "plain-compare"
    found = json.loads((folder / "compare.json").read_text())
    assert set(found["curves"]) == {"adapted", "levenberg-marquardt", "adam", "lbfgs", "standard"}
    starts = {curve[0]["cost"] for curve in found["curves"].values()}
    assert max(starts) == pytest.approx(min(starts))
    assert found["endings"]["levenberg-marquardt"] == "reached"
    assert ElementTree.parse(folder / "compare.svg").getroot().tag.endswith("svg")


def test_help_and_version(home, capsys):
    assert run(["train", "--help"]) == 0
    text = capsys.readouterr().out
    for option in ("--samples", "--hidden", "--tol", "--flow", "--rtol", "--seed", "--out", "--target", "--precision"):
        assert option in text
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("jaxgeo ")
    assert run([]) == 0
    text = capsys.readouterr().out
    assert "train" in text
    assert "--version" in text


@pytest.mark.slow
def test_ctrl_c_leaves_a_usable_folder(home):
    command = [sys.executable, "-m", "jaxgeo", "train", "digits", "--samples", "30", "--rtol", "1e-9"]
    printed = home / "printed"
    # A pipe that nobody reads meanwhile would stop the process once it is full.
    with printed.open("w") as stream:
        process = subprocess.Popen(command, cwd=home, stdout=stream, stderr=subprocess.STDOUT)
    metrics = home / "runs" / "digits" / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (metrics.exists() and metrics.read_text()):
        assert process.poll() is None, printed.read_text()
        assert time.monotonic() < deadline, printed.read_text()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=300)
    output = printed.read_text()
    assert process.returncode == 130, output
    assert "Traceback" not in output
    kept = load(home / "runs" / "digits")
    assert kept.summary["outcome"] == "interrupted"
    assert 1e-6 * kept.summary["cost0"] < kept.metrics[-1]["cost"] < kept.summary["cost0"]
    assert "interrupted" in (home / "runs" / "digits" / "report.html").read_text()
    assert [json.loads(line)["s"] for line in metrics.read_text().splitlines()] == [row["s"] for row in kept.metrics]


def test_bench_passes_its_arguments_on(tmp_path, monkeypatch):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").touch()
    (tmp_path / "benchmarks" / "__main__.py").write_text("import sys; sys.exit(sys.argv[1:] != ['orbits', '--quick'])")
    monkeypatch.chdir(tmp_path)
    assert run(["bench", "orbits", "--quick"]) == 0
    assert run(["bench"]) == 1


def test_bench_says_where_it_belongs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["bench"]) == 2
    assert "copy of the repository" in capsys.readouterr().err
