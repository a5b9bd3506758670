"""Small networks with batch normalisation, by Flax, NNX and Equinox, and data for them."""

import equinox as eqx
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

RNG = np.random.default_rng(0)
INPUTS = jnp.asarray(RNG.normal(size=(6, 3)))
TARGETS = jnp.asarray(RNG.normal(size=(6, 2)))
# Flax keeps running statistics in float32.
X, Y = INPUTS.astype(jnp.float32), TARGETS.astype(jnp.float32)
LABELS = np.array([0, 1, 1, 0, 0, 1])
# Dense 3 → 4, a normalisation with scale and bias, Dense 4 → 2; two running statistics of 4 numbers.
NUM_PARAMS, NUM_STATISTICS = 16 + 8 + 10, 8


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        hidden = nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x))
        return nn.Dense(2)(nn.tanh(hidden))


class Nnx(nnx.Module):
    def __init__(self, train):
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, use_running_average=not train, rngs=rngs)
        self.last = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.tanh(self.norm(self.first(x))))


class Equinox(eqx.Module):
    first: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    last: eqx.nn.Linear

    def __init__(self):
        one, two = jax.random.split(jax.random.key(0))
        self.first = eqx.nn.Linear(3, 4, key=one)
        self.norm = eqx.nn.BatchNorm(4, axis_name="batch", mode="batch", dtype=jnp.float64)
        self.last = eqx.nn.Linear(4, 2, key=two)

    def __call__(self, x, state):
        hidden, state = self.norm(self.first(x), state)
        return self.last(jnp.tanh(hidden)), state


def linen(train):
    variables = Linen().init(jax.random.key(0), X)
    if train:
        return lambda variables, x: Linen().apply(variables, x, True, mutable=["batch_stats"])[0], variables
    return Linen().apply, variables


def frozen_dict(train):
    apply, variables = linen(train)
    return apply, flax.core.freeze(variables)


def split(train):
    graph, state = nnx.split(Nnx(train))
    return lambda state, x: nnx.merge(graph, state)(x), state


def with_state(train):
    model, state = eqx.nn.make_with_state(Equinox)()
    assert not train

    def apply(pair, x):
        # Equinox raises a float to an integer there.
        with jax.numpy_dtype_promotion("standard"):
            return pair[0](x, pair[1])[0]

    return apply, (eqx.nn.inference_mode(model), state)


KINDS = {"linen": linen, "frozen dict": frozen_dict, "nnx": split, "equinox": with_state}
