"""A small table, a short run on it, and the one-line error of a command with wrong arguments."""

import os
import shutil

import numpy as np

from jaxgeo.app.cli.app import run

TRAIN = ["--target", "y", "--model", "4", "--optimizer", "sgd", "--max-steps", "4", "--keep-every", "0"]


def write_table(folder):
    x = np.random.default_rng(0).normal(size=(12, 2))
    lines = [f"{a:.6f},{b:.6f},{a - np.sin(b):.6f}" for a, b in x]
    (folder / "plain.csv").write_text("a,b,y\n" + "\n".join(lines) + "\n")
    return folder / "plain.csv"


def train_once(folder):
    """A run in `folder`/one, to be copied."""
    assert run(["train", str(write_table(folder)), *TRAIN, "--out", str(folder / "one")]) == 0
    return folder / "one"


def copy_run(kept, folder):
    return shutil.copytree(kept, folder / "one")


def error_of(capsys, arguments, code=2):
    assert run(arguments) == code
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert "Traceback" not in captured.out + captured.err
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    return lines[0]


def own_environment(**more):
    """The variables for a `jaxgeo` in a process of its own, without those that importing JAX has set here."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "TF_CPP_"))}
    return inherited | more
