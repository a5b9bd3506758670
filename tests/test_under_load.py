"""Several fits at once, in threads and in processes, give the same results as alone."""

import concurrent.futures
import multiprocessing

import equinox as eqx
import jax
import jax.numpy as jnp
import joblib
import numpy as np
import pytest
from sklearn.model_selection import cross_val_score

import jaxgeo as jg
from jaxgeo.estimators import JaxgeoRegressor


def fitted(seed):
    """The parameters of a small network after a few updates, and the outcome."""
    jax.config.update("jax_enable_x64", True)
    inputs = jnp.linspace(-1.0, 1.0, 8)[:, None]
    model = eqx.nn.MLP(1, 1, 6, 1, activation=jnp.tanh, key=jax.random.key(seed))
    found = jg.fit(model, inputs, jnp.sin(3 * inputs), method="levenberg-marquardt", max_steps=4, tol=0)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(found.model, eqx.is_array))], found.outcome.name


def assert_same(found, expected):
    for (leaves, outcome), (others, other) in zip(found, expected, strict=True):
        assert outcome == other
        for leaf, same in zip(leaves, others, strict=True):
            np.testing.assert_array_equal(leaf, same)


@pytest.fixture(scope="module")
def alone():
    return [fitted(seed) for seed in range(4)]


@pytest.mark.slow
def test_threads(alone):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert_same(list(pool.map(fitted, range(4))), alone)


@pytest.mark.slow
def test_spawned_processes(alone):
    with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        assert_same(list(pool.map(fitted, range(4))), alone)


@pytest.mark.slow
def test_joblib(alone):
    assert_same(joblib.Parallel(n_jobs=2)(joblib.delayed(fitted)(seed) for seed in range(4)), alone)


@pytest.mark.slow
def test_cross_validation_with_two_jobs():
    random = np.random.default_rng(0)
    inputs = random.standard_normal((60, 2))
    targets = inputs[:, 0] - 2 * inputs[:, 1]
    model = JaxgeoRegressor((4,), max_iter=200, random_state=0)
    one, two = (cross_val_score(model, inputs, targets, cv=3, n_jobs=jobs) for jobs in (1, 2))
    np.testing.assert_array_equal(one, two)
    assert one.min() > 0.99
