"""Good arguments, and what is passed in their place: tables of cases for arrays, numbers, counts and networks."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import jaxgeo as jg
from input_matrix.cells import Case, Unusual, refused, without, works
from jaxgeo.linalg import SVD

X = np.array([[0.5, -1.0], [1.5, 0.3], [-0.7, 0.8], [0.2, 0.1]])
Y = np.array([[0.3], [-0.2], [0.5], [0.1]])
LABELS = np.array([0, 1, 2, 1])
ONE_HOT = np.eye(3)[LABELS]
PARAMS = {"w": jnp.array([[0.3, -0.5]]), "v": jnp.array([[0.2, 0.4]]), "b": jnp.array([0.1])}


def apply(params: Any, x: Any) -> Any:
    return jnp.tanh(params["w"] @ x) + params["v"] @ x**2 + params["b"]


PROBLEM = jg.Problem(apply, X, jg.L2(Y))
MODEL = eqx.nn.MLP(2, 1, 3, 1, activation=jnp.tanh, key=jax.random.key(0), dtype=jnp.float64)


def holed(value: Any, hole: Any) -> np.ndarray:
    array = np.array(value, object if isinstance(hole, str | None) else np.asarray(value).dtype)
    array.reshape(-1)[1 % array.size] = hole
    return array


def floats(good: np.ndarray, *, fixed_length: bool = True) -> dict[str, Case]:
    """In place of an array of real numbers, samples first."""
    found = {
        "NaN": Case(holed(good, np.nan), True),
        "inf": Case(holed(good, np.inf), True),
        "minus inf": Case(holed(good, -np.inf), True),
        "NumPy": Case(np.array(good), False),
        "JAX": Case(jnp.asarray(good), False),
        "list": Case(good.tolist(), False),
        "float32": Case(good.astype(np.float32), False),
        "read-only": Case(read_only(good), False),
        "Fortran order": Case(np.asfortranarray(good), False),
        "integers": Case(np.round(good).astype(int), False),
        "bool": Case(good > 0, False),
        "complex": Case(good + 1j, True),
        "strings": Case(good.astype(str), True),
        "text": Case("data.csv", True),
        "object": Case(holed(good, None), True),
        "object text": Case(holed(good, "n/a"), True),
        "dates": Case(np.full(good.shape, np.datetime64("2026-01-01")), True),
        "ragged": Case([[1.0], [1.0, 2.0]], True),
        "None": Case(None, True),
        "function": Case(len, True),
        "empty": Case(good[:0], True),
        "empty list": Case([], True),
        "scalar": Case(1.0, True),
        "more axes": Case(np.broadcast_to(good[..., None, None], (*good.shape, 2, 3)), True),
        "one sample": Case(good[:1], fixed_length),
    }
    if fixed_length:
        found["another length"] = Case(np.concatenate([good, good]), True)
    try:
        import torch
    except ImportError:
        return found
    return found | {
        "torch": Case(torch.tensor(good), False),
        "torch grad": Case(torch.tensor(good).requires_grad_(), False),
    }


def read_only(good: np.ndarray) -> np.ndarray:
    array = np.array(good)
    array.setflags(write=False)
    return array


def labels(good: np.ndarray) -> dict[str, Case]:
    return {
        "float": Case(good.astype(float), True),
        "NaN": Case(holed(good.astype(float), np.nan), True),
        "negative": Case(good - 1, True),
        "huge": Case(holed(good, 10**6), False),
        "list": Case(good.tolist(), False),
        "int8": Case(good.astype(np.int8), False),
        "uint8": Case(good.astype(np.uint8), False),
        "bool": Case(good > 0, True),
        "strings": Case(good.astype(str), True),
        "object": Case(holed(good, None), True),
        "empty": Case(good[:0], True),
        "scalar": Case(1, True),
        "matrix": Case(good[None], True),
        "one sample": Case(good[:1], False),
        "None": Case(None, True),
    }


def number(*, zero: bool = False, negative: bool = False, infinite: bool = False) -> dict[str, Case]:
    """In place of a real number: which of the special ones make sense."""
    special = {"inf": Case(float("inf"), not infinite), "zero": Case(0.0, not zero)}
    below = {"negative": Case(-1.0, not negative), "tiny negative": Case(-1e-300, not negative)}
    none = refused(
        NaN=float("nan"), text="0.5", vector=np.array([0.5, 0.5]), list=[0.5], complex=0.5j, function=np.array
    )
    return none | special | below | works(NumPy_scalar=np.float64(0.5), JAX_scalar=jnp.asarray(0.5))


def count(*, least: int = 1) -> dict[str, Case]:
    """In place of an integer."""
    none = refused(negative=-1, fraction=1.5, NaN=float("nan"), text="3", vector=np.array([1, 2]), None_=None)
    return none | {"zero": Case(0, least > 0)} | works(NumPy_integer=np.int64(12))


POSITIVE, NOT_NEGATIVE = number(), number(zero=True)
COUNT, INDEX = count(), count(least=0)
# Where a function is one of those that make sense, or None.
RATE, DAMPING = without(POSITIVE, "function"), without(NOT_NEGATIVE, "function")
OPTIONAL_COUNT = without(COUNT, "None")
# In place of a solver of the lift, a function, one that may be left out.
SOLVERS = works(None_=None) | {"class": Case(SVD, True), "text": Case("cholesky", True), "1": Case(1, True)}
FUNCTION = refused(text="function", number=1.0, list=[len])
OPTIONAL_FUNCTION = FUNCTION | works(None_=None)
A_FUNCTION = FUNCTION | refused(None_=None)


def params() -> dict[str, Case]:
    """In place of the parameters of `apply`."""
    return {
        "NaN": Case(PARAMS | {"b": jnp.array([jnp.nan])}, True),
        "inf": Case(PARAMS | {"w": jnp.array([[jnp.inf, 0.0]])}, True),
        "integers": Case(jax.tree.map(lambda leaf: leaf.astype(int), PARAMS), True),
        "complex": Case(jax.tree.map(lambda leaf: leaf.astype(complex), PARAMS), True),
        "no arrays": Case({}, True),
        "None": Case(None, True),
        "text": Case("params", True),
        "text leaf": Case(PARAMS | {"b": "b"}, True),
        "zero-size leaf": Case(PARAMS | {"empty": jnp.zeros((0, 3))}, False),
        "unused leaf": Case(PARAMS | {"unused": jnp.ones(2)}, False),
        "NumPy leaves": Case(jax.tree.map(np.asarray, PARAMS), False),
        "float32": Case(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), PARAMS), False),
        "wrong shape": Case(PARAMS | {"w": jnp.ones((1, 5))}, True),
    }


# What is compiled reads no values.
UNREAD = without(params(), "NaN", "inf", "text leaf")
BY_PARAMS = {"params": ("`params", "params", "apply", "dot_general")}


def models() -> dict[str, Case]:
    """In place of `MODEL`."""
    return {
        "None": Case(None, True),
        "text": Case("model", True),
        "function": Case(jnp.tanh, True),
        "NaN": Case(eqx.tree_at(lambda m: m.layers[0].bias, MODEL, jnp.full(3, jnp.nan)), True),
        "integers": Case(jax.tree.map(lambda leaf: leaf.astype(int) if eqx.is_array(leaf) else leaf, MODEL), True),
        "frozen": Case(eqx.nn.Identity(), True),
        "other inputs": Case(eqx.nn.MLP(5, 1, 3, 1, key=jax.random.key(0)), True),
        "other outputs": Case(eqx.nn.MLP(2, 4, 3, 1, key=jax.random.key(0)), True),
        "zero width": Case(eqx.nn.MLP(2, 1, 0, 1, key=jax.random.key(0)), False),
        "float32": Case(eqx.nn.MLP(2, 1, 3, 1, dtype=jnp.float32, key=jax.random.key(0)), False),
    }


def tangent() -> dict[str, Case]:
    """In place of a velocity or gradient like `PARAMS`."""
    return {
        "NaN": Case(jax.tree.map(lambda leaf: leaf * jnp.nan, PARAMS), True),
        "another tree": Case({"w": jnp.ones((1, 2))}, True),
        "None": Case(None, True),
        "wrong shape": Case(PARAMS | {"b": jnp.ones(3)}, True),
    }


def fails(*arguments: Any) -> Any:
    raise Unusual("my function")


def raising(params: Any, x: Any) -> Any:
    raise Unusual("my network")


SEEN: list[Any] = []


def remembering(params: Any, x: Any) -> Any:
    SEEN.append(x.shape)
    return apply(params, x)


def printing(params: Any, x: Any) -> Any:
    jax.debug.callback(lambda value: SEEN.append(value), x[0])
    return apply(params, x)


def counting(params: Any, x: Any) -> Any:
    SEEN[:] = [len(SEEN)]
    return apply(params, x) * 1.0


def networks() -> dict[str, Case]:
    """In place of `apply`."""
    return {
        "raises": Case(raising, True),
        "keeps what it sees": Case(remembering, False),
        "calls back": Case(printing, False),
        "changes a global": Case(counting, False),
        "returns None": Case(lambda params, x: None, True),
        "returns a list": Case(lambda params, x: [apply(params, x)], True),
        "returns integers": Case(lambda params, x: apply(params, x).astype(int), True),
        "returns complex": Case(lambda params, x: apply(params, x) + 1j, True),
        "returns a Python number": Case(lambda params, x: 1.0, True),
        "returns nothing": Case(lambda params, x: jnp.zeros(0), True),
        "another number of outputs": Case(lambda params, x: jnp.tile(apply(params, x), 3), True),
        "ignores its parameters": Case(lambda params, x: x[:1] * 1.0, False),
        "takes one argument": Case(lambda params: params, True),
        "branches on values": Case(lambda params, x: apply(params, x) if x[0] > 0 else x[:1], True),
        "None": Case(None, True),
        "text": Case("network", True),
    }
