"""Two races on minibatches against AdamW, for `benchmarks.minibatches`.

- `table`: least squares on a table of 100 000 rows from a noiseless network, in float64; AdamW at equal time.
- `characters`: a transformer that predicts the characters of the standard library's own sources, in float32. The
  updates and seconds to the lowest negative log likelihood of AdamW.

Starts, batches and held-out samples are the same for both. The updates between two points of a curve are one compiled
program. Seconds are CPU seconds without compilation.
"""

import pathlib
import statistics
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxgeo as jg
from benchmarks.harness import environment, peak_memory_mib

OURS, ADAMW = "adapted_momentum", "optax.adamw"
ROWS, COLUMNS, ROWS_A_BATCH = 100_000, 20, 500
POINTS = 20
CHARACTERS, LENGTH, WINDOWS_A_BATCH, WIDTH, LAYERS, HEADS = 128, 64, 16, 48, 3, 4

Network = Callable[[Any, Any], jax.Array]
Point = tuple[int, float, float]


class Task(NamedTuple):
    """A network, its start, its batches and its held-out loss.

    - `apply`: the network, for one sample or, without `per_sample`, for a batch.
    - `held_out`: the loss on held-out samples; for the table the mean squared error.
    - `batches`: inputs and targets of the next batches, with a leading axis for the batches.
    """

    apply: Network
    params: Any
    loss: Callable[[Any, Any, Any], jax.Array]
    held_out: Callable[[Any], float]
    batches: Callable[[np.random.Generator, int], tuple[Any, Any]]
    cost: Callable[[Any], Any]
    per_sample: bool


def table(seed: int) -> Task:
    """A table of standardised targets by a tanh network 20-4-4-1 with large weights, learnt by 20-8-8-1."""
    keys = jax.random.split(jax.random.key(seed), 3)

    def network(width: int, key: jax.Array) -> eqx.nn.MLP:
        return eqx.nn.MLP(COLUMNS, 1, width, 2, jnp.tanh, key=key, dtype=jnp.float64)

    teacher = jax.tree.map(lambda leaf: 3 * leaf if eqx.is_inexact_array(leaf) else leaf, network(4, keys[0]))
    inputs = jax.random.normal(keys[1], (ROWS + 10_000, COLUMNS))
    targets = jax.vmap(teacher)(inputs)
    targets = (targets - jnp.mean(targets)) / jnp.std(targets)
    params, static = eqx.partition(network(8, keys[2]), eqx.is_inexact_array)

    def apply(params: Any, x: jax.Array) -> jax.Array:
        return eqx.combine(params, static)(x)

    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.mean((jax.vmap(apply, (None, 0))(params, x) - y) ** 2)

    error = jax.jit(lambda params: loss(params, inputs[ROWS:], targets[ROWS:]))

    def batches(random: np.random.Generator, count: int) -> tuple[jax.Array, jax.Array]:
        chosen = random.integers(0, ROWS, (count, ROWS_A_BATCH))
        return inputs[chosen], targets[chosen]

    return Task(apply, params, loss, lambda params: float(error(params)), batches, jg.L2, True)


class Layer(eqx.Module):
    """Causal attention and two dense layers, each after a normalisation and beside a residual connection."""

    norms: list[eqx.nn.LayerNorm]
    queries_keys_values: eqx.nn.Linear
    out: eqx.nn.Linear
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, *, key: jax.Array):
        keys = jax.random.split(key, 4)
        self.norms = [eqx.nn.LayerNorm(WIDTH), eqx.nn.LayerNorm(WIDTH)]
        self.queries_keys_values = eqx.nn.Linear(WIDTH, 3 * WIDTH, key=keys[0])
        self.out = eqx.nn.Linear(WIDTH, WIDTH, key=keys[1])
        self.up = eqx.nn.Linear(WIDTH, 4 * WIDTH, key=keys[2])
        self.down = eqx.nn.Linear(4 * WIDTH, WIDTH, key=keys[3])

    def __call__(self, x: jax.Array) -> jax.Array:
        projected = jax.vmap(self.queries_keys_values)(jax.vmap(self.norms[0])(x))
        queries, keys, values = jnp.split(projected.reshape(LENGTH, HEADS, -1), 3, axis=2)
        scores = jnp.einsum("thc,shc->hts", queries, keys) / (WIDTH // HEADS) ** 0.5
        scores = jnp.where(jnp.tril(jnp.ones((LENGTH, LENGTH), bool)), scores, -1e9)
        mixed = jnp.einsum("hts,shc->thc", jax.nn.softmax(scores), values).reshape(LENGTH, WIDTH)
        x = x + jax.vmap(self.out)(mixed)
        return x + jax.vmap(self.down)(jax.nn.gelu(jax.vmap(self.up)(jax.vmap(self.norms[1])(x))))


class Transformer(eqx.Module):
    """Logits of the next character at each position of a window."""

    characters: jax.Array
    positions: jax.Array
    layers: list[Layer]
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self, *, key: jax.Array):
        first, second, third, *keys = jax.random.split(key, 3 + LAYERS)
        self.characters = 0.1 * jax.random.normal(first, (CHARACTERS, WIDTH), jnp.float32)
        self.positions = 0.1 * jax.random.normal(second, (LENGTH, WIDTH), jnp.float32)
        self.layers = [Layer(key=each) for each in keys]
        self.norm = eqx.nn.LayerNorm(WIDTH)
        self.head = eqx.nn.Linear(WIDTH, CHARACTERS, key=third)

    def __call__(self, window: jax.Array) -> jax.Array:
        x = self.characters[window] + self.positions
        for layer in self.layers:
            x = layer(x)
        return jax.vmap(self.head)(jax.vmap(self.norm)(x))


def sources() -> np.ndarray:
    """The modules at the top of the standard library, in alphabetical order, in ASCII."""
    folder = pathlib.Path(sysconfig.get_paths()["stdlib"])
    text = "".join(path.read_text(encoding="utf-8", errors="ignore") for path in sorted(folder.glob("*.py")))
    return np.frombuffer(text.encode("ascii", "ignore"), np.uint8).astype(np.int32)


def characters(seed: int) -> Task:
    text = sources()
    cut = 19 * len(text) // 20
    params, static = eqx.partition(Transformer(key=jax.random.key(seed)), eqx.is_inexact_array)

    def apply(params: Any, x: jax.Array) -> jax.Array:
        """The logits for all characters of some windows, one after another."""
        windows = x.reshape(-1, LENGTH)
        return jax.vmap(eqx.combine(params, static))(windows).reshape(-1, CHARACTERS)

    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(apply(params, x), y))

    def windows(text: np.ndarray, random: np.random.Generator, *shape: int) -> tuple[jax.Array, jax.Array]:
        places = random.integers(0, len(text) - LENGTH, (*shape, 1)) + np.arange(LENGTH)
        places = places.reshape(*shape[:-1], -1)
        return jnp.asarray(text[places]), jnp.asarray(text[places + 1])

    held, evaluate = windows(text[cut:], np.random.default_rng(0), 256), jax.jit(loss)
    return Task(
        apply,
        params,
        loss,
        lambda params: float(evaluate(params, *held)),
        lambda random, count: windows(text[:cut], random, count, WINDOWS_A_BATCH),
        lambda y: jg.SoftmaxCrossEntropy.from_labels(y, num_classes=CHARACTERS),
        False,
    )


def run(task: Task, name: str, rate: float, steps: int, seed: int) -> list[Point]:
    """Updates, CPU seconds and held-out loss, with a cosine schedule as long as the run."""
    schedule = optax.cosine_decay_schedule(rate, steps)
    if name == OURS:
        tx = jg.optim.adapted_momentum(task.apply, learning_rate=schedule, cost=task.cost, per_sample=task.per_sample)
    else:
        tx = optax.with_extra_args_support(optax.adamw(schedule, weight_decay=1e-4))

    def step(carry: tuple[Any, Any], batch: tuple[Any, Any]) -> tuple[tuple[Any, Any], None]:
        params, state = carry
        grads = params if name == OURS else jax.grad(task.loss)(params, *batch)
        updates, state = tx.update(grads, state, params, inputs=batch[0], targets=batch[1])
        return (optax.apply_updates(params, updates), state), None

    carry, random, each = (task.params, tx.init(task.params)), np.random.default_rng(seed), steps // POINTS
    part = jax.jit(lambda carry, batches: jax.lax.scan(step, carry, batches)[0])
    jax.block_until_ready(part(carry, task.batches(np.random.default_rng(seed), each)))
    seconds, curve = 0.0, []
    for count in range(1, POINTS + 1):
        batches = jax.block_until_ready(task.batches(random, each))
        start = time.process_time()
        carry = jax.block_until_ready(part(carry, batches))
        seconds += time.process_time() - start
        curve.append((count * each, seconds, task.held_out(carry[0])))
    return curve


def race(
    make: Callable[[int], Task], budgets: dict[str, tuple[Sequence[float], int]], seeds: Sequence[int], times: float = 0
) -> Iterator[dict[str, Any]]:
    """Each method from several starts.

    **Arguments:**

    - `budgets`: rates and updates of each method. The first start, which is reported too, chooses the rate.
    - `times`: if positive, AdamW instead makes as many updates as it can in this many times jaxgeo's time.
    """
    before, rows = environment(), {}
    tasks = {seed: make(seed) for seed in seeds}
    for name, (rates, steps) in budgets.items():
        if times and name == ADAMW:
            pilot = run(tasks[seeds[0]], name, rates[0], 2000, seeds[0])[-1][1] / 2000
            allowed = times * statistics.median(each[-1][1] for each in rows[OURS]["runs"])
            steps = POINTS * max(1, round(allowed / pilot / POINTS))
        first = {rate: run(tasks[seeds[0]], name, rate, steps, seeds[0]) for rate in rates}
        rate = min(first, key=lambda rate: first[rate][-1][2])
        rows[name] = {
            "rate": rate,
            "tuning": {str(key): curve[-1][2] for key, curve in first.items()},
            "runs": [first[rate], *(run(tasks[seed], name, rate, steps, seed) for seed in seeds[1:])],
        }
        yield {
            "environment": before,
            "peak_memory_mib": peak_memory_mib(),
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(tasks[seeds[0]].params)),
            "seeds": list(seeds),
            "rows": rows,
        }


def race_table(seeds: Sequence[int] = (0, 1, 2, 3, 4), times: float = 1.0) -> Iterator[dict[str, Any]]:
    """The 500 rows of a batch determine the 249 parameters."""
    jax.config.update("jax_enable_x64", True)
    yield from race(table, {OURS: ((1.0,), 200), ADAMW: ((1e-3, 3e-3, 1e-2, 3e-2, 0.1), 0)}, seeds, times)


def race_characters(seeds: Sequence[int] = (0, 1), steps: int = 1000) -> Iterator[dict[str, Any]]:
    """jaxgeo makes a quarter of the updates."""
    yield from race(characters, {ADAMW: ((3e-3, 6e-3, 1e-2), steps), OURS: ((0.5, 1.0), steps // 4)}, seeds)
