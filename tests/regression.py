"""The small network that tests of optimizers train, its data, and its dense Jacobian."""

import jax
import jax.numpy as jnp
import numpy as np
from compiled import jacobian_matrix

import jaxgeo as jg
from jaxgeo.linalg import QR

KEY = jax.random.key(3)
# Compiles faster than the default solver.
SOLVER = QR()


def network(params, x):
    hidden = jnp.tanh(params["w"] @ x + params["b"])
    return params["scale"] * (params["v"] @ hidden) + jnp.sum(params["none"])


def parameters(dtype=jnp.float64):
    k1, k2 = jax.random.split(KEY)
    return {
        "w": jax.random.normal(k1, (8, 2), dtype),
        "b": jnp.zeros(8, dtype),
        "v": jax.random.normal(k2, (2, 8), dtype) / 3,
        "scale": jnp.ones((), dtype),
        "none": jnp.zeros((0, 3), dtype),
    }


def batch(dtype=jnp.float64, size=5):
    inputs = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, size=(size, 2)), dtype)
    return {"inputs": inputs, "targets": jnp.sin(3 * inputs)}


def gradient(params, inputs, targets):
    return jax.grad(lambda p: jg.Problem(network, inputs, jg.L2(targets)).cost(p))(params)


def linear_network(params, x):
    return params["a"] @ x + params["b"]


def dense(problem, params):
    return np.asarray(jacobian_matrix(problem, params))


def flat(tree):
    return np.asarray(jax.flatten_util.ravel_pytree(tree)[0])
