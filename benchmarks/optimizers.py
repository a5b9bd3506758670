"""The optimizers on digits, diabetes and classical curve fits, against optax, optimistix and MINPACK.

`python -m benchmarks.optimizers` writes `results/optimizers.json`. Times exclude compilation unless they say otherwise.
"""

import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix as optx
from sklearn.datasets import load_diabetes, load_digits

import jaxgeo as jg
from benchmarks.harness import environment, peak_memory_mib, run_cases

sys.path.append(str(Path(__file__).parents[1] / "tests"))


@eqx.filter_jit
def step(tx: Any, problem: jg.Problem, params: Any, state: Any) -> tuple[Any, Any]:
    updates, state = tx.update(params, state, params, problem=problem)
    return eqx.apply_updates(params, updates), state


def train(tx: Any, problem: jg.Problem, params: Any, solves: int, stop: float) -> dict[str, Any]:
    """Update until the cost is `stop` or less; the time of the updates after the compiled first is what is reported."""
    state = tx.init(params)
    start = time.perf_counter()
    jax.block_until_ready(step(tx, problem, params, state))
    compiled = time.perf_counter()
    costs, reached = [float(problem.cost(params))], None
    for count in range(1, solves + 1):
        params, state = step(tx, problem, params, state)
        costs.append(float(state.info.new_cost))
        print(count, costs[-1], f"{time.perf_counter() - compiled:.2f}", file=sys.stderr)
        if reached is None and costs[-1] <= stop:
            reached = {"solves": count, "seconds": time.perf_counter() - compiled}
            break
    return {"costs": costs, "final": costs[-1], "reached": reached, "first_call_s": compiled - start}


def first_order(
    tx: Any,
    problem: jg.Problem,
    params: Any,
    steps: int,
    stop: float,
    search: bool = False,
    limit_s: float = 60.0,
    measure: Callable[[Any], jax.Array] | None = None,
) -> dict[str, Any]:
    """The same for an optimizer of gradients: chunks of 200 scanned steps, until `stop` or `limit_s` seconds.

    `measure` is of the parameters after each chunk, by default their cost.
    """
    measure = problem.cost if measure is None else measure

    @eqx.filter_jit
    def chunk(params: Any, state: Any) -> tuple[Any, Any]:
        def body(carry: Any, _: None) -> tuple[Any, None]:
            params, state = carry
            if search:
                value, grads = optax.value_and_grad_from_state(problem.cost)(params, state=state)
                extra = {"value": value, "grad": grads, "value_fn": problem.cost}
            else:
                grads, extra = jax.grad(problem.cost)(params), {}
            updates, state = tx.update(grads, state, params, **extra)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(body, (params, state), None, length=200)[0]

    state = tx.init(params)
    jax.block_until_ready(chunk(params, state))
    start, costs, reached = time.perf_counter(), [], None
    for count in range(200, steps + 1, 200):
        params, state = chunk(params, state)
        costs.append(float(measure(params)))
        seconds = time.perf_counter() - start
        if reached is None and costs[-1] <= stop:
            reached = {"steps": count, "seconds": seconds}
        if seconds > limit_s or costs[-1] <= 0.1 * stop:
            break
    return {"final": costs[-1], "reached": reached, "steps": 200 * len(costs), "seconds": seconds, "costs": costs[::5]}


def mlp(sizes: tuple[int, int], seed: int, dtype: Any = jnp.float64) -> eqx.nn.MLP:
    return eqx.nn.MLP(sizes[0], sizes[1], 64, 2, jnp.tanh, key=jax.random.key(seed), dtype=dtype)


def digits_problem(seed: int, dtype: Any = jnp.float64) -> tuple[jg.Problem, Any]:
    data = load_digits()
    chosen = np.random.default_rng(0).permutation(len(data.target))[:100]
    targets = jnp.eye(10, dtype=dtype)[data.target[chosen]]
    return jg.supervised(mlp((64, 10), seed, dtype), jnp.asarray(data.data[chosen] / 16, dtype), targets)


def diabetes_problem(seed: int, dtype: Any = jnp.float64) -> tuple[jg.Problem, Any]:
    data = load_diabetes()
    inputs = jnp.asarray(data.data / data.data.std(axis=0), dtype)
    targets = jnp.asarray((data.target - data.target.mean()) / data.target.std(), dtype)
    return jg.supervised(mlp((10, 1), seed, dtype), inputs, targets)


def sizes(problem: jg.Problem, params: Any) -> dict[str, int]:
    return {"QN": problem.num_rows(params), "K": problem.num_params(params)}


def report(**rows: Any) -> dict[str, Any]:
    return {"environment": environment("scikit-learn"), "peak_memory_mib": peak_memory_mib(), **rows}


def digits() -> dict[str, Any]:
    """N = 100 digits, 64-64-64-10 tanh, ten initialisations."""
    jax.config.update("jax_enable_x64", True)
    rows: dict[str, Any] = {"levenberg_marquardt": [], "linear_interpolation": []}
    for seed in range(10):
        problem, params = digits_problem(seed)
        marquardt = train(jg.optim.adapted_levenberg_marquardt(), problem, params, 30, 1e-26)
        rows["levenberg_marquardt"].append(marquardt)
        rows["linear_interpolation"].append(train(jg.optim.linear_interpolation(), problem, params, 13, 1e-26))
    problem, params = digits_problem(0)
    rows["sizes"] = sizes(problem, params)
    rows["lbfgs"] = first_order(optax.lbfgs(), problem, params, 4000, 1e-6, search=True)
    for rate in (1e-4, 1e-3, 1e-2):
        rows[f"adam_{rate}"] = first_order(optax.adam(rate), problem, params, 10000, 1e-6)
    return report(dtype="float64", **rows)


def digits_float32() -> dict[str, Any]:
    """The same in single precision: no NaN, and costs that never rise."""
    rows = []
    for seed in range(3):
        problem, params = digits_problem(seed, jnp.float32)
        rows.append(train(jg.optim.adapted_levenberg_marquardt(), problem, params, 30, 1e-11))
    return report(dtype="float32", levenberg_marquardt=rows)


def diabetes() -> dict[str, Any]:
    """All 442 patients, 10-64-64-1, to machine precision."""
    jax.config.update("jax_enable_x64", True)
    problem, params = diabetes_problem(0)
    rows: dict[str, Any] = {"sizes": sizes(problem, params)}
    rows["levenberg_marquardt"] = train(jg.optim.adapted_levenberg_marquardt(), problem, params, 40, 1e-20)
    rows["linear_interpolation"] = train(jg.optim.linear_interpolation(16), problem, params, 40, 1e-20)
    rows["lbfgs"] = first_order(optax.lbfgs(), problem, params, 10000, 1e-20, search=True)

    def residual(params: Any, args: None) -> jax.Array:
        return problem.outputs(params) - problem.loss.targets

    solver = optx.LevenbergMarquardt(rtol=1e-12, atol=1e-12)
    start = time.perf_counter()
    try:
        solution = optx.least_squares(residual, solver, params, max_steps=5, throw=False, options={"jac": "bwd"})
        rows["optimistix"] = {
            "steps": 5,
            "cost": float(problem.cost(solution.value)),
            "seconds": time.perf_counter() - start,
            "note": "5 steps, with compilation",
        }
    # Whatever a rival fails with is the result.
    except Exception as error:
        rows["optimistix"] = {"failed": f"{type(error).__name__}: {str(error)[:200]}"}
    return report(dtype="float64", **rows)


def curve_fits() -> dict[str, Any]:
    """Correct digits of the worst parameter, against MINPACK."""
    jax.config.update("jax_enable_x64", True)
    from curve_fits import CURVE_FITS
    from test_optim_marquardt import digits as correct_digits, fit, minpack

    rows = {}
    for case in CURVE_FITS:
        params, infos = fit(case, 1000)
        rows[case.name] = {
            "parameters": len(case.start),
            "jaxgeo_digits": correct_digits(params, case),
            "minpack_digits": correct_digits(minpack(case), case),
            "jaxgeo_cost": float(infos.new_cost[-1]),
            "jaxgeo_steps_to_cost": int(np.argmax(np.asarray(infos.new_cost) <= infos.new_cost[-1] * (1 + 1e-12))) + 1,
        }
    return report(dtype="float64", fits=rows)


BATCH, EPOCHS = 128, 15


def batches(inputs: np.ndarray, labels: np.ndarray, seed: int, epochs: int) -> dict[str, jax.Array]:
    """Every epoch's batches in random order, the last padded with samples of weight 0: (epochs, batches, 128, …)."""
    random = np.random.default_rng(seed)
    count = -(-len(labels) // BATCH)
    padding = count * BATCH - len(labels)
    order = np.stack([np.concatenate([random.permutation(len(labels)), np.zeros(padding, int)]) for _ in range(epochs)])
    weights = np.concatenate([np.ones(len(labels)), np.zeros(padding)])
    shape = (epochs, count, BATCH)
    return {
        "inputs": jnp.asarray(inputs[order].reshape(*shape, -1)),
        "targets": jnp.asarray(np.eye(10, dtype=np.float32)[labels[order]].reshape(*shape, 10)),
        "weights": jnp.asarray(np.broadcast_to(weights, order.shape).reshape(shape), jnp.float32),
    }


def classify(make: Callable[[int], Any], cost: Any, seed: int, epochs: int, ours: bool) -> tuple[float, float]:
    """Test accuracy after `epochs`, and seconds for them without compilation."""
    data = load_digits()
    inputs, labels = (data.data / 16).astype(np.float32), data.target
    order = np.random.default_rng(0).permutation(len(labels))
    training, test = order[:1437], order[1437:]
    params, static = eqx.partition(mlp((64, 10), seed, jnp.float32), eqx.is_inexact_array)

    def apply(params: Any, x: jax.Array) -> jax.Array:
        return eqx.combine(params, static)(x)

    feed = batches(inputs[training], labels[training], seed, epochs)
    tx = make(epochs * feed["inputs"].shape[1])(apply)

    @jax.jit
    def run(params: Any, state: Any, feed: Any) -> Any:
        def body(carry: Any, batch: Any) -> tuple[Any, None]:
            params, state = carry
            if ours:
                grads, extra = params, batch
            else:
                weighted = jg.SampleWeighted(cost(batch["targets"]), batch["weights"])
                grads, extra = jax.grad(jg.Problem(apply, batch["inputs"], weighted).cost)(params), {}
            updates, state = tx.update(grads, state, params, **extra)
            return (optax.apply_updates(params, updates), state), None

        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), feed)
        return jax.lax.scan(body, (params, state), flat)[0]

    compiled = run.lower(params, tx.init(params), feed).compile()
    start = time.perf_counter()
    params, _ = jax.block_until_ready(compiled(params, tx.init(params), feed))
    seconds = time.perf_counter() - start
    outputs = jax.vmap(functools.partial(apply, params))(jnp.asarray(inputs[test]))
    return float(np.mean(np.argmax(outputs, axis=1) == labels[test])), seconds


def adapted(cost: Any, rate: float = 0.3, damping: float = 3e-2) -> Callable[[int], Any]:
    def make(steps: int) -> Any:
        schedule = optax.cosine_decay_schedule(rate, steps)
        return lambda apply: jg.optim.adapted_momentum(schedule, apply, cost=cost, momentum=0.9, damping=damping)

    return make


def adam(rate: float) -> Callable[[int], Any]:
    return lambda steps: lambda apply: optax.adam(optax.cosine_decay_schedule(rate, steps))


def classification() -> dict[str, Any]:
    """All digits, 1437 to train and 360 to test, minibatches of 128, five seeds."""
    rows: dict[str, Any] = {}
    for name, cost in (("l2", jg.L2), ("cross_entropy", jg.SoftmaxCrossEntropy)):
        runs = [classify(adapted(cost), cost, seed, EPOCHS, True) for seed in range(5)]
        rows[name] = {"adapted_momentum": _summary(runs, EPOCHS)}
        seconds = float(np.mean([run[1] for run in runs]))
        for rate in (1e-3, 3e-3, 1e-2):
            same = [classify(adam(rate), cost, seed, EPOCHS, False) for seed in range(5)]
            rows[name][f"adam_{rate}_equal_epochs"] = _summary(same, EPOCHS)
            # As many epochs as fit the same time, up to what is useful on this data.
            more = int(min(max(EPOCHS, EPOCHS * seconds / np.mean([run[1] for run in same])), 1000))
            equal = [classify(adam(rate), cost, seed, more, False) for seed in range(5)]
            rows[name][f"adam_{rate}_equal_time"] = _summary(equal, more)
    return report(dtype="float32", batch=BATCH, **rows)


def _summary(runs: list[tuple[float, float]], epochs: int) -> dict[str, Any]:
    accuracy = [run[0] for run in runs]
    return {
        "epochs": epochs,
        "accuracy_mean": float(np.mean(accuracy)),
        "accuracy_sd": float(np.std(accuracy, ddof=1)),
        "seconds_mean": float(np.mean([run[1] for run in runs])),
        "accuracy": accuracy,
    }


if __name__ == "__main__":
    run_cases(
        "optimizers",
        {case.__name__: case for case in (digits, digits_float32, diabetes, curve_fits, classification)},
    )
