"""Strict numerics for every test and doctest: float64, no silent promotion of dtypes or ranks."""

import os
import signal

# Before SciPy is loaded: JAX's Cholesky runs on its OpenBLAS, whose threads wait for one another in a busy loop. With
# two test processes on two cores that makes a factorisation of milliseconds one of a second.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import pytest

# A shell starts its background jobs with Ctrl-C ignored, which they pass on, and some tests press it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config: pytest.Config) -> None:
    # A third of the time of the fast tests is XLA's optimisation of programs that run once. The slow ones compile as
    # users do.
    jax.config.update("jax_disable_most_optimizations", config.option.markexpr == "not slow")


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled_programs():
    """Bounds the memory of a test process: compiled programs of one test file are of no use to the next."""
    yield
    jax.clear_caches()
