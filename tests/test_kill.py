"""Runs that are killed at random moments and resumed give, bit for bit, the result of an uninterrupted run.

`JAXGEO_KILLS=100 pytest -m slow tests/test_kill.py` kills a hundred times instead of five.
"""

import functools
import json
import os
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import write_table
from killed import Command

import jaxgeo as jg
from jaxgeo.app.runs import load

KILLS = int(os.environ.get("JAXGEO_KILLS", "5"))
TRAIN = ["--target", "y", "--model", "6", "--keep-every", "0", "--tol", "1e-9"]
METHODS = {
    "adam": ["--optimizer", "adam", "--batch-size", "3", "--record-every", "5", "--max-steps", "60"],
    "early stopping": ["--optimizer", "levenberg-marquardt", "--patience", "1000", "--max-steps", "20"],
    "momentum": ["--optimizer", "adapted-momentum", "--batch-size", "3", "--record-every", "5", "--max-steps", "60"],
    "adapted": ["--flow", "adapted", "--rtol", "1e-6"],
}
# The moment that is waited for, and for how many seconds at most after it the kill comes.
MOMENTS = {
    "training": ("training", 0.02),
    "checkpointing": ("checkpointing", 0.05),
    "reporting": ("reporting", 1.0),
    "resuming": ("resuming", 0.3),
    "two processes": ("training", 0.1),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    write_table(home)
    return home


def train(home, method, name):
    return Command(home, "train", "plain.csv", *TRAIN, *METHODS[method], "--out", name)


def resume(home, name):
    return Command(home, "resume", name)


def contents(folder):
    """All that has to be the same: the network, the rows, and what was found but for the seconds."""
    summary = json.loads((folder / "summary.json").read_text())
    del summary["seconds"]
    assert (folder / "report.html").is_file()
    load(folder)
    return (folder / "parameters.eqx").read_bytes(), (folder / "metrics.jsonl").read_bytes(), summary


@pytest.fixture(scope="module")
def whole(home):
    """The contents of a run by a method that was never killed, and how often it was at each moment."""

    def run(method):
        name = f"whole {method}"
        counts = train(home, method, name).end()
        return contents(home / name), counts

    return functools.cache(run)


class Killed(BaseException):
    pass


@pytest.mark.slow
def test_a_run_that_is_cut_at_any_file_ends_like_one_that_was_not(tmp_path, monkeypatch):
    x = jnp.linspace(-1.0, 1.0, 6)[:, None]
    model = eqx.nn.MLP(1, 1, 4, 1, activation=jnp.tanh, key=jax.random.key(0))

    def fit(folder):
        options = {"method": "sgd", "tol": 0.0, "max_steps": 6, "record_every": 2, "keep_every": 0.0}
        return jg.fit(model, x, jnp.sin(3 * x), folder=folder, resume=True, **options)

    whole, replace, moment = fit(tmp_path / "whole"), os.replace, 0
    finished = False
    while not finished:
        count = iter(range(1000))

        def cut(source, target):
            if next(count) == moment:  # noqa: B023 - called within this turn
                raise Killed
            replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", cut)
            try:
                fit(tmp_path / str(moment))
                finished = True
            except Killed:
                pass
        found = fit(tmp_path / str(moment))
        assert (found.rows, found.steps) == (whole.rows, whole.steps), moment
        assert eqx.tree_equal(found.model, whole.model), moment
        assert (tmp_path / str(moment) / "metrics.jsonl").read_bytes() == (
            tmp_path / "whole/metrics.jsonl"
        ).read_bytes()
        moment += 1
    assert moment > 9


@pytest.mark.slow
@pytest.mark.parametrize("number", range(KILLS))
def test_a_killed_run_ends_like_one_that_was_not(home, whole, number):
    rng = np.random.default_rng(number)
    phase = [*MOMENTS][number % len(MOMENTS)]
    method = [*METHODS][number // len(MOMENTS) % len(METHODS)]
    expected, counts = whole(method)
    assert counts["training"] > 5
    moment, most = MOMENTS[phase]
    name, delay = f"killed {number}", rng.uniform(0, most)
    if phase == "two processes":
        second = Command(home, "resume", name, waits=True)
        assert second.wait_for("waiting")
    first = train(home, method, name)
    if phase == "resuming":
        # Twice: while it trains, and while it goes on from there.
        assert first.wait_for("training", int(rng.integers(1, counts["training"])))
        first.kill()
        first = resume(home, name)
    times = int(rng.integers(1, counts[moment])) if counts.get(moment, 1) > 1 else 1
    assert first.wait_for(moment, times)
    time.sleep(delay)
    if phase == "two processes" and rng.random() < 0.5:
        # The one that is refused dies: the owner notices nothing.
        second.kill()
        first.end()
    else:
        first.kill()
        # Killed, that is, and not ended by itself before.
        assert first.process.exitcode in ((-9,) if phase != "reporting" else (-9, 0))
        # The one that waits takes the folder at that moment.
        (second if phase == "two processes" else resume(home, name)).end()
    assert contents(home / name) == expected
