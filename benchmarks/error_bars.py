"""Error bars compared with the truth: coverage on tables, an unknown coefficient, a posterior of many parameters."""

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree
from sklearn.datasets import load_diabetes, make_friedman1, make_friedman3
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

import jaxgeo as jg
from benchmarks.harness import Case, environment, peak_memory_mib, run_cases

jax.config.update("jax_enable_x64", True)

ROWS, TRAINED, LEVEL, STEPS = 442, 300, 0.9, 150
WIDTHS, STARTS = (2, 12), 1


def _diabetes(seed: int) -> tuple[np.ndarray, np.ndarray]:
    return load_diabetes(return_X_y=True)


def _linear(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([seed, 1])
    x = rng.normal(size=(ROWS, 10))
    return x, x @ np.linspace(-1, 1, 10) + 0.8 * rng.normal(size=ROWS)


def _product(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([seed, 2])
    x = rng.uniform(-2, 2, (ROWS, 4))
    return x, np.sin(2 * x[:, 0]) * x[:, 1] + 0.2 * rng.normal(size=ROWS)


TABLES: dict[str, Callable[[int], tuple[np.ndarray, np.ndarray]]] = {
    "diabetes": _diabetes,
    "Friedman 1, noise 1": lambda seed: make_friedman1(ROWS, 10, noise=1.0, random_state=seed),
    "Friedman 3, noise 0.2": lambda seed: make_friedman3(ROWS, noise=0.2, random_state=seed),
    "a linear function, noise 0.8": _linear,
    "sin(2x₁)x₂, noise 0.2": _product,
}


def _network(params: dict[str, Any], x: Array) -> Array:
    """A linear path beside a hidden layer."""
    hidden = params["bias"] + sum(column * x[i] for i, column in enumerate(params["columns"]))
    straight = sum(slope * x[i] for i, slope in enumerate(params["slopes"]))
    return straight + params["offset"] + params["out"] @ jnp.tanh(hidden)


def _start(key: Array, dim: int, width: int) -> dict[str, Any]:
    first, second = jax.random.split(key)
    columns = jax.random.normal(first, (dim, width)) / math.sqrt(dim)
    return {
        "columns": list(columns),
        "bias": jnp.zeros(width),
        "slopes": list(jnp.zeros(dim)),
        "offset": jnp.zeros(()),
        "out": jax.random.normal(second, (width,)) / math.sqrt(width),
    }


def _groups(params: dict[str, Any], by_input: bool) -> PyTree:
    """Labels: one precision for the weights of each layer, or one for those of each input."""
    dim = len(params["columns"])
    return {
        "columns": [f"input {i}" if by_input else "columns" for i in range(dim)],
        "bias": "bias",
        "slopes": ["slopes" for _ in range(dim)],
        "offset": "offset",
        "out": "out",
    }


@eqx.filter_jit
def _train(optimizer: Any, problem: jg.Problem, params: PyTree) -> tuple[PyTree, Array]:
    def step(carry: tuple) -> tuple:
        params, state, count = carry
        updates, state = optimizer.update(jax.tree.map(jnp.zeros_like, params), state, params, problem=problem)
        return jax.tree.map(jnp.add, params, updates), state, count + 1

    def goes_on(carry: tuple) -> Array:
        return (carry[1].ends.ending == 0) & (carry[2] < STEPS)

    found, _, count = jax.lax.while_loop(goes_on, step, (params, optimizer.init(params), jnp.int32(0)))
    return found, count


OPTIMIZERS: dict[tuple[int, bool], Any] = {}


def _optimizer(params: dict[str, Any], by_input: bool) -> Any:
    """The same object for the same shapes, so that a program is compiled only once."""
    key = len(params["columns"]), by_input
    if key not in OPTIMIZERS:
        prior = jg.optim.Prior(groups=_groups(params, by_input))
        OPTIMIZERS[key] = jg.optim.adapted_levenberg_marquardt(prior=prior, solver=jg.linalg.Auto())
    return OPTIMIZERS[key]


def by_evidence(x: np.ndarray, y: np.ndarray, new: np.ndarray, seed: int) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Networks of two widths, with two groupings of precisions and several starts, weighted by their evidence."""
    found, labels = [], []
    problem = jg.Problem(_network, jnp.asarray(x), jg.L2(jnp.asarray(y)))
    for width in WIDTHS:
        for start in range(STARTS):
            first = _start(jax.random.fold_in(jax.random.key(seed), start), x.shape[1], width)
            for by_input in (False, True):
                params, steps = _train(_optimizer(first, by_input), problem, first)
                groups = _groups(first, by_input)
                found.append(jg.posterior(problem, params, prior_precision="evidence", groups=groups))
                labels.append({"hidden": width, "by_input": by_input, "steps": int(steps)})
    mixture = jg.uncertainty.mixture(found, jnp.asarray(new))
    low, high = mixture.interval(LEVEL)
    best = int(np.argmax([each.log_evidence for each in found]))
    facts = {**labels[best], "networks": len(mixture.weights), "noise": found[best].noise}
    return mixture.mean, low, high, facts


def by_gaussian_process(x: np.ndarray, y: np.ndarray, new: np.ndarray, seed: int) -> tuple[Any, Any, Any, dict]:
    kernel = ConstantKernel(1.0) * RBF(np.full(x.shape[1], 2.0), (1e-1, 1e3)) + WhiteKernel(0.3)
    model = GaussianProcessRegressor(kernel, random_state=seed).fit(x, y)
    mean, deviation = model.predict(new, return_std=True)
    return mean, mean - 1.6448536 * deviation, mean + 1.6448536 * deviation, {}


def by_quantiles(x: np.ndarray, y: np.ndarray, new: np.ndarray, seed: int) -> tuple[Any, Any, Any, dict]:
    def at(quantile: float) -> np.ndarray:
        model = HistGradientBoostingRegressor(loss="quantile", quantile=quantile, max_iter=50, random_state=seed)
        return model.fit(x, y).predict(new)

    return at(0.5), at(0.5 - LEVEL / 2), at(0.5 + LEVEL / 2), {}


METHODS = {
    "jaxgeo, by evidence": by_evidence,
    "Gaussian process": by_gaussian_process,
    "quantile boosting": by_quantiles,
}


def coverage(splits: int, tables: tuple[str, ...] = tuple(TABLES)) -> Iterator[dict[str, Any]]:
    """The share of held-out targets in 90 % intervals, their mean width in units of the target's deviation, R²."""
    before, found = environment("scikit-learn"), {}
    for name in tables:
        rows: dict[str, list[dict[str, Any]]] = {method: [] for method in METHODS}
        for split in range(splits):
            x, y = TABLES[name](split)
            order = np.random.default_rng([split, 3]).permutation(len(y))
            train, test = order[:TRAINED], order[TRAINED:]
            x = (x - x[train].mean(0)) / x[train].std(0)
            y = (y - y[train].mean()) / y[train].std()
            for method, run in METHODS.items():
                start, cpu = time.perf_counter(), time.process_time()
                mean, low, high, facts = run(x[train], y[train], x[test], split)
                seconds = {"seconds": time.perf_counter() - start, "cpu_s": time.process_time() - cpu}
                mean, low, high = map(np.asarray, (mean, low, high))
                target = y[test]
                rows[method].append(
                    {
                        "coverage": float(np.mean((target >= low) & (target <= high))),
                        "width": float(np.mean(high - low)),
                        "r2": float(1 - np.sum((target - mean) ** 2) / np.sum((target - target.mean()) ** 2)),
                        **seconds,
                        **facts,
                    }
                )
            found[name] = {
                method: {key: float(np.mean([row[key] for row in each])) for key in ("coverage", "width", "r2")}
                | {key: float(np.median([row[key] for row in each])) for key in ("seconds", "cpu_s")}
                | {"splits": each}
                for method, each in rows.items()
            }
            yield {"environment": before, "trained_rows": TRAINED, "level": LEVEL, "tables": found}


def burgers(draws: int, steps: int, counts: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """ν of Burgers' equation from 200 noisy values of its solution, with its standard error, for several draws.

    The residual of the equation counts as data too, with a small noise in units of the slope. If that noise is larger
    than what the network leaves of the residual, the solution bends to the noisy values, and ν is biased. Inputs of the
    network mark where the solution becomes steep, as functions of x, and initial and boundary values are satisfied
    exactly.
    """
    inside, true, noise, exact_noise = counts[0], 0.01, 0.01, 2e-3
    equation = jg.equations.burgers_1d((1,), true)

    def where_steep(key: Array, count: int) -> Array:
        """Points, two thirds of them where the solution becomes steep."""
        found = np.array(equation.elsewhere(key, count))
        found[::3, 1] *= 0.1
        found[1::3, 1] *= 0.03
        return jnp.asarray(found)

    points, other = where_steep(jax.random.key(0), inside), where_steep(jax.random.key(9), inside)
    measured = equation.elsewhere(jax.random.key(1), counts[1])
    values = jax.vmap(equation.solution)(measured)
    network = jg.equations.Network((4, 20, 20, 1), values.dtype, key=jax.random.key(2))
    start = {"network": network, "log_viscosity": jnp.log(0.02)}

    def noise_of(draw: int) -> Array:
        return noise * jax.random.normal(jax.random.key(100 + draw), values.shape)

    def problem_of(draw: int, exact_noise: float) -> jg.Problem:
        noisy = values + noise_of(draw)
        total, part = inside + counts[1], (exact_noise / noise) ** 2
        blocks = (_equation, points, inside / total), (_missed, (measured, noisy), part * counts[1] / total)
        return jg.residual_problem(blocks)

    # All draws start from the network of a first draw, in which the equation initially has less weight.
    for less in (15 * exact_noise, 4 * exact_noise, exact_noise):
        found = jg.fit(start, problem_of(-1, less), max_steps=steps, record_every=steps, tol=0.0)
        start = found.model
    before, rows = environment(), []
    exact = jax.vmap(jax.grad(lambda log, point: _solution(log, point)), (None, 0))(jnp.log(true), measured)
    for draw in range(draws):
        begun, cpu = time.perf_counter(), time.process_time()
        problem = problem_of(draw, exact_noise)
        found = jg.fit(start, problem, max_steps=steps, record_every=steps, tol=0.0)
        posterior = jg.posterior(problem, found.model, noise=(exact_noise, noise))
        estimate = float(jnp.exp(found.model["log_viscosity"]))
        error = estimate * float(posterior.standard_errors()["log_viscosity"])
        rows.append(
            {
                "estimate": estimate,
                "standard_error": error,
                "deviations": (estimate - true) / error,
                "estimate_if_the_equation_holds": float(true * (1 + exact @ noise_of(draw) / (exact @ exact))),
                "steps": found.steps,
                "outcome": found.outcome.value,
                "equation_rms": _equation_rms(found.model, points),
                "equation_rms_elsewhere": _equation_rms(found.model, other),
                "seconds": time.perf_counter() - begun,
                "cpu_s": time.process_time() - cpu,
            }
        )
        names = "estimate", "standard_error", "estimate_if_the_equation_holds"
        estimates, errors, best = (np.asarray([row[name] for row in rows]) for name in names)
        yield {
            "environment": before,
            "true": true,
            "K": problem.num_params(start),
            "QN": problem.num_rows(start),
            "standard_error_if_the_equation_holds": float(true * noise / jnp.linalg.norm(exact)),
            "within_two": int(np.sum(np.abs(estimates - true) <= 2 * errors)),
            "spread": float(np.std(estimates, ddof=1)) if draw else None,
            "spread_if_the_equation_holds": float(np.std(best, ddof=1)) if draw else None,
            "mean_standard_error": float(errors.mean()),
            "mean": float(estimates.mean()),
            "draws": rows,
        }


def _solution(log_viscosity: Array, point: Array) -> Array:
    return jg.equations.burgers_1d((1,), jnp.exp(log_viscosity)).solution(point)


def _field(params: PyTree, point: Array) -> Array:
    t, x = point
    value = params["network"](jnp.stack([t, jnp.sin(jnp.pi * x), jnp.tanh(10 * x), jnp.tanh(40 * x)]))[0]
    return t * (1 - x**2) * value - jnp.sin(jnp.pi * x)


def _equation(params: PyTree, point: Array) -> Array:
    field = partial(_field, params)
    by_time, slope = jax.grad(field)(point)
    along = jnp.array([0.0, 1.0], point.dtype)
    bend = jax.jvp(lambda point: jax.grad(field)(point)[1], (point,), (along,))[1]
    # Divide by the slope, which is large where the solution is steep.
    return (by_time + field(point) * slope - jnp.exp(params["log_viscosity"]) * bend) / jnp.sqrt(1 + slope**2)


def _equation_rms(params: PyTree, points: Array) -> float:
    return float(jnp.sqrt(jnp.mean(jax.vmap(partial(_equation, params))(points) ** 2)))


def _missed(params: PyTree, sample: tuple[Array, Array]) -> Array:
    point, value = sample
    return _field(params, point) - value


def many(width: int, rows: int, inputs: int, bound: int | None = None) -> dict[str, Any]:
    """Time and memory of a posterior of many parameters, and of its predictions; with `bound` bytes for matrices."""
    rng = np.random.default_rng(0)
    x, new = rng.uniform(-1, 1, (rows, 4)), rng.uniform(-1, 1, (inputs, 4))
    y = np.sin(3 * x[:, :1]) * x[:, 1:2] + 0.1 * rng.normal(size=(rows, 1))
    model = eqx.nn.MLP(4, 1, width, 2, activation=jnp.tanh, key=jax.random.key(0))
    problem, params = jg.supervised(model, x, y)
    before, memory = environment(), peak_memory_mib()
    start, cpu = time.perf_counter(), time.process_time()
    posterior = jg.posterior(problem, params, prior_precision="evidence", memory=bound)
    middle, half = time.perf_counter(), time.process_time()
    deviation = np.asarray(posterior.predict(jnp.asarray(new)).standard_deviation)
    end, whole = time.perf_counter(), time.process_time()
    return {
        "environment": before,
        "K": problem.num_params(params),
        "QN": rows,
        "inputs": inputs,
        "plan": str(posterior.plan),
        "num_effective": posterior.num_effective,
        "missed": posterior.missed,
        "posterior_s": middle - start,
        "posterior_cpu_s": half - cpu,
        "predict_s": end - middle,
        "predict_cpu_s": whole - half,
        "mean_deviation": float(deviation.mean()),
        "memory_before_mib": memory,
        "peak_memory_mib": peak_memory_mib(),
    }


CASES = {
    "many": Case(lambda: many(221, 1000, 10_000), 1200.0),
    "many rows": Case(lambda: many(221, 20_000, 10_000, 4 * 2**30), 2400.0),
    "burgers": Case(lambda: burgers(40, 150, (2000, 200)), 3600.0),
    "coverage": Case(lambda: coverage(10), 7200.0),
}
QUICK = {
    "many": Case(lambda: many(20, 50, 100), 600.0),
    "many rows": Case(lambda: many(20, 2000, 100, 90 * 2**20), 600.0),
    "burgers": Case(lambda: burgers(2, 5, (60, 20)), 600.0),
    "coverage": Case(lambda: coverage(1, ("a linear function, noise 0.8",)), 600.0),
}


if __name__ == "__main__":
    run_cases("error_bars", CASES, QUICK)
