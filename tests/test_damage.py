"""Damaged run folders: each gives the right result or one clear error line; none fails silently or hangs.

`JAXGEO_DAMAGES=1000 pytest -m slow tests/test_damage.py -s` prints the result of each kind.
"""

import collections
import os
import shutil
import warnings

import damages
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from limits import Hangs, limited, restart

import jaxgeo as jg
from jaxgeo.app.report.page import render
from jaxgeo.app.runs import load
from jaxgeo.app.runs.folder import RunFolder

# Of TensorStore's threads, which have more to say of a checkpoint that is not one than was raised.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
X = jnp.linspace(-1.0, 1.0, 6)[:, None]
MODEL = eqx.nn.MLP(1, 1, 4, 1, activation=jnp.tanh, key=jax.random.key(0))
OPTIONS = {"method": "sgd", "tol": 0.0, "max_steps": 6, "record_every": 2, "keep_every": 0.0}
ROWS = np.array([[1.0, 2.0], [5.0, -1.0]])


def make(path, seed, max_steps=6):
    """A run's folder whose checkpoints are those of `fit` on a small problem."""
    folder = runs.write(path)
    jg.fit(MODEL, X, jnp.sin(3 * X + seed), folder=path, resume=True, **{**OPTIONS, "max_steps": max_steps})
    with RunFolder.open(path):
        folder.save_parameters(runs.network(seed=5 + seed))
        folder.save_metrics(runs.rows(4 if max_steps < 6 else 5))
    return path


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A run, and two that its files may be exchanged with: another run, and itself at an earlier time."""
    home = tmp_path_factory.mktemp("kept")
    return make(home / "run", 0), (make(home / "other", 1), make(home / "earlier", 0, 4))


def look(folder):
    """What a user gets of a folder: the loaded run, its predictions, its page and the state that it goes on from."""
    run = load(folder)
    page = render(run, [])
    return run, run.predict(ROWS), page


def go_on(folder):
    """The lock is that of `fit`, and nothing is left to train."""
    return jg.fit(MODEL, X, jnp.sin(3 * X), folder=folder, resume=True, **OPTIONS)


def attempt(action, folder):
    """What `action` gives, and the warnings; or the `ValueError` that it ended with."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            return action(folder), [str(warning.message) for warning in told]
        except ValueError as error:
            return error, []


class Judge:
    """Tries one damage after another on copies of a run, and counts what became of them."""

    def __init__(self, kept, home):
        self.whole, self.others = kept
        self.folder, self.counts, self.faults = home / "damaged", collections.Counter(), []
        self.run, self.predicted, _ = look(self.whole)
        self.model = go_on(shutil.copytree(self.whole, home / "whole")).model

    def judge(self, number):
        shutil.copytree(self.whole, self.folder)
        what = damages.damage(self.folder, number, self.others)
        forged = what.endswith("digest")
        try:
            found, told = attempt(look, self.folder)
            if isinstance(found, ValueError):
                assert str(found).strip()
                self.counts["forged, refused" if forged else "damaged, refused"] += 1
            else:
                self.check(*found, told, forged)
                self.counts["forged, read" if forged else "damaged, read rightly"] += 1
            again, _ = attempt(go_on, self.folder)
            refused = isinstance(again, ValueError)
            assert refused or forged or eqx.tree_equal(again.model, self.model)
            self.counts["resume refused" if refused else "resumed"] += 1
        except (Exception, Hangs) as error:
            self.faults.append((number, what, repr(error)[:300]))
        shutil.rmtree(self.folder)

    def check(self, run, values, page, told, forged):
        assert "<img" not in page
        assert "<script" not in page
        assert np.isfinite(values).all()
        if not forged:
            assert np.array_equal(values, self.predicted)
            assert (run.config, run.summary) == (self.run.config, self.run.summary)
            assert run.metrics == self.run.metrics[: len(run.metrics)]
            assert told or len(run.metrics) == len(self.run.metrics)

    def try_all(self, numbers):
        """Each within a minute and 2 GiB more than there were."""
        with limited():
            for number in numbers:
                restart(60)
                self.judge(number)
        assert self.faults == []
        return self.counts


def test_a_damaged_folder_gives_the_right_result_or_one_line(kept, tmp_path):
    counts = Judge(kept, tmp_path).try_all(range(40))
    assert min(counts[name] for name in ("damaged, refused", "damaged, read rightly", "forged, refused", "resumed")) > 0


@pytest.mark.slow
def test_a_thousand_damages(kept, tmp_path):
    count = int(os.environ.get("JAXGEO_DAMAGES", "1000"))
    counts = Judge(kept, tmp_path).try_all(range(40, 40 + count))
    print(dict(counts))
    assert counts["resumed"] + counts["resume refused"] == count
