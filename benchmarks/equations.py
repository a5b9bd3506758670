"""Networks on the residuals of differential equations: error against updates and time, by the default optimizer.

`python -m benchmarks.equations` writes `results/equations.json`. Times exclude compilation.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import optax

import jaxgeo as jg
from benchmarks.harness import environment, run_cases


def train(
    equation: Any, seed: int, limit_s: float, updates: int, tx: Any, fresh: bool, every: int, kind: str = "jaxgeo"
) -> dict[str, Any]:
    """Update until the time or the number of updates is over; errors at points that were not trained on."""
    params = equation.init(jr.key(seed))
    elsewhere = jr.uniform(jr.key(10_000 + seed), (10_000, equation.dim))
    error: Callable[[Any], jax.Array] = jax.jit(lambda params: equation.error(params, elsewhere))

    @eqx.filter_jit
    def step(params: Any, state: Any, key: jax.Array) -> tuple[Any, Any]:
        problem = equation.problem(equation.points(key))
        if kind == "jaxgeo":
            changes, state = tx.update(params, state, params, problem=problem)
        elif kind == "gradient":
            changes, state = tx.update(jax.grad(problem.cost)(params), state, params)
        else:
            value, gradient = jax.value_and_grad(problem.cost)(params)
            changes, state = tx.update(gradient, state, params, value=value, grad=gradient, value_fn=problem.cost)
        return optax.apply_updates(params, changes), state

    def key(count: int) -> jax.Array:
        return jr.key(count if fresh else 0)

    state = tx.init(params)
    jax.block_until_ready((step(params, state, key(0)), error(params)))
    errors, seconds = [(0, 0.0, float(error(params)))], 0.0
    for count in range(1, updates + 1):
        start = time.perf_counter()
        params, state = jax.block_until_ready(step(params, state, key(count)))
        seconds += time.perf_counter() - start
        if count % every == 0 or seconds > limit_s:
            errors.append((count, seconds, float(error(params))))
        if seconds > limit_s:
            break
    return {"seed": seed, "updates": errors[-1][0], "seconds": seconds, "error": errors[-1][2], "errors": errors}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    found = sorted(run["error"] for run in runs)
    return {"median_error": statistics.median(found), "worst_error": found[-1], "runs": runs}


def poisson_2d() -> dict[str, Any]:
    """257 parameters, 900 + 120 fixed points, ten seeds, 200 updates; first-order methods for 30 s."""
    jax.config.update("jax_enable_x64", True)
    equation = jg.problems.poisson_2d()
    ours = [train(equation, seed, 30.0, 200, jg.optim.adapted_levenberg_marquardt(), False, 10) for seed in range(10)]
    rows = {
        "adapted_levenberg_marquardt": summary(ours),
        "optax.adam(1e-3)": summary([train(equation, 0, 30.0, 10**6, optax.adam(1e-3), False, 1000, "gradient")]),
        "optax.lbfgs()": summary([train(equation, 0, 30.0, 10**6, optax.lbfgs(), False, 1000, "search")]),
    }
    return {"environment": environment(), "dtype": "float64", "rows": rows}


def heat_1d() -> dict[str, Any]:
    """257 parameters, 900 + 120 fixed points, five seeds, 200 updates."""
    jax.config.update("jax_enable_x64", True)
    equation = jg.problems.heat_1d()
    ours = [train(equation, seed, 30.0, 200, jg.optim.adapted_levenberg_marquardt(), False, 10) for seed in range(5)]
    rows = {"adapted_levenberg_marquardt": summary(ours)}
    return {"environment": environment(), "dtype": "float64", "rows": rows}


def poisson_5d() -> dict[str, Any]:
    """449 parameters, 3000 + 500 fresh points at every update, five seeds, two minutes each."""
    jax.config.update("jax_enable_x64", True)
    equation = jg.problems.poisson_5d((64,))
    ours = [train(equation, seed, 120.0, 5000, jg.optim.adapted_levenberg_marquardt(), True, 20) for seed in range(5)]
    rows = {"adapted_levenberg_marquardt": summary(ours)}
    return {"environment": environment(), "dtype": "float64", "rows": rows}


if __name__ == "__main__":
    run_cases("equations", {case.__name__: case for case in (poisson_2d, heat_1d, poisson_5d)})
