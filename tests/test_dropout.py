"""Dropout: a mask that is the same for every sample and update is a warning, keys among the inputs are not."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import jaxgeo as jg


class Thinned(eqx.Module):
    """A line with dropout, by a key that is given to it or is its own."""

    line: eqx.nn.Linear
    dropout: eqx.nn.Dropout
    own: jax.Array

    def __init__(self):
        self.line, self.dropout = eqx.nn.Linear(2, 1, key=jax.random.key(0)), eqx.nn.Dropout(0.5)
        self.own = jax.random.key(1)

    def __call__(self, x, key=None):
        return self.dropout(self.line(x), key=self.own if key is None else key)


class ThinnedByFlax(nnx.Module):
    def __init__(self):
        self.line, self.dropout = (
            nnx.Linear(2, 1, param_dtype=jnp.float64, rngs=nnx.Rngs(0)),
            nnx.Dropout(0.5, rngs=nnx.Rngs(1)),
        )

    def __call__(self, x):
        return self.dropout(self.line(x))


class ThinnedByLinen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dropout(0.5, deterministic=False)(nn.Dense(1, param_dtype=jnp.float64)(x))


def thinned(kind):
    """A network as a function of its parameters, and these."""
    x = jnp.ones(2)
    if kind == "Linen":
        params = ThinnedByLinen().init(jax.random.key(0), x)["params"]
        rngs = {"dropout": jax.random.key(1)}
        return (lambda params, x: ThinnedByLinen().apply({"params": params}, x, rngs=rngs)), params
    if kind == "NNX":
        graph, weights, rest = nnx.split(ThinnedByFlax(), nnx.Param, ...)
        return (lambda weights, x: nnx.merge(graph, weights, rest, copy=True)(x)), weights
    return (lambda model, x: model(x)), Thinned()


@pytest.mark.parametrize("kind", ["Equinox", "Linen", "NNX"])
def test_one_mask_for_all_samples_is_told(kind):
    apply, params = thinned(kind)
    x, y = jnp.ones((3, 2)), jnp.ones((3, 1))
    tx = jg.optim.adapted_gradient_descent(apply, learning_rate=0.5)
    with pytest.warns(UserWarning, match="draws the mask of its dropout from a key that is the same for every sample"):
        # While it is traced: what would be compiled is no matter.
        jax.eval_shape(lambda: tx.update(params, tx.init(params), params, inputs=x, targets=y))


@pytest.mark.parametrize("way", ["a key for each sample", "switched off"])
def test_dropout_as_it_should_be_is_let_through(way, recwarn):
    model, x, y = Thinned(), jnp.ones((3, 2)), jnp.ones((3, 1))
    inputs = (x, jax.random.split(jax.random.key(2), 3))
    if way == "switched off":
        model = eqx.nn.inference_mode(model)
    problem = jg.Problem(lambda model, sample: model(*sample), inputs, jg.L2(y))
    problem.check(model)
    assert not recwarn.list


def test_a_module_that_changes_its_state_is_told_how():
    graph, weights, rest = nnx.split(ThinnedByFlax(), nnx.Param, ...)
    problem = jg.Problem(
        lambda weights, x: nnx.merge(graph, weights, rest)(x), jnp.ones((3, 2)), jg.L2(jnp.ones((3, 1)))
    )
    with pytest.raises(ValueError, match=r"merge a copy, `nnx.merge\(graph, weights, rest, copy=True\)`"):
        problem.check(weights)
