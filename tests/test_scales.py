"""Optimizers take the same steps whatever the units of outputs and parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgeo as jg

INPUTS = jnp.linspace(-1.0, 1.0, 8)
TARGETS = 2 * jnp.tanh(3 * INPUTS) + 0.1 * jnp.cos(9 * INPUTS)
UNITS = {"outputs": (1024.0**3, 1.0), "small outputs": (1024.0**-3, 1.0), "parameters": (1.0, 1024.0**3)}

MAKERS = {
    "levenberg-marquardt": jg.optim.adapted_levenberg_marquardt,
    "interpolation": jg.optim.linear_interpolation,
    "momentum": jg.optim.adapted_momentum,
    "descent": lambda apply: jg.optim.adapted_gradient_descent(apply, learning_rate=0.5),
    "metric": jg.optim.scale_by_adapted_metric,
    "cross-entropy": lambda apply: jg.optim.adapted_momentum(
        apply, cost=lambda labels: jg.SoftmaxCrossEntropy.from_labels(labels, num_classes=2)
    ),
}


def line(params, x):
    return params["w"] * x + params["b"]


def perceptron(params, x):
    return params["a"] @ jnp.tanh(params["b"] * x + params["c"])


def logits(params, x):
    hidden = params["a"] * jnp.tanh(params["b"] * x + params["c"])
    return jnp.stack([jnp.sum(hidden), -jnp.sum(hidden)])


def units(count):
    a, b, c = jax.random.normal(jax.random.key(0), (3, count))
    return {"a": a / 3, "b": b, "c": c}


MODELS = {
    "a line from 0": (line, {"w": jnp.asarray(0.0), "b": jnp.asarray(0.0)}),
    "K < QN": (perceptron, units(2)),
    "K > QN": (perceptron, units(6)),
}


def iterates(name, model, outputs, parameters, updates=5):
    """Parameters after each update in units of those of the model, for outputs and targets times `outputs`."""
    apply, start = MODELS[model]
    if name == "cross-entropy":
        apply = logits

    def scaled(params, x):
        return outputs * apply(jax.tree.map(lambda leaf: parameters * leaf, params), x)

    targets = jnp.where(TARGETS > 0, 1, 0) if name == "cross-entropy" else outputs * TARGETS
    tx = MAKERS[name](scaled)

    def update(carry, _):
        params, state = carry
        updates, state = tx.update(None, state, params, inputs=INPUTS, targets=targets)
        rate = -0.5 if name == "metric" else 1.0
        params = jax.tree.map(lambda leaf, update: leaf + rate * update, params, updates)
        return (params, state), jax.tree.map(lambda leaf: parameters * leaf, params)

    start = jax.tree.map(lambda leaf: leaf / parameters, start)
    carry = start, tx.init(start)
    return jax.jit(lambda carry: jax.lax.scan(update, carry, length=updates)[1])(carry)


CELLS = [(name, model) for name in MAKERS for model in MODELS if (name, model) != ("cross-entropy", "a line from 0")]
FAST = [("levenberg-marquardt", "a line from 0")]


@pytest.mark.parametrize(
    ("name", "model"), [cell if cell in FAST else pytest.param(*cell, marks=pytest.mark.slow) for cell in CELLS]
)
def test_no_iterate_depends_on_units(name, model):
    wanted = iterates(name, model, 1.0, 1.0)
    largest = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(wanted))
    # Logits have no units.
    kinds = ["parameters"] if name == "cross-entropy" else list(UNITS)
    for kind in kinds[:1] if (name, model) in FAST else kinds:
        found = iterates(name, model, *UNITS[kind])
        for leaf, its in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(leaf, its, rtol=0, atol=1e-11 * largest, err_msg=kind)
