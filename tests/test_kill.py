"""Runs that are killed at random moments and gone on with end where a run that was never killed ends, to the last bit.

`JAXGEO_KILLS=50 pytest -m slow tests/test_kill.py` makes fifty kills rather than five.
"""

import functools
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

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
