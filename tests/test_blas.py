"""A fit keeps to one BLAS thread, and gives back what it found, also if several run at once."""

import threading

import jax.numpy as jnp
import jax.random as jr
from threadpoolctl import threadpool_info, threadpool_limits

import jaxgeo as jg
from jaxgeo.equations import Network
from jaxgeo.fitting.blas import one_blas_thread


def blas_threads():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_a_fit_uses_one_blas_thread():
    seen = []
    inputs = jnp.linspace(-1, 1, 6)[:, None]
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        network = Network((1, 4, 1), jnp.float64, key=jr.key(0))
        jg.fit(network, inputs, inputs**2, max_steps=2, callbacks=[lambda *_: seen.append(blas_threads())])
        assert blas_threads() == before == {2}
    assert seen
    assert all(threads == {1} for threads in seen)


def test_the_limit_holds_until_the_last_of_several_ends():
    inside, end = threading.Barrier(2), threading.Event()

    def second():
        with one_blas_thread():
            inside.wait()
            end.wait()

    with threadpool_limits(2, user_api="blas"):
        other = threading.Thread(target=second)
        with one_blas_thread():
            other.start()
            inside.wait()
        assert blas_threads() == {1}
        end.set()
        other.join()
        assert blas_threads() == {2}
