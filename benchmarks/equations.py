"""Networks on the residuals of differential equations: error against updates and time, by the default optimizer.

`python -m benchmarks.equations` writes `results/equations.json`. Times exclude compilation.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import optax

import jaxgeo as jg
from benchmarks.harness import Case, Result, environment, peak_memory_mib, run_cases
from benchmarks.rivals import RIVALS, Make, run, thinned

FIRST_ORDER = ("optax.adam(1e-03)", "optax.lbfgs()")


def error_elsewhere(equation: Any, seed: int) -> Callable[[Any], jax.Array]:
    """The relative L2 error at points that are not used for training."""
    elsewhere = equation.elsewhere(jr.key(10_000 + seed), 10_000)
    return jax.jit(lambda params: equation.error(params, elsewhere))


def train(equation: Any, seed: int, updates: int, limit_s: float, every: int, fresh: bool) -> dict[str, Any]:
    """Update with default settings until the time or the updates are used up, at fixed or each time `fresh` points."""
    params, error = equation.init(jr.key(seed)), error_elsewhere(equation, seed)
    tx = jg.optim.adapted_levenberg_marquardt()

    @eqx.filter_jit
    def step(params: Any, state: Any, key: jax.Array) -> tuple[Any, Any]:
        problem = equation.problem(equation.points(key))
        changes, state = tx.update(params, state, params, problem=problem)
        return optax.apply_updates(params, changes), state

    state = tx.init(params)
    jax.block_until_ready((step(params, state, jr.key(0)), error(params)))
    errors, seconds = [(0, 0.0, float(error(params)))], 0.0
    for count in range(1, updates + 1):
        start = time.perf_counter()
        params, state = jax.block_until_ready(step(params, state, jr.key(count if fresh else 0)))
        seconds += time.perf_counter() - start
        if count % every == 0 or seconds > limit_s:
            errors.append((count, seconds, float(error(params))))
        if seconds > limit_s:
            break
    return {"seed": seed, "updates": errors[-1][0], "seconds": seconds, "error": errors[-1][2], "errors": errors}


def train_by_fit(
    equation: Any, seed: int, limit_s: float, clock: Callable[[], float] = time.process_time
) -> dict[str, Any]:
    """One call of `jaxgeo.fit`, which warms up, draws points and holds others out.

    The result is the state with the lowest held-out cost among those of the first `limit_s` seconds, compilation
    included. By default these are CPU seconds of the process: at least the seconds that pass on an idle machine.
    """
    params, error = equation.init(jr.key(seed)), error_elsewhere(equation, seed)
    jax.block_until_ready(error(params))
    errors, best = [], {"validation_cost": float("inf")}
    begun, started = clock(), time.perf_counter()

    def watch(progress: Any, model: Any) -> bool:
        seconds = clock() - begun
        if seconds > limit_s:
            return True
        found = float(error(model))
        errors.append((progress.step, seconds, found))
        if progress.row["validation_cost"] < best["validation_cost"]:
            best.update(progress.row, error=found, seconds=seconds, elapsed_s=time.perf_counter() - started)
        return False

    jg.fit(params, equation, max_steps=10**6, seed=seed, callbacks=[watch])
    names = {"step": "updates", "cost": "cost_trained", "validation_cost": "cost_elsewhere"}
    return {"seed": seed, **{names.get(name, name): value for name, value in best.items()}, "errors": errors}


def rival(equation: Any, make: Make, limit_s: float) -> dict[str, Any]:
    """A first-order optimizer for the same time, from seed 0."""
    params, problem = equation.init(jr.key(0)), equation.problem(equation.points(jr.key(0)))
    result = run(make(problem, params), error_elsewhere(equation, 0), 0.0, limit_s)
    return {
        "seed": 0,
        "updates": result["steps"],
        "seconds": result["seconds"],
        "error": result["final"],
        "errors": thinned(result["curve"]),
    }


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    found = sorted(run["error"] for run in runs)
    return {"median_error": statistics.median(found), "worst_error": found[-1], "runs": runs}


def case(
    equation: Callable[..., Any],
    seeds: int,
    updates: int,
    limit_s: float,
    every: int,
    fresh: bool = False,
    rivals: tuple[str, ...] = (),
    widths: tuple[int, ...] = (64,),
) -> dict[str, Any]:
    """A network, by default with one layer of 64, in float64: jaxgeo from each seed, the others from the first."""
    jax.config.update("jax_enable_x64", True)
    ready = equation(widths)
    rows = {
        "adapted_levenberg_marquardt": summary(
            [train(ready, seed, updates, limit_s, every, fresh) for seed in range(seeds)]
        )
    }
    for name in rivals:
        rows[name] = summary([rival(ready, RIVALS[name], limit_s)])
    return {"environment": environment(), "dtype": "float64", "rows": rows}


def poisson_2d() -> dict[str, Any]:
    """257 parameters, 900 + 120 fixed points, ten seeds, 200 updates; first-order methods for 30 s."""
    return case(jg.equations.poisson_2d, 10, 200, 30.0, 10, rivals=FIRST_ORDER)


def heat_1d() -> dict[str, Any]:
    """257 parameters, 900 + 120 fixed points, five seeds, 200 updates; first-order methods for 30 s."""
    return case(jg.equations.heat_1d, 5, 200, 30.0, 10, rivals=FIRST_ORDER)


def by_fit(
    equation: Callable[..., Any],
    seeds: int,
    limit_s: float,
    clock: Callable[[], float] = time.process_time,
    **sizes: Any,
) -> Iterator[Result]:
    """One call of `jaxgeo.fit` from each seed, in float64."""
    jax.config.update("jax_enable_x64", True)
    before, runs = environment(), []
    for seed in range(seeds):
        runs.append(train_by_fit(equation(**sizes), seed, limit_s, clock))
        yield {
            "environment": before,
            "dtype": "float64",
            "rows": {"jaxgeo.fit": summary(runs)},
        }


def helmholtz_2d() -> Iterator[Result]:
    """2971 parameters, periodic features, five seeds, two minutes each on two cores that nothing else uses."""
    return by_fit(jg.equations.helmholtz_2d, 5, 120.0, time.perf_counter)


def helmholtz_2d_box() -> Iterator[Result]:
    """1051 parameters, points on the edge, five seeds, one minute each on two cores that nothing else uses."""
    return by_fit(jg.equations.helmholtz_2d, 5, 60.0, time.perf_counter, widths=(30, 30), periodic=False)


def burgers_1d() -> Iterator[Result]:
    """921 parameters, ν = 0.01/π, ten seeds, 200 seconds of the processor each."""
    return by_fit(jg.equations.burgers_1d, 10, 200.0)


def burgers_1d_smooth() -> Iterator[Result]:
    """1361 parameters, ν = 0.01, periodic, five seeds, five minutes of the processor each."""
    return by_fit(jg.equations.burgers_1d, 5, 300.0, widths=(20, 20, 20, 20), viscosity=0.01, periodic=True)


def burgers_1d_wide() -> Iterator[Result]:
    """2051 parameters, ν = 0.01/π, five seeds, 400 seconds of the processor each."""
    return by_fit(jg.equations.burgers_1d, 5, 400.0, widths=(25, 25, 25, 25))


def poisson_5d() -> dict[str, Any]:
    """449 parameters, 3000 + 500 fixed points, five seeds, four minutes each."""
    return case(jg.equations.poisson_5d, 5, 5000, 240.0, 20)


def poisson_5d_deep() -> dict[str, Any]:
    """10 065 parameters, 3000 + 500 fresh points at every update, one seed, 70 updates."""
    return case(jg.equations.poisson_5d, 1, 70, 3600.0, 5, fresh=True, widths=(64, 64, 48, 48))


def harmonic_10d() -> dict[str, Any]:
    """118 145 parameters, 3500 + 500 fresh points at every update, one seed, 50 updates."""

    def with_more_points(widths: tuple[int, ...]) -> jg.equations.Equation:
        return dataclasses.replace(jg.equations.harmonic_10d(widths), counts=(3500, 500))

    found = case(with_more_points, 1, 50, 3600.0, 5, fresh=True, widths=(256, 256, 128, 128))
    return found | {"peak_memory_mib": peak_memory_mib()}


def poisson_quickly() -> dict[str, Any]:
    return case(jg.equations.poisson_2d, 2, 100, 10.0, 20, rivals=("optax.lbfgs()",))


if __name__ == "__main__":
    run_cases(
        "equations",
        {
            each.__name__: Case(each)
            for each in (
                poisson_2d,
                heat_1d,
                helmholtz_2d,
                helmholtz_2d_box,
                burgers_1d,
                burgers_1d_smooth,
                burgers_1d_wide,
                poisson_5d,
                poisson_5d_deep,
                harmonic_10d,
            )
        },
        quick={"poisson_2d": Case(poisson_quickly, 120.0)},
    )
