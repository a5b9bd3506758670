"""The process of the command line: Ctrl-C and SIGTERM at any time, pipes without readers, full disks, ASCII."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from commands import own_environment

from jaxgeo._signals import Signals
from jaxgeo.app.runs import load

JAXGEO = [sys.executable, "-m", "jaxgeo"]
TRAIN = ["train", "plain.csv", "--target", "y", "--model", "8-8", "--optimizer", "sgd", "--keep-every", "0"]


@pytest.fixture
def home(tmp_path):
    x = np.random.default_rng(0).normal(size=(15, 2))
    lines = [f"{a:.6f},{b:.6f},{a - np.sin(b):.6f}" for a, b in x]
    (tmp_path / "plain.csv").write_text("a,b,y\n" + "\n".join(lines) + "\n")
    return tmp_path


def start(home, *arguments, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": own_environment(), **options}
    return subprocess.Popen([*JAXGEO, *arguments], cwd=home, text=True, **options)


class Left(BaseException):
    pass


def test_a_signal_leaves_at_once_unless_a_training_can_be_told(monkeypatch, capfd, tmp_path):
    def leave(code):
        raise Left(code)

    class Training:
        interrupted = False

    monkeypatch.setattr(os, "_exit", leave)
    signals, training = Signals(), Training()
    with pytest.raises(Left, match="130"):
        signals._hear(signal.SIGINT, None)
    assert capfd.readouterr().err == "interrupted; nothing was written\n"
    signals.folder = tmp_path / "a run"
    with signals.training(training):
        signals._hear(signal.SIGTERM, None)
        assert training.interrupted
        assert "finishing the current steps" in capfd.readouterr().err
        with pytest.raises(Left, match="143"):
            signals._hear(signal.SIGTERM, None)
    assert capfd.readouterr().err == f"interrupted; to resume: jaxgeo resume '{tmp_path / 'a run'}'\n"


def wait_for(path, process):
    deadline = time.monotonic() + 300
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("delay", [0.15, 0.5, 1.0, 2.0, 3.0, 4.0])
def test_a_signal_at_any_time_before_the_training_is_one_line(home, number, delay):
    process = start(home, *TRAIN, "--max-steps", "10000000", "--record-every", "1000", "--out", "run")
    time.sleep(delay)
    process.send_signal(number)
    output, errors = process.communicate(timeout=120)
    lines = [line for line in errors.splitlines() if line]
    if process.returncode == -number:
        # Before the first line of jaxgeo: Python itself was being started.
        assert delay < 0.3
        return
    assert process.returncode == 128 + number, (output, errors)
    assert len(lines) == 1, errors
    if (home / "run" / "summary.json").exists():
        assert "resume  jaxgeo resume run" in output or "jaxgeo resume run" in errors
    else:
        assert lines == ["interrupted; nothing was written"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_that_is_told_to_end_says_how_to_go_on(home, number):
    process = start(home, *TRAIN, "--max-steps", "10000000", "--record-every", "1000", "--out", "run")
    wait_for(home / "run" / "checkpoints" / "1", process)
    process.send_signal(number)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + number, errors
    assert "Traceback" not in output + errors
    assert output.rstrip().endswith("resume  jaxgeo resume run")
    steps = load(home / "run").summary["steps"]
    assert (steps > 0, load(home / "run").summary["outcome"]) == (True, "interrupted")
    process = start(home, "resume", "run", "--max-steps", str(steps + 5))
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert load(home / "run").summary["steps"] == steps + 5


@pytest.mark.slow
def test_a_training_outlives_the_reader_of_its_output(home):
    with start(home, *TRAIN, "--max-steps", "20", "--out", "run") as process:
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(120) == 0, errors
    assert errors == ""
    assert load(home / "run").summary["outcome"] == "max_steps"


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [["info"], ["--help"], ["--version"], [*TRAIN, "--max-steps", "4", "--out", "run"]]
)
def test_a_full_disk_behind_the_output_is_one_line(home, arguments):
    with open("/dev/full", "w") as full:
        process = start(home, *arguments, stdout=full)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert errors == "error: cannot write to standard output (No space left on device)\n"
    assert ("run" in arguments) is (home / "run" / "report.html").exists()


@pytest.mark.slow
def test_a_terminal_of_ascii_gets_all_lines(home):
    environment = own_environment(PYTHONIOENCODING="ascii", LANG="C", LC_ALL="C", COLUMNS="30")
    process = start(home, *TRAIN, "--max-steps", "4", "--out", "run[final]", env=environment)
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    assert "cond(DD^T)" in output
    assert "report  run[final]/report.html" in output


@pytest.mark.slow
def test_two_processes_that_want_one_folder(home):
    both = [start(home, *TRAIN, "--max-steps", "30", "--out", "run") for _ in range(2)]
    answers = [process.communicate(timeout=240) for process in both]
    assert sorted(process.returncode for process in both) == [0, 2]
    assert any("run is in use already" in errors for _, errors in answers)
    again = [start(home, *TRAIN, "--max-steps", "30") for _ in range(2)]
    assert [(process.communicate(timeout=240), process.returncode)[1] for process in again] == [0, 0]
    assert sorted(path.name for path in (home / "runs").iterdir()) == ["plain", "plain-2"]
