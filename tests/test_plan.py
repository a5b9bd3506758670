"""The memory of an update is that of its plan, for networks with many activations for each parameter."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

import jaxgeo as jg

KEY = jr.key(0)
SAMPLES, SIZE = 200, 64


class Attentive(eqx.Module):
    attention: eqx.nn.MultiheadAttention
    last: eqx.nn.Linear

    def __init__(self):
        self.attention = eqx.nn.MultiheadAttention(4, SIZE, key=KEY, dtype=jnp.float32)
        self.last = eqx.nn.Linear(SIZE, 1, key=KEY, dtype=jnp.float32)

    def __call__(self, tokens):
        return self.last(jnp.mean(jnp.tanh(self.attention(tokens, tokens, tokens)), axis=0))


class Recurrent(eqx.Module):
    cell: eqx.nn.LSTMCell
    last: eqx.nn.Linear

    def __init__(self):
        self.cell = eqx.nn.LSTMCell(SIZE, SIZE, key=KEY, dtype=jnp.float32)
        self.last = eqx.nn.Linear(SIZE, 1, key=KEY, dtype=jnp.float32)

    def __call__(self, tokens):
        def step(carry, x):
            return self.cell(x, carry), None

        start = jnp.zeros(SIZE, tokens.dtype)
        return self.last(jax.lax.scan(step, (start, start), tokens)[0][0])


@pytest.mark.slow
@pytest.mark.parametrize("model", [Attentive, Recurrent])
def test_an_update_takes_the_memory_of_its_plan(model):
    inputs = jr.normal(KEY, (SAMPLES, 64, SIZE), jnp.float32)
    problem, params = jg.supervised(model(), inputs, jnp.ones((SAMPLES, 1), jnp.float32))
    tx = jg.optim.adapted_levenberg_marquardt()
    arrays, static = eqx.partition((params, tx.init(params), problem), eqx.is_array)

    def step(arrays):
        params, state, problem = eqx.combine(arrays, static)
        return eqx.filter(tx.update(None, state, params, problem=problem), eqx.is_array)

    taken = jax.jit(step).lower(arrays).compile().memory_analysis().temp_size_in_bytes
    assert 1 / 1.3 <= problem.plan(params, damping=1.0).chosen.bytes / taken <= 1.3
