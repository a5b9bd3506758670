"""The optimizers on digits, diabetes and classical curve fits, against optax, optimistix and MINPACK.

`python -m benchmarks.optimizers` writes `results/optimizers.json`. Times exclude compilation unless they say otherwise.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_diabetes, load_digits

import jaxgeo as jg
from benchmarks.harness import Case, environment, failure, peak_memory_mib, run_cases
from benchmarks.rivals import OURS, PACKAGES, RATES, RIVALS, Make, crossings, is_installed, run, thinned
from cases.curve_fits import CURVE_FITS
from cases.fitting import digits as correct_digits, fit, minpack

THRESHOLDS = [10.0**-power for power in range(2, 28, 2)]


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
    return {"environment": environment("scikit-learn", *PACKAGES), "peak_memory_mib": peak_memory_mib(), **rows}


def attempt(make: Make, problem: jg.Problem, params: Any, **limits: Any) -> dict[str, Any]:
    """Run one optimizer until the cost is `stop`; its steps and seconds to powers of ten, or its failure."""
    try:
        result = run(make(problem, params), eqx.filter_jit(lambda params: problem.cost(params)), **limits)
    # Another library may fail in any way; the failure is the result.
    except Exception as error:
        return failure(error)
    curve = result.pop("curve")
    return result | {"reached": crossings(curve, THRESHOLDS), "curve": thinned(curve)}


def digits(starts: int = 10, limit_s: float = 60.0) -> dict[str, Any]:
    """N = 100 digits, 64-64-64-10 tanh: jaxgeo from several initialisations, first-order methods from one."""
    jax.config.update("jax_enable_x64", True)
    rows: dict[str, Any] = {
        name: [attempt(make, *digits_problem(seed), stop=1e-26, limit_s=limit_s, most=30) for seed in range(starts)]
        for name, make in OURS.items()
    }
    problem, params = digits_problem(0)
    for name in ("optax.lbfgs()", *(f"optax.adam({rate:.0e})" for rate in RATES)):
        rows[name] = [attempt(RIVALS[name], problem, params, stop=1e-6, limit_s=limit_s, most=10_000)]
    return report(dtype="float64", sizes=sizes(problem, params), rows=rows)


def diabetes(limit_s: float = 30.0) -> dict[str, Any]:
    """All 442 patients, 10-64-64-1, to 1e-20, against every other installed library, for `limit_s` each."""
    jax.config.update("jax_enable_x64", True)
    problem, params = diabetes_problem(0)
    methods = OURS | {name: make for name, make in RIVALS.items() if is_installed(name)}
    rows = {name: attempt(make, problem, params, stop=1e-20, limit_s=limit_s) for name, make in methods.items()}
    return report(dtype="float64", sizes=sizes(problem, params), rows=rows)


def float32() -> dict[str, Any]:
    """jaxgeo in single precision, 30 updates: whether all is finite, and how many accepted steps raise the cost."""
    rows = {
        name: [_single(*make(seed, jnp.float32)) for seed in range(3)]
        for name, make in (("digits", digits_problem), ("diabetes", diabetes_problem))
    }
    return report(dtype="float32", rows=rows)


def _single(problem: jg.Problem, params: Any) -> dict[str, Any]:
    method = OURS["adapted_levenberg_marquardt"](problem, params)
    carry, infos = method.init(), []
    for _ in range(30):
        carry = method.advance(carry)
        infos.append(carry[1].info)
    cost, new, accepted = (
        np.array([getattr(info, name) for info in infos]) for name in ("cost", "new_cost", "accepted")
    )
    return {
        "finite": bool(np.all(np.isfinite(cost)) and np.all(np.isfinite(new))),
        "rises": int(np.sum(accepted & (new > cost))),
        "final": float(new[-1]),
    }


def curve_fits() -> dict[str, Any]:
    """Correct digits of the worst parameter, against MINPACK."""
    jax.config.update("jax_enable_x64", True)
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


def batches(samples: np.ndarray, seed: int, epochs: int) -> tuple[jax.Array, jax.Array]:
    """Every batch of every epoch, in random order: its samples, and their weights, 0 for the padding of the last."""
    random = np.random.default_rng(seed)
    padding = -len(samples) % BATCH
    order = np.stack([np.append(random.permutation(samples), np.zeros(padding, int)) for _ in range(epochs)])
    weights = np.append(np.ones(len(samples)), np.zeros(padding))
    weights = np.broadcast_to(weights, order.shape).reshape(-1, BATCH)
    return jnp.asarray(order.reshape(-1, BATCH)), jnp.asarray(weights, jnp.float32)


def classify(make: Callable[[int], Any], cost: Any, seed: int, epochs: int, ours: bool) -> tuple[float, float]:
    """Test accuracy after `epochs`, and their seconds without compilation; the seed also determines the split."""
    data = load_digits()
    inputs, targets = jnp.asarray(data.data / 16, jnp.float32), jnp.eye(10, dtype=jnp.float32)[data.target]
    order = np.random.default_rng(seed).permutation(len(inputs))
    training, test = order[:1437], order[1437:]
    params, static = eqx.partition(mlp((64, 10), seed, jnp.float32), eqx.is_inexact_array)

    def apply(params: Any, x: jax.Array) -> jax.Array:
        return eqx.combine(params, static)(x)

    feed = batches(training, seed, epochs)
    tx = make(len(feed[0]))(apply)

    @jax.jit
    def train(params: Any, state: Any, feed: Any) -> Any:
        def body(carry: Any, batch: Any) -> tuple[Any, None]:
            params, state = carry
            chosen, weights = batch
            if ours:
                grads = params
                extra = {"inputs": inputs[chosen], "targets": targets[chosen], "weights": weights}
            else:
                weighted = jg.SampleWeighted(cost(targets[chosen]), weights)
                grads, extra = jax.grad(jg.Problem(apply, inputs[chosen], weighted).cost)(params), {}
            updates, state = tx.update(grads, state, params, **extra)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(body, (params, state), feed)[0]

    compiled = train.lower(params, tx.init(params), feed).compile()
    start = time.perf_counter()
    params, _ = jax.block_until_ready(compiled(params, tx.init(params), feed))
    seconds = time.perf_counter() - start
    outputs = jax.vmap(functools.partial(apply, params))(inputs[test])
    return float(np.mean(np.argmax(outputs, axis=1) == data.target[test])), seconds


def adapted(cost: Any, rate: float = 0.3, damping: float = 3e-2) -> Callable[[int], Any]:
    def make(steps: int) -> Any:
        schedule = optax.cosine_decay_schedule(rate, steps)
        return lambda apply: jg.optim.adapted_momentum(
            apply, learning_rate=schedule, cost=cost, momentum=0.9, damping=damping
        )

    return make


def adam(rate: float) -> Callable[[int], Any]:
    return lambda steps: lambda apply: optax.adam(optax.cosine_decay_schedule(rate, steps))


def classification() -> dict[str, Any]:
    """All digits, 1437 to train and 360 to test, minibatches of 128, five seeds, each with its own split.

    The learning rate and damping of jaxgeo were chosen on a validation part of one training set. All of Adam's learning
    rates are shown; compare jaxgeo with the best of them on the test sets.
    """
    rows: dict[str, Any] = {}
    for name, cost in (("l2", jg.L2), ("cross_entropy", jg.SoftmaxCrossEntropy)):
        runs = [classify(adapted(cost), cost, seed, EPOCHS, True) for seed in range(5)]
        rows[name] = {"adapted_momentum": _summary(runs, EPOCHS)}
        seconds = float(np.mean([run[1] for run in runs]))
        for rate in (1e-3, 3e-3, 1e-2):
            same = [classify(adam(rate), cost, seed, EPOCHS, False) for seed in range(5)]
            rows[name][f"adam_{rate}_equal_epochs"] = _summary(same, EPOCHS)
            # Time a pilot run of more epochs, because the few above are too short to extrapolate from.
            pilot = classify(adam(rate), cost, 0, 20 * EPOCHS, False)[1]
            more = int(max(EPOCHS, 20 * EPOCHS * seconds / pilot))
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
        {case.__name__: Case(case) for case in (digits, diabetes, float32, curve_fits, classification)},
        quick={
            "digits": Case(functools.partial(digits, 2, 5.0), 90.0),
            "diabetes": Case(functools.partial(diabetes, 2.0), 150.0),
        },
    )
