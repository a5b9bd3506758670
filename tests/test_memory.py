"""Repeated fits keep nothing in memory: no arrays, no data, and no further programs."""

import gc
import weakref

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import jaxgeo as jg
from jaxgeo.fitting.methods import optimizer_named


@pytest.fixture
def compiled():
    """The programs that were compiled, or read from a cache, so far."""
    found = []

    def hear(event, duration, **facts):
        if event.endswith("backend_compile_duration"):
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(hear)
    yield found
    jax.monitoring.unregister_event_duration_listener(hear)


class Listener:
    """Somebody who listens, and holds data."""

    def __init__(self):
        self.costs, self.data = [], jnp.ones(1000)

    def __call__(self, progress):
        self.costs.append(progress.cost)


def fit(method, seed, listener, **options):
    inputs = jax.random.normal(jax.random.key(seed), (6, 1))
    model = eqx.nn.MLP(1, 1, 4, 1, activation=jnp.tanh, key=jax.random.key(seed))
    # Optax's L-BFGS adds numbers of different types.
    with jax.numpy_dtype_promotion("standard" if method == "lbfgs" else "strict"):
        return jg.fit(model, inputs, jnp.sin(3 * inputs), method=method, progress=listener, rank_check=False, **options)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("sgd", {"max_steps": 4, "tol": 0.0}),
        pytest.param("adapted", {"tol": 0.5, "rtol": 1e-3}, marks=pytest.mark.slow),
        pytest.param("levenberg-marquardt", {"max_steps": 4, "tol": 0.0}, marks=pytest.mark.slow),
        pytest.param("adapted-momentum", {"max_steps": 4, "tol": 0.0, "batch_size": 2}, marks=pytest.mark.slow),
        pytest.param("lbfgs", {"max_steps": 4, "tol": 0.0}, marks=pytest.mark.slow),
    ],
)
def test_a_fit_of_the_same_shape_compiles_nothing_and_leaves_nothing(method, options, compiled):
    fit(method, 0, Listener(), **options)
    gc.collect()
    programs, alive = len(compiled), len(jax.live_arrays())
    listener = Listener()
    gone = weakref.ref(listener)
    # The same numbers, so that a flow takes the same steps.
    found = fit(method, 0, listener, **options)
    assert len(listener.costs) > 0
    del listener, found
    gc.collect()
    assert gone() is None
    assert (len(compiled), len(jax.live_arrays())) == (programs, alive)


def test_an_optimizer_has_one_object_for_each_name_and_rate():
    assert optimizer_named("adam") is optimizer_named("adam")
    assert optimizer_named("adam", 0.1) is not optimizer_named("adam", 0.2)
