"""Runs lose nothing: owners, names, settings, truncated rows, extreme numbers, and text that is only text."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import runs
from commands import TRAIN, error_of
from hypothesis import example, given, settings, strategies as st

import jaxgeo as jg
from jaxgeo.app.cli import tools
from jaxgeo.app.cli.app import run
from jaxgeo.app.report.page import write_report
from jaxgeo.app.runs import Config, load
from jaxgeo.app.runs.config import check_settings
from jaxgeo.app.runs.folder import RunFolder
from jaxgeo.fitting.files import read_json, to_json
from jaxgeo.fitting.lock import FolderLock, InUse


@pytest.fixture
def folder(tmp_path):
    return runs.write(tmp_path / "run")


# --- nothing lost


def test_a_run_without_its_checkpoints_is_not_begun_anew(trained, capsys):
    before = {path: path.read_bytes() for path in trained.iterdir() if path.is_file()}
    shutil.rmtree(trained / "checkpoints")
    assert "no checkpoint in" in error_of(capsys, ["resume", "one"])
    with RunFolder.open(trained) as folder:
        folder.files.forget([name for name in folder.files.names if name.startswith("checkpoints/")])
    assert "nothing in one to resume from" in error_of(capsys, ["resume", "one"])
    for path, content in before.items():
        assert path.name in (".lock", "digests.json") or path.read_bytes() == content, path


def test_a_run_is_resumed_from_anywhere(trained, capsys, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert run(["resume", str(trained), "--max-steps", "6"]) == 0
    assert load(trained).summary["steps"] == 6


def test_a_folder_has_one_owner(tmp_path):
    lock, refused = FolderLock(tmp_path / "run"), []
    again = FolderLock(tmp_path / "run")

    def take():
        try:
            FolderLock(tmp_path / "run")
        except InUse as error:
            refused.append(str(error))

    def in_thread():
        thread = threading.Thread(target=take)
        thread.start()
        thread.join()

    in_thread()
    again.release()
    in_thread()
    assert len(refused) == 2
    assert f"process {os.getpid()}" in refused[0]
    lock.release()
    in_thread()
    assert len(refused) == 2


def hold(path):
    code = "import sys, time\nfrom pathlib import Path\nfrom jaxgeo.fitting.lock import FolderLock\n"
    code += "lock = FolderLock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_dies_with_its_process(trained, capsys):
    process = hold(trained)
    try:
        message = error_of(capsys, ["resume", "one"])
        assert f"another run is using one (process {process.pid})" in message
        assert RunFolder.create(trained, fresh_name=True).path.name == "one-2"
    finally:
        process.kill()
        process.communicate()
    assert run(["resume", "one"]) == 0


def test_of_two_that_want_a_name_one_gets_it(tmp_path):
    found, barrier = [], threading.Barrier(8)

    def create():
        barrier.wait()
        found.append(RunFolder.create(tmp_path / "run", fresh_name=True))

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({folder.path for folder in found}) == 8


def test_a_write_cut_off_anywhere_leaves_a_folder_that_is_believed(tmp_path, monkeypatch):
    folder, replace = runs.write(tmp_path / "run"), os.replace
    before, after = load(folder.path).metrics, runs.rows(9)
    for moment in range(4):
        count = iter(range(10))

        def interrupt(source, target):
            if next(count) == moment:  # noqa: B023 - called within this turn
                raise KeyboardInterrupt
            replace(source, target)

        with monkeypatch.context() as cut:
            cut.setattr(os, "replace", interrupt)
            try:
                folder.save_metrics(after)
            except KeyboardInterrupt:
                assert load(folder.path).metrics == before
            else:
                assert load(folder.path).metrics == after
                break
    assert moment == 2
    folder.files.settle()
    (folder.path / "metrics.jsonl").write_text("".join(f"{to_json(row)}\n" for row in before))
    with pytest.warns(match="of its rows are lost"):
        load(folder.path)


TEXT = st.text(max_size=20)
COUNT = st.integers(-1, 2**33)
NUMBER = st.floats() | st.integers(-2, 10)


@st.composite
def configs(draw):
    """Settings of all types, most of which can be meant."""
    is_flow = draw(st.booleans())
    optional = {
        "learning_rate": NUMBER,
        "batch_size": COUNT,
        "record_every": COUNT,
    }
    return dict(
        problem=draw(TEXT),
        samples=draw(COUNT),
        hidden=tuple(draw(st.lists(st.integers(0, 100), min_size=1, max_size=4))),
        flow="adapted" if is_flow else "",
        tol=draw(NUMBER | st.just(1e-6)),
        rtol=draw(st.none() | st.floats(1e-9, 0.5)) if is_flow else None,
        max_steps=draw(COUNT),
        seed=draw(st.integers(-1, 2**64)),
        precision=draw(st.sampled_from(["float64", "float32", "float16"])),
        target=draw(TEXT),
        drop=tuple(draw(st.lists(TEXT, max_size=3))),
        optimizer="" if is_flow else draw(st.sampled_from(["adam", "adapted-momentum", "lbfgs"])),
        patience=draw(st.none() | COUNT),
        keep_every=draw(NUMBER | st.just(float("inf"))),
        **({} if is_flow else {name: draw(st.none() | each) for name, each in optional.items()}),
    )


GOOD = Config("a.csv", 4, (3,), "", 1e-6, None, 9, 0, "float64", optimizer="adam")


@settings(max_examples=300, deadline=None)
@example(GOOD)
@example(Config(**{**vars(GOOD), "keep_every": float("inf"), "target": 'DEL\x7f \x85\u2028\r\n\t"\\ €'}))
@given(configs())
def test_settings_are_refused_or_read_back(config):
    config = Config(**config) if isinstance(config, dict) else config
    try:
        check_settings(vars(config))
        text = config.to_toml()
    except ValueError:
        with pytest.raises(ValueError, match=r"."):
            Config.from_toml(config.to_toml())
        return
    assert Config.from_toml(text) == config
    assert Config.from_toml(Config.from_toml(text).to_toml()) == config


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--learning-rate", "inf"], "--learning-rate must be finite"),
        (["--learning-rate", "nan"], "--learning-rate must be finite"),
        (["--seed", str(2**63)], "below 2**63"),
        (["--keep-every", "nan"], "--keep-every"),
        (["--hidden", "1000000-1000000"], "GiB at least"),
        (["--hidden", "-".join("1" * 2000)], "at most 100 layers"),
        (["--record-every", str(10**9)], "--record-every"),
        (["--out", "x" * 300], "File name too long"),
        (["--out", "plain.csv/x"], "cannot write to plain.csv/x"),
        (["--target", "\udcff"], "no column"),
    ],
)
def test_settings_that_cannot_be_kept_are_refused_before_training(table, capsys, options, part):
    assert part in error_of(capsys, ["train", "plain.csv", *TRAIN, *options])
    assert sorted(path.name for path in table.parent.iterdir()) == ["plain.csv"]


@pytest.mark.slow
def test_a_run_that_is_never_kept_along_the_way_is_read_back(table, capsys):
    text = table.read_text()
    table.write_text(text.replace("a,b,y", "a\x7f,b,y", 1), encoding="utf-8")
    assert run(["train", "plain.csv", *TRAIN, "--keep-every", "inf", "--out", "x[/old]"]) == 0
    assert "x[/old]" in capsys.readouterr().out
    found = load("x[/old]")
    assert (found.config.keep_every, found.inputs.names[0]) == (float("inf"), "a\x7f")
    assert run(["resume", "x[/old]"]) == 0


# --- nothing silently changed


def test_a_cut_off_line_costs_that_line(folder, capsys):
    path = folder.path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.warns(match="1 of its rows are lost"):
        assert load(folder.path).metrics == runs.rows()[:-1]


def test_one_bit_in_the_weights_is_found(folder):
    path = folder.path / "parameters.eqx"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="parameters.eqx: its contents do not match its digest"):
        load(folder.path)


@pytest.mark.parametrize(
    ("name", "changes", "part"),
    [
        (
            "network.json",
            {"inputs": {"names": ["a", "b"], "mean": [0.0], "scale": [1.0]}},
            "2 names of inputs, 1 means",
        ),
        ("network.json", {"sizes": [2, 10**9, 1]}, "another network than config.toml"),
        ("network.json", {"sizes": [3, 3, 1]}, "sizes from 3 to 1, but 2 inputs"),
        ("network.json", {"dtype": "float32"}, "another network than config.toml"),
        ("network.json", {"outputs": {"names": ["y"], "mean": [0.0], "scale": [0.0]}}, "not positive"),
        ("summary.json", {"outcome": "<b>"}, "'<b>' is not a valid Outcome"),
        ("summary.json", {"environment": []}, "environment must be by name, each text"),
        ("metrics.jsonl", {"s": "<img src=x onerror=alert(1)>0"}, "metrics.jsonl does not map names to numbers"),
    ],
)
def test_a_strangers_folder_is_compared_with_itself(folder, name, changes, part):
    first, *rest = (
        (folder.path / name).read_text().splitlines() if name == "metrics.jsonl" else [(folder.path / name).read_text()]
    )
    folder.files.write(name, "\n".join([json.dumps(json.loads(first) | changes), *rest]).encode())
    with pytest.raises(ValueError, match=part):
        load(folder.path)


def test_what_a_folder_says_is_text_on_the_page(tmp_path):
    tag = '<img src=x onerror="alert(1)">'
    runs.write(tmp_path / "run", name=tag, source=tag, warnings=(tag,), message=tag, environment={tag: tag})
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "<img" not in page
    assert page.count("&lt;img") >= 5


@pytest.mark.parametrize("name", ["figures", "report.html", ".report.html.part", "digests.json", ".digests.json.part"])
def test_no_link_in_a_folder_leads_a_write_elsewhere(folder, tmp_path, name):
    outside = tmp_path / "outside"
    target = outside / "file"
    outside.mkdir()
    target.write_text("mine")
    link = folder.path / name
    link.unlink(missing_ok=True)
    link.symlink_to(outside if name == "figures" else target)
    refused = name in ("figures", "digests.json")
    with pytest.raises(ValueError, match="link") if refused else contextlib.nullcontext():
        write_report(folder.path)
        folder.save_metrics(runs.rows(3))
    assert target.read_text() == "mine"
    assert os.listdir(outside) == ["file"]


def test_fit_writes_no_checkpoint_through_a_link(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "outside", target_is_directory=True)
    (tmp_path / "outside").mkdir()
    x = np.linspace(-1, 1, 4)[:, None]
    with pytest.raises(ValueError, match="leads out of the folder"):
        jg.fit(runs.network(), np.ones((4, 2)), x, method="sgd", max_steps=2, folder=tmp_path / "run")
    assert not list((tmp_path / "outside").iterdir())


def test_a_spreadsheet_takes_no_prediction_for_a_formula():
    cells = ["=1+1", "+a", "-a", "@SUM(A1)", "\t=1", "-1.5", "+2", "low"]
    assert [tools._cell(cell) for cell in cells] == ["'=1+1", "'+a", "'-a", "'@SUM(A1)", "'\t=1", "-1.5", "+2", "low"]


# --- numbers at the edge


def test_json_has_no_nan():
    nan, inf = float("nan"), float("inf")
    assert read_json(to_json({"a": nan, "b": [inf, (-inf, 1.5)]})) == {"a": None, "b": [None, [None, 1.5]]}
    for text in ("NaN", "[-Infinity]", "1e999", "[" * 100_000):
        with pytest.raises(ValueError, match="number|nested"):
            read_json(text)


def test_a_prediction_is_finite_or_refused(trained, capsys):
    (trained.parent / "new.csv").write_text("a,b\n0,1\n1e308,1e308\n")
    found = load(trained)
    found.inputs.scale[:] = 1e-5
    with pytest.raises(ValueError, match=r"'a' is 1e\+308 in row 2, which is too large"):
        found.predict(np.array([[0, 1], [1e308, 1e308]]))
    (trained.parent / "inf.csv").write_text("a,b\n0,inf\n")
    assert "'b'" in error_of(capsys, ["predict", "one", "inf.csv"])


@pytest.mark.parametrize(
    "cells",
    ["1e308 -1e308 1.5e308 1.7e308", pytest.param("1e-320 2e-320 3e-320 5e-320", marks=pytest.mark.slow)],
)
def test_a_column_that_cannot_be_scaled_is_named(table, capsys, cells):
    values = cells.split() * 3
    table.write_text("a,b,y\n" + "".join(f"{i},{value},{i % 5}.5\n" for i, value in enumerate(values)))
    code = run(["train", "plain.csv", *TRAIN])
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert code == 0 or "'b'" in error, error
    if code == 0:
        assert all(np.isfinite(row["cost"]) for row in load("runs/plain").metrics)
