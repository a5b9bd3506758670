"""Small networks of many kinds, each with a problem and parameters, for the structured Gram matrix."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import flax.linen
import jax
import jax.numpy as jnp
import jax.random as jr

import jaxgeo as jg

ARCHITECTURES: dict[str, Callable[[jax.Array], tuple[jg.Problem, Any]]] = {}


def architecture(function: Callable) -> Callable:
    ARCHITECTURES[function.__name__] = function
    return function


def targets_like(apply: Callable, params: Any, inputs: Any) -> jax.Array:
    return jnp.zeros(jax.eval_shape(jax.vmap(apply, (None, 0)), params, inputs).shape)


def problem_of(apply: Callable, params: Any, inputs: Any) -> tuple[jg.Problem, Any]:
    return jg.Problem(apply, inputs, jg.L2(targets_like(apply, params, inputs))), params


@architecture
def mlp(key):
    model = eqx.nn.MLP(5, 3, 12, 2, activation=jnp.tanh, key=key)
    return jg.supervised(model, jr.normal(key, (7, 5)), jnp.zeros((7, 3)))


@architecture
def mlp_custom_jvp_activation(key):
    # relu6 and silu carry custom derivative rules or nested jit.
    first = eqx.nn.MLP(5, 6, 12, 1, activation=jax.nn.relu6, key=key)
    model = eqx.nn.Sequential([first, eqx.nn.Lambda(jax.nn.silu), eqx.nn.Linear(6, 2, use_bias=False, key=key)])
    return jg.supervised(model, jr.normal(key, (7, 5)), jnp.zeros((7, 2)))


@architecture
def scalar_output(key):
    model = eqx.nn.MLP(5, "scalar", 12, 2, activation=jnp.sin, key=key)
    return jg.supervised(model, jr.normal(key, (9, 5)), jnp.zeros(9))


class Residual(eqx.Module):
    inner: eqx.nn.Linear
    shared: eqx.nn.Linear

    def __call__(self, x):
        for _ in range(3):
            x = x + jnp.tanh(self.shared(jax.nn.softplus(self.inner(x))))
        return x


@architecture
def residual_mlp(key):
    inner, shared = jr.split(key)
    model = Residual(eqx.nn.Linear(6, 9, key=inner), eqx.nn.Linear(9, 6, key=shared))
    return jg.supervised(model, jr.normal(key, (5, 6)), jnp.zeros((5, 6)))


@architecture
def tied_autoencoder(key):
    def apply(params, x):
        code = jnp.tanh(params["w"] @ x + params["b"])
        return params["w"].T @ code + params["c"]

    params = {"w": jr.normal(key, (4, 6)), "b": jnp.ones(4), "c": jnp.ones(6)}
    return problem_of(apply, params, jr.normal(key, (5, 6)))


@architecture
def convolution(key):
    keys = jr.split(key, 3)
    model = eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(2, 3, 3, stride=2, padding=1, key=keys[0]),
            eqx.nn.Lambda(jnp.tanh),
            eqx.nn.Conv2d(3, 4, 2, dilation=2, key=keys[1]),
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.Linear(16, 2, key=keys[2]),
        ]
    )
    return jg.supervised(model, jr.normal(key, (4, 2, 7, 7)), jnp.zeros((4, 2)))


@architecture
def grouped_and_one_dimensional_convolution(key):
    keys = jr.split(key, 2)
    model = eqx.nn.Sequential(
        [
            eqx.nn.Conv1d(2, 4, 3, groups=2, key=keys[0]),
            eqx.nn.Lambda(jnp.tanh),
            eqx.nn.ConvTranspose1d(4, 2, 3, stride=2, key=keys[1]),
            eqx.nn.AdaptiveAvgPool1d(2),
        ]
    )
    return jg.supervised(model, jr.normal(key, (4, 2, 7)), jnp.zeros((4, 2, 2)))


class Block(eqx.Module):
    norm: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    out: eqx.nn.Linear

    def __call__(self, x):
        y = jax.vmap(self.norm)(x)
        x = x + self.attention(y, y, y)
        return jax.vmap(self.out)(x).mean(0)


@architecture
def attention(key):
    keys = jr.split(key, 2)
    model = Block(eqx.nn.LayerNorm(6), eqx.nn.MultiheadAttention(2, 6, key=keys[0]), eqx.nn.Linear(6, 2, key=keys[1]))
    return jg.supervised(model, jr.normal(key, (4, 5, 6)), jnp.zeros((4, 2)))


class Recurrent(eqx.Module):
    cell: eqx.nn.GRUCell
    out: eqx.nn.Linear

    def __call__(self, xs):
        state, _ = jax.lax.scan(lambda state, x: (self.cell(x, state), None), jnp.zeros(5), xs)
        return self.out(state)


@architecture
def gru(key):
    keys = jr.split(key, 2)
    model = Recurrent(eqx.nn.GRUCell(3, 5, key=keys[0]), eqx.nn.Linear(5, 2, key=keys[1]))
    return jg.supervised(model, jr.normal(key, (4, 6, 3)), jnp.zeros((4, 2)))


@architecture
def scan_over_layers(key):
    def apply(params, x):
        def layer(x, weights):
            w, b = weights
            return jnp.tanh(w @ x + b), jnp.sum(x)

        x, sums = jax.lax.scan(layer, x, (params["w"], params["b"]))
        return params["out"] @ x + sums[:2]

    params = {"w": jr.normal(key, (4, 6, 6)), "b": jnp.ones((4, 6)), "out": jr.normal(key, (2, 6))}
    return problem_of(apply, params, jr.normal(key, (5, 6)))


@architecture
def nested_scan_with_remat(key):
    def apply(params, xs):
        @jax.checkpoint
        def step(carry, x):
            def inner(h, w):
                return jnp.tanh(w @ h + params["in"] @ x), None

            return jax.lax.scan(inner, carry, params["w"])[0], None

        return params["out"] @ jax.lax.scan(step, jnp.zeros(4), xs, reverse=True)[0]

    params = {"w": jr.normal(key, (3, 4, 4)), "in": jr.normal(key, (4, 2)), "out": jr.normal(key, (2, 4))}
    return problem_of(apply, params, jr.normal(key, (4, 3, 2)))


class Classifier(eqx.Module):
    embedding: eqx.nn.Embedding
    out: eqx.nn.Linear

    def __call__(self, tokens):
        return self.out(jnp.tanh(jax.vmap(self.embedding)(tokens)).mean(0))


@architecture
def embedding_classifier(key):
    keys = jr.split(key, 2)
    model = Classifier(eqx.nn.Embedding(8, 5, key=keys[0]), eqx.nn.Linear(5, 3, key=keys[1]))
    return jg.supervised(model, jr.randint(key, (6, 4), 0, 8), jnp.zeros((6, 3)))


@architecture
def single_token_embedding(key):
    model = eqx.nn.Sequential([eqx.nn.Embedding(9, 5, key=key), eqx.nn.Lambda(jnp.tanh)])
    return jg.supervised(model, jr.randint(key, (6,), 0, 9), jnp.zeros((6, 5)))


@architecture
def tied_embedding(key):
    def apply(params, token):
        hidden = jnp.tanh(params["mix"] @ params["table"][token])
        return params["table"] @ hidden

    params = {"table": jr.normal(key, (7, 4)), "mix": jr.normal(key, (4, 4))}
    return problem_of(apply, params, jr.randint(key, (5,), 0, 7))


def tanh_net(params, x):
    hidden = jnp.tanh(params["w1"] @ x + params["b1"])
    hidden = jnp.tanh(params["w2"] @ hidden + params["b2"])
    return params["w3"] @ hidden + params["b3"]


def tanh_params(key, width=8):
    keys = jr.split(key, 3)
    return {
        "w1": jr.normal(keys[0], (width, 2)),
        "b1": jnp.ones(width),
        "w2": jr.normal(keys[1], (width, width)) / 3,
        "b2": jnp.ones(width),
        "w3": jr.normal(keys[2], (width,)),
        "b3": jnp.array(0.5),
    }


def laplacian_by_jvp(params, x):
    def second(v):
        return jax.jvp(lambda x: jax.jvp(lambda x: tanh_net(params, x), (x,), (v,))[1], (x,), (v,))[1]

    return jnp.sum(jax.vmap(second)(jnp.eye(2))) - jnp.sin(x[0])


def laplacian_by_hessian(params, x):
    return jnp.trace(jax.hessian(lambda x: tanh_net(params, x))(x)) - jnp.sin(x[0])


def pde(laplacian, key):
    keys = jr.split(key, 2)
    blocks = [(laplacian, jr.uniform(keys[0], (6, 2)), 1.0), (tanh_net, jr.uniform(keys[1], (5, 2)), 3.0)]
    return jg.residual_problem(blocks), tanh_params(key)


@architecture
def pde_by_nested_jvp(key):
    return pde(laplacian_by_jvp, key)


@architecture
def pde_by_hessian(key):
    return pde(laplacian_by_hessian, key)


@architecture
def blocks_that_share_some_leaves(key):
    def first(params, x):
        return jnp.tanh(params["w"] @ x)

    def second(params, x):
        return params["v"] @ jnp.tanh(params["w"] @ (2 * x)) + params["b"]

    params = {"w": jr.normal(key, (3, 4)), "v": jr.normal(key, (2, 3)), "b": jnp.ones(2)}
    keys = jr.split(key, 2)
    return jg.residual_problem(
        [(first, jr.normal(keys[0], (4, 4)), 1.0), (second, jr.normal(keys[1], (3, 4)), 2.0)]
    ), params


@architecture
def flax_linen(key):
    class Net(flax.linen.Module):
        @flax.linen.compact
        def __call__(self, x):
            x = flax.linen.tanh(flax.linen.Dense(8, param_dtype=jnp.float64)(x))
            return flax.linen.Dense(3, param_dtype=jnp.float64)(x)

    net = Net()
    inputs = jr.normal(key, (6, 4))
    return problem_of(net.apply, net.init(key, inputs[0]), inputs)


@architecture
def flax_linen_convolution(key):
    class Net(flax.linen.Module):
        @flax.linen.compact
        def __call__(self, x):
            x = flax.linen.tanh(flax.linen.Conv(4, (3, 3), param_dtype=jnp.float64)(x))
            return flax.linen.Dense(2, param_dtype=jnp.float64)(x.mean((0, 1)))

    net = Net()
    inputs = jr.normal(key, (4, 5, 5, 2))
    return problem_of(net.apply, net.init(key, inputs[0]), inputs)


@architecture
def frozen_leaves(key):
    model = eqx.nn.MLP(4, 2, 7, 2, activation=jnp.tanh, key=key)
    mask = jax.tree.map(eqx.is_inexact_array, model)
    mask = eqx.tree_at(lambda model: (model.layers[1].weight, model.layers[0].bias), mask, (False, False))
    return jg.supervised(model, jr.normal(key, (5, 4)), jnp.zeros((5, 2)), trainable=mask)


@architecture
def control_flow(key):
    def apply(params, x):
        y = params["w"] @ x + params["b"]
        y = jnp.where(y > 0, y, 0.1 * y)
        y = jax.lax.cond(jnp.sum(x) > 0, lambda y: params["v"] @ y, lambda y: jnp.sin(params["u"] @ y), y)
        return jax.lax.fori_loop(0, 3, lambda _, y: jnp.tanh(params["u"] @ jnp.tile(y, 2)[:5]), y)

    params = {"w": jr.normal(key, (5, 4)), "b": jnp.ones(5), "v": jr.normal(key, (3, 5)), "u": jr.normal(key, (3, 5))}
    return problem_of(apply, params, jr.normal(key, (6, 4)))


@architecture
def leaves_used_in_odd_ways(key):
    def apply(params, x):
        w = params["w"] / jnp.linalg.norm(params["w"], axis=1, keepdims=True)
        low_rank = params["left"] @ params["right"]
        y = jnp.tanh(w @ x) * params["scale"] + jnp.exp(params["log"]) * x[:4]
        y = y + params["unsplit"][:4, :4] @ y + params["unsplit"][4:, 1:] @ y
        query, value = jnp.split(params["split"], 2)
        y = y + jnp.tanh(query @ y) * (value @ x)
        return jnp.concatenate([low_rank @ y, jnp.sum(params["unused_part"][1] * y)[None]])

    keys = jr.split(key, 7)
    params = {
        "w": jr.normal(keys[0], (4, 4)),
        "left": jr.normal(keys[1], (3, 2)),
        "right": jr.normal(keys[2], (2, 4)),
        "scale": jnp.ones(4),
        "log": jnp.array(0.3),
        "unsplit": jr.normal(keys[3], (8, 5)),
        "split": jr.normal(keys[4], (8, 4)),
        "unused_part": jr.normal(keys[5], (3, 4)),
        "unused": jr.normal(keys[6], (2, 2)),
    }
    return problem_of(apply, params, jr.normal(key, (6, 4)))


@architecture
def reshaped_and_batched_weights(key):
    def apply(params, x):
        heads = jnp.einsum("hdi,i->hd", params["heads"].reshape(2, 3, 4), x)
        mixed = jnp.einsum("hde,hd->he", params["mix"], jnp.tanh(heads))
        return jnp.einsum("ab,tb->ta", params["out"].T.T, jnp.tanh(mixed)).sum(0) + params["out"][0]

    params = {
        "heads": jr.normal(key, (6, 4)),
        "mix": jr.normal(key, (2, 3, 3)),
        "out": jr.normal(key, (3, 3)),
    }
    return problem_of(apply, params, jr.normal(key, (6, 4)))


@architecture
def inner_gradient(key):
    def apply(params, x):
        def energy(x):
            return jnp.sum(jnp.log(jnp.cosh(params["w"] @ x + params["b"])))

        return jax.grad(energy)(x)

    return problem_of(apply, {"w": jr.normal(key, (6, 4)), "b": jnp.ones(6)}, jr.normal(key, (5, 4)))
