"""Small problems with known answers, at least one for each regime, on which many tests run.

`CASES` differ in the relation of K and QN and in the rank of D; `KINDS` in the type of the parameters.
"""

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jax.flatten_util import ravel_pytree

import jaxgeo as jg


@dataclass(frozen=True)
class Case:
    """A problem, a point, and the known values at the point."""

    name: str
    problem: jg.Problem
    params: Any
    rank: int

    @property
    def num_rows(self) -> int:
        return self.problem.num_rows(self.params)

    @property
    def num_params(self) -> int:
        return self.problem.num_params(self.params)

    def dense(self) -> np.ndarray:
        return self._dense

    @cached_property
    def _dense(self) -> np.ndarray:
        """D by forward mode over the flat trainable parameters, sharing no code with `jaxgeo.linalg`."""
        trainable, frozen = eqx.partition(self.params, lambda leaf: eqx.is_inexact_array(leaf))
        if not callable(self.problem.trainable):
            trainable, frozen = eqx.partition(self.params, self.problem.trainable)
        flat, unravel = ravel_pytree(trainable)
        outputs = jax.jit(
            jax.jacfwd(lambda theta: jnp.ravel(self.problem.outputs(eqx.combine(unravel(theta), frozen))))
        )
        return np.asarray(outputs(flat), np.float64)


class Linear(eqx.Module):
    """x_j = W a_j, whose D = A ⊗ 1 has the rank Q·rank(A) everywhere."""

    def __call__(self, weight, sample):
        return weight @ sample


def linear(name: str, inputs: np.ndarray, num_outputs: int) -> Case:
    rng = np.random.default_rng(1)
    targets = jnp.asarray(rng.normal(size=(len(inputs), num_outputs)))
    weight = jnp.asarray(rng.normal(size=(num_outputs, inputs.shape[1])))
    rank = num_outputs * int(np.linalg.matrix_rank(inputs))
    return Case(name, jg.Problem(Linear(), jnp.asarray(inputs), jg.L2(targets)), weight, rank)


@eqx.filter_jit
def perceptron(num_inputs: int, num_outputs: int, width: int, key: jax.Array) -> eqx.nn.MLP:
    """One hidden layer, drawn by one program."""
    return eqx.nn.MLP(num_inputs, num_outputs, width, 1, activation=jnp.tanh, key=key)


def mlp(name: str, num_samples: int, num_outputs: int, width: int, *, duplicates: int = 0, seed: int = 0) -> Case:
    """A tanh network with one hidden layer on 2-D inputs, the last `duplicates` of which repeat the first."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(num_samples, 2))
    if duplicates:
        inputs[-duplicates:] = inputs[:duplicates]
    targets = np.sin(inputs @ rng.normal(size=(2, num_outputs)) * 2)
    model = perceptron(2, num_outputs, width, jax.random.key(seed))
    problem, params = jg.supervised(model, jnp.asarray(inputs), jnp.asarray(targets))
    rows = (num_samples - duplicates) * num_outputs
    return Case(name, problem, params, min(rows, problem.num_params(params)))


@cache
def digits() -> Case:
    """A tanh network on the first 100 digits of scikit-learn, QN = 1000."""
    from sklearn.datasets import load_digits

    data = load_digits()
    model = eqx.nn.MLP(64, 10, 64, 2, activation=jnp.tanh, key=jax.random.key(0))
    cost = jg.L2.from_labels(data.target[:100], num_classes=10)
    return Case("digits", *jg.supervised(model, data.data[:100] / 16, cost), 1000)


@cache
def cases() -> dict[str, Case]:
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(3, 5))
    tall = rng.normal(size=(7, 2))
    square = rng.normal(size=(3, 3))
    deficient = np.vstack([square[0], square[1], square[0] + square[1]])
    found = [
        linear("linear over", wide, 2),
        linear("linear under", tall, 2),
        linear("linear borderline", square, 2),
        linear("linear deficient", np.pad(deficient, ((0, 0), (0, 2))), 2),
        mlp("mlp over", 4, 2, 5),
        mlp("mlp under", 8, 1, 1, seed=2),
        mlp("mlp borderline", 9, 1, 2, seed=5),
        mlp("mlp duplicates", 5, 2, 6, duplicates=2),
        two_blocks(),
        *kinds().values(),
    ]
    return {case.name: case for case in found}


OVER = ["linear over", "mlp over"]
UNDER = ["linear under", "mlp under"]
BORDERLINE = ["linear borderline", "mlp borderline"]
DEFICIENT = ["linear deficient", "mlp duplicates"]
KINDS = ["dict", "flax", "equinox", "frozen", "other leaves"]
CASES = [*OVER, *UNDER, *BORDERLINE, *DEFICIENT, "two blocks", *KINDS]


class Layer(eqx.Module):
    """x_j = v tanh(W a_j + b), of a dictionary that may hold more than that."""

    def __call__(self, params, sample):
        return params["v"] @ jnp.tanh(params["W"] @ sample + params["b"])


class Net(nn.Module):
    """A network in Flax's Linen."""

    @nn.compact
    def __call__(self, sample):
        return nn.Dense(2, param_dtype=jnp.float64)(jnp.tanh(nn.Dense(4, param_dtype=jnp.float64)(sample)))


@cache
def kinds() -> dict[str, Case]:
    """The same shape of problem, N = 3, Q = 2, with parameters in several kinds of pytree."""
    rng = np.random.default_rng(2)
    inputs, targets = jnp.asarray(rng.normal(size=(3, 2))), jnp.asarray(rng.normal(size=(3, 2)))
    plain = {
        "W": jnp.asarray(rng.normal(size=(4, 2))),
        "b": jnp.asarray(rng.normal(size=4)),
        "v": jnp.asarray(rng.normal(size=(2, 4))),
    }
    others = plain | {"steps": jnp.arange(3), "key": jax.random.key(3), "on": jnp.array(True), "name": "tanh"}
    frozen = {"W": False, "b": True, "v": True}
    net = Net()
    model = perceptron(2, 2, 4, jax.random.key(4))
    equinox_problem, equinox_params = jg.supervised(model, inputs, targets)
    found = [
        Case("dict", jg.Problem(Layer(), inputs, jg.L2(targets)), plain, 6),
        Case("flax", jg.Problem(net.apply, inputs, jg.L2(targets)), net.init(jax.random.key(5), inputs[0]), 6),
        Case("equinox", equinox_problem, equinox_params, 6),
        Case("frozen", jg.Problem(Layer(), inputs, jg.L2(targets), trainable=frozen), plain, 6),
        Case("other leaves", jg.Problem(Layer(), inputs, jg.L2(targets)), others, 6),
    ]
    return {case.name: case for case in found}


def two_blocks() -> Case:
    """Residuals u'' + 1 at inner points and u at the ends, with a weight of 4."""

    def inner(params, x):
        return jax.grad(jax.grad(lambda x: Layer()(params, x[None])[0]))(x) + 1.0

    def boundary(params, x):
        return Layer()(params, x[None])

    rng = np.random.default_rng(3)
    params = {
        "W": jnp.asarray(rng.normal(size=(6, 1))),
        "b": jnp.asarray(rng.normal(size=6)),
        "v": jnp.asarray(rng.normal(size=(1, 6))),
    }
    blocks = [(inner, jnp.linspace(0.2, 0.8, 4), 1.0), (boundary, jnp.array([0.0, 1.0]), 4.0)]
    return Case("two blocks", jg.residual_problem(blocks), params, 6)


def random_like(tree, seed: int = 0):
    """Normal numbers in the shape of the arrays of a pytree."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), tree)


def largest(tree) -> float:
    """The largest absolute value in a pytree."""
    return float(optx.max_norm(tree))


def to_float32(tree):
    """The float64 arrays of a pytree, a problem's too, as float32."""
    return jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32) if eqx.is_array(leaf) and leaf.dtype == jnp.float64 else leaf, tree
    )
