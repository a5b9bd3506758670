"""Every kind of model trains with every method."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import pytest
from one_way import forward_tanh, reverse_tanh

import jaxgeo as jg

KEY = jr.key(0)
SAMPLES = 6


def perceptron(activation=jnp.tanh, dtype=jnp.float64):
    model = eqx.nn.MLP(2, 2, 8, 1, activation=activation, key=KEY, dtype=dtype)
    return jg.supervised(model, jr.normal(KEY, (SAMPLES, 2), dtype), jnp.ones((SAMPLES, 2), dtype))


def convolution():
    layers = [eqx.nn.Conv1d(1, 3, 3, key=KEY), eqx.nn.Lambda(jnp.tanh), eqx.nn.Lambda(jnp.ravel)]
    model = eqx.nn.Sequential([*layers, eqx.nn.Linear(18, 1, key=KEY)])
    return jg.supervised(model, jr.normal(KEY, (SAMPLES, 1, 8)), jnp.ones((SAMPLES, 1)))


class Recurrent(eqx.Module):
    cell: eqx.nn.LSTMCell
    last: eqx.nn.Linear

    def __call__(self, sequence):
        def step(carry, x):
            return self.cell(x, carry), None

        (hidden, _), _ = jax.lax.scan(step, (jnp.zeros(4), jnp.zeros(4)), sequence)
        return self.last(hidden)


def recurrent():
    model = Recurrent(eqx.nn.LSTMCell(2, 4, key=KEY), eqx.nn.Linear(4, 1, key=KEY))
    return jg.supervised(model, jr.normal(KEY, (SAMPLES, 5, 2)), jnp.ones((SAMPLES, 1)))


class Attentive(eqx.Module):
    attention: eqx.nn.MultiheadAttention

    def __call__(self, tokens):
        return jnp.mean(self.attention(tokens, tokens, tokens), axis=0)


def attention():
    model = Attentive(eqx.nn.MultiheadAttention(2, 4, key=KEY))
    return jg.supervised(model, jr.normal(KEY, (SAMPLES, 3, 4)), jnp.ones((SAMPLES, 4)))


def batch_norm():
    """All samples at once, normalised by their own mean and variance."""

    def apply(params, samples):
        hidden = jnp.tanh(samples @ params["in"])
        hidden = (hidden - jnp.mean(hidden, axis=0, keepdims=True)) / jnp.std(hidden, axis=0, keepdims=True)
        return hidden @ params["out"]

    params = {"in": jr.normal(KEY, (2, 8)), "out": jr.normal(KEY, (8, 1)) / 3}
    targets = jnp.sin(jnp.arange(6.0))[:, None]
    return jg.Problem(apply, jr.normal(KEY, (SAMPLES, 2)), jg.L2(targets), per_sample=False), params


def dropout():
    """One mask for all samples, from a key among the parameters, which is not trained."""

    def apply(params, x):
        hidden = jnp.tanh(params["in"] @ x)
        kept = jr.bernoulli(params["key"], 0.75, hidden.shape)
        return params["out"] @ jnp.where(kept, hidden / 0.75, 0)

    params = {"in": jr.normal(KEY, (8, 2)), "out": jr.normal(KEY, (1, 8)) / 3, "key": KEY}
    return jg.Problem(apply, jr.normal(KEY, (SAMPLES, 2)), jg.L2(jnp.ones((SAMPLES, 1)))), params


def mixed():
    problem, params = perceptron()
    return problem, eqx.tree_at(lambda model: model.layers[0].weight, params, replace_fn=lambda leaf: leaf.astype("f4"))


MODELS = {
    "mlp": perceptron,
    "cnn": convolution,
    "lstm": recurrent,
    "attention": attention,
    "batch norm": batch_norm,
    "dropout": dropout,
    "custom_vjp": lambda: perceptron(reverse_tanh),
    "while_loop": lambda: perceptron(forward_tanh),
    "bfloat16": lambda: perceptron(dtype=jnp.bfloat16),
    "float32 and float64": mixed,
}


def by_updates(tx, scale=1.0):
    def trained(problem, params):
        def update(_, carry):
            params, state = carry
            updates, state = tx.update(None, state, params, problem=problem)
            updates = jax.tree.map(lambda leaf: jnp.asarray(scale, leaf.dtype) * leaf, updates)
            return eqx.apply_updates(params, updates), state

        dynamic, static = eqx.partition((params, tx.init(params)), eqx.is_array)

        @jax.jit
        def run(dynamic):
            def body(i, dynamic):
                return eqx.filter(update(i, eqx.combine(dynamic, static)), eqx.is_array)

            return jax.lax.fori_loop(0, 4, body, dynamic)

        return eqx.combine(run(dynamic), static)[0]

    return trained


def by_fit(method):
    def trained(problem, params):
        return jg.fit(params, problem, method=method, max_steps=4, record_every=4, rank_check=False).model

    return trained


def by_flow(flow):
    def trained(problem, params):
        return jg.solve_flow(problem, flow, params, s1=1.0, rtol=1e-2, rank_check=False, throw=False).params

    return trained


METHODS = {
    "levenberg-marquardt": by_updates(jg.optim.adapted_levenberg_marquardt()),
    "interpolation": by_updates(jg.optim.linear_interpolation(num_steps=3)),
    "momentum": by_updates(jg.optim.adapted_momentum(learning_rate=0.5)),
    "descent": by_updates(jg.optim.adapted_gradient_descent(learning_rate=0.5, damping=1e-2)),
    "metric": by_updates(jg.optim.scale_by_adapted_metric(damping=1e-2), -0.3),
    "fit by levenberg-marquardt": by_fit("levenberg-marquardt"),
    "fit by adam": by_fit(optax.adam(1e-2)),
    "standard flow": by_flow(jg.StandardFlow()),
    "adapted flow": by_flow(jg.AdaptedFlow()),
    "rank-adaptive flow": by_flow(jg.RankAdaptiveFlow()),
}

# Of the others those that differ most have fast tests in `test_widths.py`, `test_one_way.py` and `test_statistics.py`.
FAST = [("while_loop", "fit by adam")]
CELLS = [(model, method) for model in MODELS for method in METHODS]


# The model with dropout has one mask for all samples on purpose.
@pytest.mark.filterwarnings("ignore:the network draws the mask of its dropout")
@pytest.mark.parametrize(
    ("model", "method"),
    [cell if cell in FAST else pytest.param(*cell, marks=pytest.mark.slow) for cell in CELLS],
)
def test_every_model_trains_by_every_method(model, method):
    with jax.numpy_dtype_promotion("standard"):
        problem, params = MODELS[model]()
        found = METHODS[method](problem, params)
        before, after = float(problem.cost(params)), float(problem.cost(found))
    assert after < before
    dtypes = [[leaf.dtype for leaf in jax.tree.leaves(tree) if eqx.is_array(leaf)] for tree in (found, params)]
    assert dtypes[0] == dtypes[1]
