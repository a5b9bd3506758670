"""Speed and accuracy on a GPU: `python -m benchmarks.gpu` writes `results/gpu.json`, after every case.

No case takes more than two minutes, most of them for compilation. If a GPU is not available long enough for all cases,
`--missing` continues with those that have no result yet. `--quick` runs every case at small sizes, on any device.

Times are for one call including its dispatch. GPU libraries may round the operands of float32 products to TF32, which
JAX allows by default; "highest" forbids it.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jax.flatten_util import ravel_pytree

import jaxgeo as jg
from benchmarks.gpu_images import images, mnist_5k, small_digits
from benchmarks.harness import Case, Result, each, environment, measure, peak_memory_mib, run_cases
from benchmarks.lift_speed import DAMPING, describe, network, our_calls, poisson
from jaxgeo.linalg.low_rank import leading_singular_values
from jaxgeo.linalg.memory import free_memory

CUDA = ("jax-cuda12-plugin", "jax-cuda13-plugin", "nvidia-cublas-cu12", "nvidia-cusolver-cu12", "nvidia-cublas")
VARIABLES = (
    "JAX_COMPILATION_CACHE_DIR",
    "JAX_DISABLE_MOST_OPTIMIZATIONS",
    "NVIDIA_TF32_OVERRIDE",
    "OPENBLAS_NUM_THREADS",
    "XLA_FLAGS",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
)
# By name: dtype, and what float32 products may be rounded to.
ARITHMETIC = {
    "float64": (jnp.float64, "highest"),
    "float32": (jnp.float32, "highest"),
    "float32, TF32": (jnp.float32, "tensorfloat32"),
}


def with_precision(call: Callable[[], Any], precision: str) -> Callable[[], Any]:
    """The same call with this precision of float32 products, unless the called code sets its own."""

    def run() -> Any:
        with jax.default_matmul_precision(precision):
            return call()

    return run


def sizes(problem: jg.Problem, params: Any) -> Result:
    found = describe(problem, params)
    return {key: found[key] for key in ("N", "QN", "K", "dtype", "predicted_gflop")}


def step_cost(widths: Sequence[int], num_rows: int) -> Result:
    """A damped lift against a gradient, a step of Adam and a dense D, in float32.

    The last three use TF32 if JAX does by default, unless the row says otherwise; G, and D itself, never use it.
    """
    problem, params = network(widths, num_rows // widths[-1])
    found = {"widths": widths, "damping": DAMPING, **sizes(problem, params)}
    # D itself, and the two copies of it that DDᵀ needs.
    needed, free = 3 * 4 * found["QN"] * found["K"], free_memory()
    fits = needed <= free
    calls = our_calls(problem, params, dense=fits) | {"Adam step": adam_call(problem, params)}
    if fits:
        calls["dense Jacobian, no TF32"] = with_precision(calls["dense Jacobian"], "highest")
    rows = measure(calls)
    if not fits:
        reason = f"D and two copies take {needed / 2**30:.3g} GiB, and {free / 2**30:.3g} GiB are free"
        rows["dense Jacobian"] = {"skipped": reason}
    return found | {"rows": rows}


def adam_call(problem: jg.Problem, params: Any) -> Callable[[], Any]:
    tx = optax.adam(1e-3)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        updates, state = tx.update(jax.grad(problem.cost)(params), state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    return lambda: step(params, state)


def throughput(matmul_size: int, widths: Sequence[int], num_samples: int) -> Iterator[Result]:
    """TFlop/s of assembling G and of its Cholesky factorisation, compared with a large matrix product.

    The flops of G are those of its plan, which counts bytes moved by elementwise products as flops. The time includes
    the forward pass and the Q backward passes for the factors, but the plan does not: `passes_gflop` estimates them.
    """
    jax.config.update("jax_enable_x64", True)
    result = {"matmul_size": matmul_size, "matmul": matmuls(matmul_size)}
    yield result
    yield result | gram_and_cholesky(result["matmul"], widths, num_samples)


def matmuls(size: int) -> Result:
    product = jax.jit(jnp.matmul)
    calls = {}
    for name, (dtype, precision) in ARITHMETIC.items():
        left, right = (jr.normal(key, (size, size), dtype) for key in jr.split(jr.key(0)))
        calls[name] = with_precision(functools.partial(product, left, right), precision)
    return with_rates(measure(calls), 2 * size**3 / 1e9)


def with_rates(rows: Result, gflop: float, peaks: Result | None = None) -> Result:
    """Rows of `measure` with TFlop/s, and their share of the peak of the same name."""
    for name, row in rows.items():
        if "median_ms" in row:
            row["tflops"] = gflop / row["median_ms"]
            peak = (peaks or {}).get(name, {}).get("tflops")
            if peak is not None:
                row["of_matmul"] = row["tflops"] / peak
    return rows


def gram_and_cholesky(peaks: Result, widths: Sequence[int], num_samples: int) -> Result:
    problem, params = network(widths, num_samples)
    found = {"widths": widths, **sizes(problem, params)}

    @eqx.filter_jit
    def gram(params: Any, dtype: Any) -> jax.Array:
        return problem.gram(params).as_matrix(dtype)

    @jax.jit
    def cholesky(matrix: jax.Array) -> jax.Array:
        return jax.lax.linalg.cholesky(matrix, symmetrize_input=False)

    matrix = gram(params, jnp.float64)
    diagonal = jnp.arange(len(matrix))
    # Damp by the whole mean eigenvalue: a factorisation that stops at a negative pivot would appear too fast.
    matrix = matrix.at[diagonal, diagonal].add(jnp.trace(matrix) / len(matrix))
    assemble, factor = {}, {}
    for name, (dtype, precision) in ARITHMETIC.items():
        assemble[name] = with_precision(functools.partial(gram, params, dtype), precision)
        factor[name] = with_precision(functools.partial(cholesky, matrix.astype(dtype)), precision)
    rows = with_rates(measure(factor), len(matrix) ** 3 / 3e9, peaks)
    for name, call in factor.items():
        if "median_ms" in rows[name] and not bool(jnp.isfinite(call()[-1, -1])):
            rows[name] = {"failed": "the factor is not finite"}
    passes = 2 * found["K"] * found["N"] * (1 + widths[-1]) / 1e9
    return found | {
        "passes_gflop": passes,
        "gram": with_rates(measure(assemble), found["predicted_gflop"], peaks),
        "cholesky": rows,
    }


def accuracy(widths: Sequence[int], num_samples: int) -> Iterator[Result]:
    """|θ̇ − θ̇*| / |θ̇*| of a gradient and of lifts in float32, where θ̇* is in float64 from the same float32 numbers.

    The lifted v is computed without TF32, as in the optimizers.
    """
    jax.config.update("jax_enable_x64", True)
    single = network(widths, num_samples)
    double = jax.tree.map(lambda leaf: leaf.astype(jnp.float64) if eqx.is_inexact_array(leaf) else leaf, single)
    with jax.default_matmul_precision("highest"):
        calls, exact = step_calls(*single), step_calls(*double, dense=False)

    def errors(name: str) -> Result:
        reference = flat(exact[reference_of(name)]())
        found = {}
        for precision in ("highest", "tensorfloat32"):
            error = jnp.linalg.norm(flat(with_precision(calls[name], precision)()) - reference)
            found[precision] = float(error / jnp.linalg.norm(reference))
        return found

    for found in each(errors, {name: (name,) for name in calls}):
        yield {"widths": widths, **sizes(*single), "damping": DAMPING, "relative_errors": found}


UNDAMPED = "jaxgeo, default solver, undamped"


def step_calls(problem: jg.Problem, params: Any, dense: bool = True) -> dict[str, Callable[[], Any]]:
    velocity = -problem.loss.gradient(problem.outputs(params))
    return our_calls(problem, params, dense=dense) | {UNDAMPED: lambda: jg.lift(problem, params, velocity)}


def reference_of(name: str) -> str:
    """The damped lifts compute the same step with different solvers."""
    return name if name in ("gradient", UNDAMPED) else "jaxgeo, default solver"


def flat(tree: Any) -> jax.Array:
    return ravel_pytree(tree)[0].astype(jnp.float64)


def equation(
    make: Callable[..., jg.equations.Equation],
    limit_s: float,
    every: int,
    updates: int = 10**6,
    widths: tuple[int, ...] | None = None,
    counts: tuple[int, int] | None = None,
) -> Iterator[Result]:
    """The default optimizer on fresh points at every update, in float64, from seed 0."""
    # This case needs packages that the other cases do not.
    from benchmarks.equations import train

    jax.config.update("jax_enable_x64", True)
    ready = make() if widths is None else make(widths)
    ready = ready if counts is None else dataclasses.replace(ready, counts=counts)
    result = {"widths": ready.widths, "points": ready.counts}
    result |= sizes(ready.problem(ready.points(jr.key(0))), ready.init(jr.key(0)))
    yield result
    yield result | train(ready, 0, updates, limit_s, every, fresh=True)


def update_parts(widths: tuple[int, ...], counts: tuple[int, int], directions: int) -> Iterator[Result]:
    """A default update on the residual of the 5-D Poisson equation, float64, and the parts it may consist of."""
    jax.config.update("jax_enable_x64", True)
    problem, params = poisson(widths, *counts)
    tx = jg.optim.adapted_levenberg_marquardt()
    state = tx.init(params)

    def of_params(call: Callable[[Any], Any]) -> Callable[[], Any]:
        compiled = eqx.filter_jit(call)
        return lambda: compiled(params)

    jacobian = jax.block_until_ready(of_params(lambda params: problem.jacobian(params).as_matrix())())
    gram = jacobian @ jacobian.T
    gram = gram + jnp.trace(gram) / len(gram) * jnp.eye(len(gram))
    cholesky, eigh = jax.jit(jax.lax.linalg.cholesky), jax.jit(jnp.linalg.eigh)
    leading = jax.jit(lambda matrix: leading_singular_values(matrix, (directions,), jnp.array(0), jr.key(0))[0].values)
    update = eqx.filter_jit(lambda params, state: tx.update(params, state, params, problem=problem))
    calls = {
        "gradient": of_params(lambda params: jax.grad(problem.cost)(params)),
        "dense Jacobian": of_params(lambda params: problem.jacobian(params).as_matrix()),
        "structured Gram": of_params(lambda params: problem.gram(params).as_matrix()),
        "Cholesky": lambda: cholesky(gram),
        "eigenvalues": lambda: eigh(gram),
        f"{directions} leading singular values": lambda: leading(jacobian),
        "update": lambda: update(params, state),
    }
    for found in each(lambda name: measure({name: calls[name]}, 5)[name], {name: (name,) for name in calls}):
        yield {"widths": widths, **sizes(problem, params), "rows": found}


def steps(*points: tuple[int, int]) -> dict[str, tuple[Callable[[], Result], float]]:
    """For networks 64-w-w-w-8, by numbers of rows and w; K is about 1e5, 1.1e6 and 1.28e7 at 208, 736 and 2512."""
    return {
        f"step_{rows}_{width}": (functools.partial(step_cost, (64, width, width, width, 8), rows), 110.0)
        for rows, width in points
    }


# Several outputs a sample, one, and more rows; K is about 8.5e6.
GRAMS = {
    f"gram_{samples * outputs}_{outputs}": (
        functools.partial(throughput, 8192, (64, 2048, 2048, 2048, outputs), samples),
        120.0,
    )
    for outputs, samples in ((8, 512), (1, 4096), (8, 2048))
}
# The most informative first.
FULL = {
    **steps((4096, 208), (4096, 2512)),
    "update": (functools.partial(update_parts, (64, 64, 48, 48), (3000, 500), 640), 90.0),
    "p5": (functools.partial(equation, jg.equations.poisson_5d, 45.0, 20), 120.0),
    "mnist": (functools.partial(images, mnist_5k, 512, (128, 512), (3e-4, 1e-3, 3e-3), 6.0), 120.0),
    "accuracy": (functools.partial(accuracy, (64, 256, 256, 256, 10), 256), 110.0),
    "p10": (functools.partial(equation, jg.equations.harmonic_10d, 15.0, 5), 90.0),
    "p100": (functools.partial(equation, jg.equations.poisson_100d, 10.0, 10), 90.0),
    **GRAMS,
    **steps((1024, 208), (1024, 736), (1024, 2512), (4096, 736), (16384, 208), (16384, 736), (16384, 2512)),
}
SMALL = {
    "step_32_16": (functools.partial(step_cost, (64, 16, 16, 16, 8), 32), 60.0),
    "gram_32_2": (functools.partial(throughput, 64, (4, 16, 16, 2), 16), 60.0),
    "update": (functools.partial(update_parts, (8,), (24, 12), 6), 60.0),
    "accuracy": (functools.partial(accuracy, (4, 16, 16, 2), 12), 60.0),
    "mnist": (functools.partial(images, small_digits, 16, (20,), (1e-3,), 0.2), 60.0),
    **{
        name: (functools.partial(equation, make, 1.0, 1, 2, (8,), (12, 6)), 60.0)
        for name, make in (
            ("p5", jg.equations.poisson_5d),
            ("p10", jg.equations.harmonic_10d),
            ("p100", jg.equations.poisson_100d),
        )
    },
}


def measured(run: Callable[[], Result | Iterator[Result]], needs_gpu: bool) -> Iterator[Result]:
    """The results, with their origin."""
    # Numbers from a CPU must not be mistaken for those of a GPU.
    if needs_gpu and jax.default_backend() != "gpu":
        raise RuntimeError(f"JAX finds no GPU, only {jax.devices()}; --quick runs on any device")
    where = {"environment": environment(*CUDA)}
    result = run()
    for found in [result] if isinstance(result, dict) else result:
        yield where | {"settings": settings()} | found


def cases(of: dict[str, tuple[Callable[[], Result | Iterator[Result]], float]], needs_gpu: bool) -> dict[str, Case]:
    return {name: Case(functools.partial(measured, run, needs_gpu), limit_s) for name, (run, limit_s) in of.items()}


def settings() -> Result:
    stats = jax.local_devices()[0].memory_stats() or {}
    peak = stats.get("peak_bytes_in_use")
    return {
        "backend": jax.default_backend(),
        "jax_enable_x64": jax.config.jax_enable_x64,  # pyright: ignore[reportAttributeAccessIssue]
        "jax_default_matmul_precision": jax.config.jax_default_matmul_precision,  # pyright: ignore[reportAttributeAccessIssue]
        "variables": {name: os.environ.get(name) for name in VARIABLES},
        "device_memory_mib": stats.get("bytes_limit", 0) / 2**20,
        "peak_memory_mib": peak_memory_mib() if peak is None else peak / 2**20,
    }


if __name__ == "__main__":
    run_cases("gpu", cases(FULL, needs_gpu=True), cases(SMALL, needs_gpu=False))
