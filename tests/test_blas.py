"""A fit keeps to one BLAS thread, and gives back what it found, also if several run at once."""

import os
import subprocess
import sys
import threading

import jax.numpy as jnp
import jax.random as jr
import optax
import pytest

import jaxgeo as jg
from jaxgeo.equations import Network
from jaxgeo.fitting import blas

FIRST_USE = """
import jax.numpy as jnp
from threadpoolctl import threadpool_info
from jaxgeo.fitting.blas import one_blas_thread

def threads():
    return {each["filepath"]: each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}

with one_blas_thread():
    before = threads()
    jnp.linalg.qr(jnp.ones((2, 2)))
    assert threads() == before and set(before.values()) == {1}, (before, threads())
"""


@pytest.fixture
def events(monkeypatch):
    """What happens to the limit. The tests themselves run with one thread, which no process can raise afterwards."""
    events = []

    class Limits:
        def __init__(self, limits, user_api):
            events.append((limits, user_api))

        def restore_original_limits(self):
            events.append("restored")

    monkeypatch.setattr(blas, "threadpool_limits", Limits)
    return events


def test_a_fit_uses_one_blas_thread(events):
    inputs = jnp.linspace(-1, 1, 6)[:, None]
    network = Network((1, 4, 1), jnp.float64, key=jr.key(0))
    # By the method that compiles fastest: the limit is set around all of them.
    jg.fit(network, inputs, inputs**2, method=optax.sgd(0.1), max_steps=1, callbacks=[lambda *_: events.append("row")])
    assert (events[0], events[-1]) == ((1, "blas"), "restored")
    assert set(events[1:-1]) == {"row"}


def test_the_limit_is_given_back_after_an_error(events):
    with pytest.raises(ZeroDivisionError), blas.one_blas_thread():
        raise ZeroDivisionError
    assert events == [(1, "blas"), "restored"]


def test_the_limit_holds_until_the_last_of_several_ends(events):
    inside, end = threading.Barrier(2), threading.Event()

    def second():
        with blas.one_blas_thread():
            inside.wait()
            end.wait()

    other = threading.Thread(target=second)
    with blas.one_blas_thread():
        other.start()
        inside.wait()
    assert events == [(1, "blas")]
    end.set()
    other.join()
    assert events == [(1, "blas"), "restored"]


def test_the_limit_holds_for_the_blas_of_jax_before_jax_has_used_it():
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", FIRST_USE], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
