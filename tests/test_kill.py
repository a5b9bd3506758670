"""Runs that are killed at random moments and gone on with end where a run that was never killed ends, to the last bit.

`JAXGEO_KILLS=50 pytest -m slow tests/test_kill.py` makes fifty kills rather than five.
"""

import functools
import json
import os
import subprocess
import sys
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgeo as jg

CHILD = """
import sys
import equinox as eqx, jax, jax.numpy as jnp
import jaxgeo as jg
jax.config.update("jax_enable_x64", True)
folder, method, result = sys.argv[1:]
x = jnp.linspace(-1.0, 1.0, 8)[:, None]
model = eqx.nn.MLP(1, 1, 16, 2, activation=jnp.tanh, key=jax.random.key(0))
# rtol of a flow makes for many parts.
options = {"rtol": 1e-8} if method == "adapted" else {"batch_size": 4, "record_every": 5, "max_steps": 200}
callbacks = [lambda progress, model: print("part", progress.step, flush=True)]
found = jg.fit(model, x, jnp.sin(3 * x), method=method, tol=1e-6, folder=folder, resume=True, keep_every=0, seed=3,
               validation=(x + 0.1, jnp.sin(3 * x)), patience=1000, callbacks=callbacks, **options)
eqx.tree_serialise_leaves(result, found.model)
"""
KILLS = int(os.environ.get("JAXGEO_KILLS", "5"))
METHODS = ("adam", "adapted-momentum", "adam", "adapted-momentum", "adapted")


def start(folder, method):
    command = [sys.executable, "-c", CHILD, str(folder), method, str(folder) + ".eqx"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(folder, method):
    """The bytes of the final network, the rows, and the number of parts that this process made."""
    process = start(folder, method)
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return folder.with_name(folder.name + ".eqx").read_bytes(), rows, output.count("part")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What `finish` gives of a run by a method that was never killed."""
    folder = tmp_path_factory.mktemp("whole")
    return functools.cache(lambda method: finish(folder / method, method))


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
def test_a_killed_run_ends_like_one_that_was_not(tmp_path, whole, number):
    method = METHODS[number % len(METHODS)]
    network, rows, parts = whole(method)
    assert parts > 5
    rng = np.random.default_rng(number)
    process = start(tmp_path / "killed", method)
    # At a part drawn at random, and a moment drawn at random in it: while it is computed or while it is kept.
    made = int(rng.integers(0, parts - 1))
    for _ in range(made):
        assert process.stdout.readline().startswith("part")
    time.sleep(rng.uniform(0, 0.1))
    process.kill()
    _, errors = process.communicate()
    assert process.returncode == -9, f"it had ended before it was killed: {errors}"
    found, its_rows, its_parts = finish(tmp_path / "killed", method)
    assert found == network
    assert its_rows == rows
    # It went on from the last part that was told of, or the one before, whose checkpoint was cut off.
    assert its_parts <= parts - made + 1
