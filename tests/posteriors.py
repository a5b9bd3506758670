"""A small network with a frozen leaf, its data, and the covariance of its parameters by dense algebra."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import jaxgeo as jg

RNG = np.random.default_rng(0)
INPUTS, NEW = RNG.normal(size=(6, 2)), RNG.normal(size=(5, 2))
TARGETS = RNG.normal(size=(6, 2))


class Network(eqx.Module):
    """tanh network with biases; `scale` is there to be frozen."""

    def __call__(self, params, x):
        hidden = jnp.tanh(params["w"] @ x + params["b"])
        return params["v"] @ hidden * params["scale"]


def parameters(width):
    rng = np.random.default_rng(1)
    shapes = {"w": (width, 2), "b": (width,), "v": (2, width), "scale": ()}
    return {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}


TRAINABLE = {"w": True, "b": True, "v": True, "scale": False}
# K = 10 below QN = 12, and 30 above.
WIDTHS = {"columns": 2, "rows": 6}


def problem(cost=None, inputs=INPUTS):
    return jg.Problem(
        Network(), jnp.asarray(inputs), jg.L2(jnp.asarray(TARGETS)) if cost is None else cost, trainable=TRAINABLE
    )


def jacobian(params, inputs):
    """(N, Q, K) of the trainable leaves, in the order b, v, w."""
    _, unravel = jax.flatten_util.ravel_pytree({name: params[name] for name in "bvw"})
    flat, _ = jax.flatten_util.ravel_pytree({name: params[name] for name in "bvw"})

    def outputs(flat, x):
        return Network()(unravel(flat) | {"scale": params["scale"]}, x)

    return np.asarray(jax.jit(jax.vmap(jax.jacfwd(outputs), in_axes=(None, 0)))(flat, jnp.asarray(inputs)))


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def outputs(params, inputs):
    return np.asarray(jax.vmap(Network(), in_axes=(None, 0))(params, jnp.asarray(inputs)))


def close(found, expected, tolerance=1e-8):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


PRIORS = {"one": 0.7, "leaves": {"w": 0.3, "b": 2.0, "v": 0.7, "scale": 0.0}}


def of_columns(prior, params):
    values = prior if isinstance(prior, dict) else dict.fromkeys("bvw", prior)
    return np.concatenate([np.full(params[name].size, values[name]) for name in "bvw"])


def design(x):
    return np.stack([np.ones_like(x), x, x**2], axis=1)


class Polynomial(eqx.Module):
    def __call__(self, params, x):
        return params @ jnp.stack([jnp.ones_like(x), x, x**2])
