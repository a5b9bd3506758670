"""How models, data and states of all kinds go in; where they cannot, the message says what to write."""

import io
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from flax import nnx

import jaxgeo as jg
from jaxgeo._checks import as_array, check_count

POINTS = np.asarray([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0], [3.0, 1.0]])
TARGETS = np.asarray([1.0, 4.0, 7.0, 10.0])
KEY = jax.random.key(0)


def plane(params, x):
    return params @ x


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1, param_dtype=jnp.float64)(x)


class Images(nn.Module):
    @nn.compact
    def __call__(self, images):
        hidden = nn.Conv(2, (3, 3), param_dtype=jnp.float64)(images)
        return nn.Dense(1, param_dtype=jnp.float64)(hidden.reshape(images.shape[0], -1))


class Transformed(NamedTuple):
    """As Haiku's."""

    init: Any
    apply: Any


HAIKU = Transformed(None, lambda params, rng, x: x @ params["linear"]["w"])
VARIABLES = {"params": {"Dense_0": {"kernel": jnp.zeros((2, 1)), "bias": jnp.zeros(1)}}}
PAIR = {"linear": {"w": jnp.zeros((2, 1))}}
IMAGES = jnp.ones((4, 8, 8, 1))
KERNELS = {
    "params": {
        "Conv_0": {"kernel": jnp.ones((3, 3, 1, 2)), "bias": jnp.zeros(2)},
        "Dense_0": {"kernel": jnp.ones((128, 1)), "bias": jnp.zeros(1)},
    }
}

INPUTS = {
    "DataFrame": pd.DataFrame(POINTS, columns=["x", "one"]),
    "lists": POINTS.tolist(),
    "tuples": tuple(map(tuple, POINTS.tolist())),
}


@pytest.mark.parametrize("kind", list(INPUTS))
def test_tables_and_lists_are_inputs(kind):
    problem = jg.Problem(plane, INPUTS[kind], jg.L2(TARGETS))
    np.testing.assert_array_equal(problem.inputs, POINTS)
    linear = eqx.nn.Linear(2, "scalar", key=KEY)
    problem, _ = jg.supervised(linear, INPUTS[kind], TARGETS)
    np.testing.assert_array_equal(problem.inputs, POINTS)


def test_fit_and_updates_take_a_table():
    table = INPUTS["DataFrame"]
    found = jg.fit(jnp.zeros(2), table, TARGETS, apply=plane, method="levenberg-marquardt")
    np.testing.assert_allclose(found.model, [3.0, 1.0], rtol=1e-9)
    tx, start = jg.optim.adapted_levenberg_marquardt(plane), jnp.zeros(2)
    updates, _ = tx.update(None, tx.init(start), start, inputs=table, targets=TARGETS)
    np.testing.assert_allclose(updates, [3.0, 1.0], rtol=1e-9)


def test_lists_of_arrays_are_still_pytrees():
    problem = jg.Problem(lambda p, xs: p * xs[0] + xs[1], [POINTS[:, 0], POINTS[:, 1]], jg.L2(TARGETS))
    assert float(problem.cost(jnp.asarray(3.0))) == 0


def check(apply, params, inputs=POINTS):
    jg.Problem(apply, inputs, jg.L2(TARGETS[:, None])).check(params)


def update(apply, params):
    tx = jg.optim.adapted_levenberg_marquardt(apply)
    return tx.update(None, tx.init(params), params, inputs=POINTS, targets=TARGETS)


def fit(model, **options):
    return jg.fit(model, POINTS, TARGETS[:, None], max_steps=2, **options)


def with_state(state):
    tx = jg.optim.adapted_levenberg_marquardt(plane)
    return tx.update(None, state(tx.init(jnp.zeros(2))), jnp.zeros(2), inputs=POINTS, targets=TARGETS)


SEQUENCES = jnp.ones((4, 3, 2))
INTEGERS = {"a": jnp.asarray(1), "b": jnp.asarray(3)}
LINEN, ONE_SAMPLE = r"`module\.apply` of Linen", r"lambda params, x: apply\(params, x\[None\]\)\[0\]"
WORDS = {
    "an integer start": (lambda: update(plane, INTEGERS), r"no trainable leaf.*int64.*`\.astype\(float\)`"),
    "a start of Python numbers": (lambda: update(plane, {"a": 1.0}), r"no trainable leaf.*`jnp\.asarray`"),
    "NaN in parameters": (
        lambda: check(plane, jnp.asarray([jnp.nan, 1.0])),
        r"`params` has 1 NaN.*start from finite parameters",
    ),
    "a Linen module as the model": (lambda: fit(Linen()), LINEN),
    "variables of Linen without `apply`": (lambda: fit(VARIABLES), LINEN),
    "a Linen module as `apply`": (lambda: check(Linen(), VARIABLES), LINEN),
    "a Linen module in an optimizer": (lambda: update(Linen(), VARIABLES), LINEN),
    "a pair of Haiku as the model": (
        lambda: fit(HAIKU),
        r"of Haiku `lambda params, x: network\.apply\(params, None, x",
    ),
    "`apply` of Haiku, with its key": (lambda: fit(PAIR, apply=HAIKU.apply), "positional argument.*of Haiku"),
    "parameters without `apply`": (lambda: fit(PAIR), "not callable.*as `apply` a function"),
    "a function of a batch": (lambda: check(lambda p, x: jnp.einsum("nd,d->n", x, p), jnp.zeros(2)), ONE_SAMPLE),
    "a network of a batch of images": (lambda: check(Images().apply, KERNELS, IMAGES), ONE_SAMPLE),
    "a state as a dictionary": (
        lambda: with_state(flax.serialization.to_state_dict),
        r"`state`.*got dict.*from_state_dict\(tx\.init\(params\), saved\)",
    ),
    "outputs in a dictionary": (
        lambda: check(lambda p, x: {"a": x @ p, "b": x}, jnp.zeros(2)),
        r"got a dict of 2\. Choose one of them, or join them",
    ),
    "targets in a dictionary": (
        lambda: as_array("targets", {"a": TARGETS, "b": TARGETS}),
        r"`targets`.*the keys \['a', 'b'\]\. Join its arrays",
    ),
    "attention with dropout but no key": (
        lambda: check(lambda net, x: net(x, x, x), eqx.nn.MultiheadAttention(1, 2, dropout_p=0.1, key=KEY), SEQUENCES),
        r"requires a key.*`eqx\.nn\.inference_mode\(model\)`, or pass a key for each sample",
    ),
    "text in a table": (lambda: check(plane, jnp.zeros(2), pd.DataFrame({"a": ["x", "y"]})), "`inputs`.*array of num"),
}


@pytest.mark.parametrize("case", list(WORDS))
def test_the_message_says_what_to_write(case):
    call, words = WORDS[case]
    with pytest.raises(ValueError, match=words):
        call()


def test_inputs_beyond_the_range_of_float32():
    with (
        jax.enable_x64(False),
        np.errstate(over="ignore"),
        pytest.raises(ValueError, match=r"`inputs`.*too large for float32.*enable x64"),
    ):
        jg.Problem(plane, np.asarray([[1e200, 1.0]]), jg.L2(jnp.zeros(1)))


@pytest.mark.parametrize(
    "model", ["linen", *(pytest.param(model, marks=pytest.mark.slow) for model in ("nnx", "haiku"))]
)
def test_the_wrapper_of_the_message_trains(model):
    inputs, targets = POINTS[:, :1], TARGETS[:, None]
    match model:
        case "linen":
            start, apply = Linen().init(KEY, inputs[0]), Linen().apply
        case "haiku":
            start, apply = {"linear": {"w": jnp.zeros((2, 1))}}, lambda p, x: HAIKU.apply(p, None, jnp.append(x, 1))
        case _:
            start, apply = nnx.Linear(1, 1, param_dtype=jnp.float64, rngs=nnx.Rngs(0)), None
    found = jg.fit(start, inputs, targets, apply=apply, method="levenberg-marquardt")
    assert found.cost < 1e-12


def test_jit_takes_the_methods_of_a_problem():
    problem = jg.Problem(plane, POINTS, jg.L2(TARGETS))
    params = jnp.asarray([3.0, 2.0])
    assert float(jax.jit(problem.cost)(params)) == 0.5
    np.testing.assert_array_equal(jax.jit(problem.outputs)(params)[:, 0], TARGETS + 1)
    assert problem.cost == problem.cost
    assert problem.cost != jg.Problem(plane, POINTS, jg.L2(TARGETS)).cost
    gradient = jax.jit(jax.grad(problem.cost))(params)
    np.testing.assert_allclose(gradient, POINTS.mean(0), rtol=1e-14)


def test_a_state_survives_what_saves_it():
    tx, start = jg.optim.adapted_levenberg_marquardt(plane), jnp.zeros(2)
    state = tx.init(start)
    saved = flax.serialization.from_state_dict(tx.init(start), flax.serialization.to_state_dict(state))
    buffer = io.BytesIO()
    eqx.tree_serialise_leaves(buffer, state)
    buffer.seek(0)
    leaves, treedef = jax.tree.flatten(state)
    for again in (saved, eqx.tree_deserialise_leaves(buffer, state), jax.tree.unflatten(treedef, leaves)):
        assert eqx.tree_equal(again, state)


HYPERPARAMETERS = {
    "momentum": (jg.optim.adapted_momentum, ("apply",), {"learning_rate": 0.5, "damping": 1e-3}),
    "interpolation": (jg.optim.linear_interpolation, ("apply", "num_steps", "corrections"), {"max_growth": 50.0}),
    "metric": (jg.optim.scale_by_adapted_metric, ("apply",), {"damping": 1e-3}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(HYPERPARAMETERS))
def test_hyperparameters_are_injected(name):
    make, static, options = HYPERPARAMETERS[name]
    injected, plain = optax.inject_hyperparams(make, static_args=static)(plane, **options), make(plane, **options)
    start = jnp.zeros(2)
    data = {"inputs": POINTS, "targets": TARGETS}
    found, state = injected.update(None, injected.init(start), start, **data)
    assert set(options) <= set(state.hyperparams)
    wanted, _ = plain.update(None, plain.init(start), start, **data)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_counts_among_injected_hyperparameters_are_named():
    """An array is what optax makes of them."""
    with pytest.raises(ValueError, match=r"`num_steps` must be an integer.*`static_args`"):
        check_count("num_steps", jnp.asarray(5.0))
