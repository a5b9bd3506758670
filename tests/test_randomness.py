"""Dropout, and running statistics that a loop carries."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxgeo as jg
from jaxgeo.fitting.batches import Batches

KEY = jax.random.key(0)
INPUTS = jax.random.normal(KEY, (6, 2))
TARGETS = jnp.sin(INPUTS[:, :1])
KEYS = jax.random.split(jax.random.key(1), 6)


def dropped(params, sample):
    """A layer of which half the units are dropped, by the key of the sample."""
    x, key = sample
    kept = jax.random.bernoulli(key, 0.5, (8,))
    return params["out"] @ jnp.where(kept, jnp.tanh(params["in"] @ x), 0)


PARAMS = {"in": jax.random.normal(KEY, (8, 2)), "out": jax.random.normal(KEY, (1, 8)) / 3}


def by_hand(updates, order=None):
    """Gradient descent on the mean over samples, with keys from the number of the update."""

    @jax.jit
    def update(params, number, which):
        keys = jax.vmap(lambda key: jax.random.fold_in(key, number))(KEYS[which])

        def cost(params):
            outputs = jax.vmap(lambda x, key: dropped(params, (x, key)))(INPUTS[which], keys)
            return jnp.sum((outputs - TARGETS[which]) ** 2) / (2 * len(which))

        return jax.tree.map(lambda leaf, slope: leaf - 0.1 * slope, params, jax.grad(cost)(params))

    params = PARAMS
    for number in range(updates):
        params = update(params, number, np.arange(6) if order is None else order(number))
    return params


@pytest.mark.parametrize("size", [None, pytest.param(3, marks=pytest.mark.slow)])
def test_every_update_of_fit_has_keys_of_its_own(size):
    found = jg.fit(
        PARAMS, (INPUTS, KEYS), TARGETS, apply=dropped, method=optax.sgd(0.1), tol=0.0, max_steps=4, batch_size=size
    )

    def order(number):
        return np.random.default_rng([0, number // 2]).permutation(6).reshape(2, 3)[number % 2]

    wanted = by_hand(4, None if size is None else order)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found.model, wanted)


def test_parts_are_of_no_consequence():
    """The numbers of updates go on from part to part, and so do the keys."""
    problem = jg.Problem(dropped, (INPUTS, KEYS), jg.L2(TARGETS))
    batches = Batches(problem, TARGETS, jg.L2, None, 0)
    numbers = np.concatenate([batches.order(0, 2).number, batches.order(2, 3).number])
    np.testing.assert_array_equal(numbers, np.arange(5))
    assert Batches(jg.Problem(lambda p, x: p @ x, INPUTS, jg.L2(TARGETS)), TARGETS, jg.L2, None, 0).order(0, 5) is None


@pytest.mark.slow
def test_dropout_of_equinox_in_fit_and_in_a_loop():
    class Net(eqx.Module):
        first: eqx.nn.Linear
        dropout: eqx.nn.Dropout
        last: eqx.nn.Linear

        def __call__(self, x, key):
            return self.last(self.dropout(jnp.tanh(self.first(x)), key=key))

    first, last = eqx.nn.Linear(2, 16, key=KEY), eqx.nn.Linear(16, 1, key=KEY)
    model = Net(first, eqx.nn.Dropout(0.2), last)
    with pytest.raises(ValueError, match=r"could not be evaluated.*key"):
        jg.fit(model, INPUTS, TARGETS, method="adapted-momentum", max_steps=1)

    def apply(model, sample):
        return model(sample[0], sample[1])

    found = jg.fit(model, (INPUTS, KEYS), TARGETS, apply=apply, method="adapted-momentum", tol=0.0, max_steps=60)

    def error(model):
        whole = eqx.nn.inference_mode(model)
        return float(jnp.mean((jax.vmap(lambda x: whole(x, None))(INPUTS) - TARGETS) ** 2))

    assert error(found.model) < 0.2 * error(model)
    params, static = eqx.partition(model, eqx.is_inexact_array)
    tx = jg.optim.adapted_momentum(lambda params, sample: apply(eqx.combine(params, static), sample))
    state, update = tx.init(params), jax.jit(tx.update)
    for number in range(3):
        keys = jax.random.split(jax.random.key(number), 6)
        step, state = update(None, state, params, inputs=(INPUTS, keys), targets=TARGETS)
        params = eqx.apply_updates(params, step)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(params))


@pytest.fixture
def flax_promotion():
    """Flax computes statistics in float32, and adds biases of lower rank."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


class Normalised(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        hidden = nn.Dense(8, param_dtype=jnp.float64)(x)
        hidden = nn.BatchNorm(use_running_average=not train, momentum=0.5, param_dtype=jnp.float64)(hidden)
        return nn.Dense(1, param_dtype=jnp.float64)(jnp.tanh(hidden))


@pytest.mark.slow
def test_a_loop_carries_running_statistics(flax_promotion):
    """The mean of each batch goes half-way into the running mean, as Flax says, at the parameters before the update."""
    network = Normalised()
    variables = network.init(KEY, INPUTS, train=False)
    params, statistics = variables["params"], variables["batch_stats"]

    def apply(params, samples):
        # In training mode the running statistics are not read, so it does not matter which these are.
        return network.apply({**variables, "params": params}, samples, train=True, mutable=["batch_stats"])[0]

    @jax.jit
    def update(params, statistics, state):
        _, mutated = network.apply(
            {"params": params, "batch_stats": statistics}, INPUTS, train=True, mutable=["batch_stats"]
        )
        step, state = tx.update(None, state, params, inputs=INPUTS, targets=TARGETS)
        return optax.apply_updates(params, step), mutated["batch_stats"], state

    tx = jg.optim.adapted_momentum(apply, per_sample=False)
    state, mean, costs = tx.init(params), np.zeros(8), []
    for _ in range(3):
        hidden = INPUTS @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
        mean = 0.5 * mean + 0.5 * np.asarray(hidden).mean(0)
        params, statistics, state = update(params, statistics, state)
        costs.append(float(state.info.cost))
    np.testing.assert_allclose(statistics["BatchNorm_0"]["mean"], mean, rtol=1e-10)
    assert costs[-1] < 0.5 * costs[0]
