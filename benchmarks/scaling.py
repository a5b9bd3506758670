"""Lifts at the limit of one device's memory: `python -m benchmarks.scaling`."""

import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

import jaxgeo as jg
from benchmarks.harness import Case, environment, peak_memory_mib, run_cases
from benchmarks.lift_speed import network
from jaxgeo.linalg import CG, GramCholesky, Nystrom

RTOL = 1e-3


def products_flops(problem: jg.Problem, params: Any) -> float:
    """Flops of a JVP and a VJP of a network of dense layers: three products with each kernel for each sample."""
    return 3 * 2.0 * problem.num_samples * problem.num_params(params)


def measure_lift(problem: jg.Problem, params: Any, solver: Any, damping: float) -> dict[str, Any]:
    """Seconds to compile and to run one damped lift, and the number of conjugate-gradient steps."""
    velocity = jax.random.normal(jax.random.key(2), problem.outputs(params).shape, jnp.float32)

    arrays, static = eqx.partition((problem, params, velocity), eqx.is_array)

    def call(arrays: Any) -> tuple[jax.Array, jax.Array]:
        problem, params, velocity = eqx.combine(arrays, static)
        jacobian = problem.jacobian(params)
        if isinstance(solver, CG):
            psi, steps = solver.factorise(jacobian, damping).iterations.iterate(velocity)
            solution = jacobian.T.mv(psi)
        else:
            solution, _ = solver.solve(jacobian, velocity, damping)
            steps = jnp.zeros((), jnp.int32)
        norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(solution)))
        return norm, steps

    start = time.perf_counter()
    compiled = jax.jit(call).lower(arrays).compile()
    ready = time.perf_counter()
    norm, steps = jax.block_until_ready(compiled(arrays))
    seconds = time.perf_counter() - ready
    memory = compiled.memory_analysis()
    return {
        "compile_s": ready - start,
        "seconds": seconds,
        "steps": int(steps),
        "norm": float(norm),
        "allocated_mib": (memory.temp_size_in_bytes + memory.argument_size_in_bytes) / 2**20,
    }


def describe(problem: jg.Problem, params: Any, damping: float) -> dict[str, Any]:
    routes = problem.plan(params, damping=damping).routes
    return {
        "N": problem.num_samples,
        "QN": problem.num_rows(params),
        "K": problem.num_params(params),
        "dtype": "float32",
        "damping": damping,
        "planned_mib": {route.label: route.bytes / 2**20 for route in routes},
        "gram_gflop": sum(leaf.flops for leaf in problem.gram(params).plan().leaves) / 1e9,
        "products_gflop": products_flops(problem, params) / 1e9,
        "environment": environment(),
    }


def rates(dtype: Any = jnp.float32) -> dict[str, Any]:
    """Rates of this machine: flop/s of a product of two matrices, bytes/s of a matrix times a vector."""
    side = 2048
    matrix = jax.random.normal(jax.random.key(0), (side, side), dtype)
    long = jax.random.normal(jax.random.key(0), (8 * side, 2 * side), dtype)
    calls = (jax.jit(lambda a: a @ a), matrix, 2.0 * side**3), (jax.jit(lambda a: a @ a[0]), long, 1.0 * long.nbytes)
    found = []
    for call, argument, amount in calls:
        jax.block_until_ready(call(argument))
        times = []
        for _ in range(5):
            start = time.perf_counter()
            jax.block_until_ready(call(argument))
            times.append(time.perf_counter() - start)
        found.append(amount / sorted(times)[2])
    return {"gflops": found[0] / 1e9, "gbytes": found[1] / 1e9}


def large(hold_gram: bool) -> dict[str, Any]:
    """QN = 32 768 by conjugate gradients, to a relative residual of RTOL."""
    problem, params = network([64, 256, 256, 8], 4096)
    solver = CG(rtol=RTOL, preconditioner=Nystrom(rank=128), hold_gram=hold_gram)
    found = describe(problem, params, damping := 0.1) | {"rtol": RTOL, "rates": rates()}
    found |= {"lift": measure_lift(problem, params, solver, damping), "peak_memory_mib": peak_memory_mib()}
    n, speed = found["QN"], found["rates"]
    sketched = found["lift"]["steps"] + 128
    if hold_gram:
        # G is read once a step; the sketch reads it once for 16 columns.
        moved = 4.0 * n**2 * (found["lift"]["steps"] + 128 / 16) / 1e9
        model = found["gram_gflop"] / speed["gflops"] + moved / speed["gbytes"]
    else:
        model = sketched * found["products_gflop"] / speed["gflops"]
    return found | {"model_s": model}


def wide() -> dict[str, Any]:
    """K = 1.28·10⁷ with QN = 2 048 in one lift by the Gram matrix and its factorisation."""
    problem, params = network([64, 2512, 2512, 2512, 8], 256)
    found = describe(problem, params, damping := 1e-3) | {"rates": rates()}
    found |= {
        "lift": measure_lift(problem, params, GramCholesky(refinements=0), damping),
        "peak_memory_mib": peak_memory_mib(),
    }
    n, gflops = found["QN"], found["rates"]["gflops"]
    # The factors are Q backward passes to the hidden layers, the lift and its report are two products with D.
    factors = found["products_gflop"] / 3 * (1 + 8)
    work = found["gram_gflop"] + factors + 2 * found["products_gflop"] + n**3 / 3e9
    return found | {"model_s": work / gflops}


if __name__ == "__main__":
    run_cases(
        "scaling",
        {"large_products": Case(lambda: large(False)), "large_held": Case(lambda: large(True)), "wide": Case(wide)},
    )
