"""The lift by products with D alone, at a large size: `python -m benchmarks.lift_iterative`."""

import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

import jaxgeo as jg
from benchmarks.harness import Case, environment, peak_memory_mib, run_cases
from jaxgeo.linalg import CG, Nystrom

RTOL = 1e-6


def conjugate_gradients() -> dict[str, Any]:
    """CG with and without the preconditioner, QN = 8192 and K above a million; seconds include compilation."""
    jax.config.update("jax_enable_x64", True)
    before = environment()
    num_samples, num_outputs, rank = 1024, 8, 256
    model = eqx.nn.MLP(64, num_outputs, 704, 3, activation=jnp.tanh, key=jax.random.key(0))
    inputs = jax.random.normal(jax.random.key(1), (num_samples, 64))
    problem, params = jg.supervised(model, inputs, jnp.zeros((num_samples, num_outputs)))
    velocity = jax.random.normal(jax.random.key(2), (num_samples, num_outputs))
    found: dict[str, Any] = {
        "environment": before,
        "dtype": "float64",
        "QN": problem.num_rows(params),
        "K": problem.num_params(params),
        "rtol": RTOL,
        "sketch": rank,
    }
    for name, preconditioner in (("nystrom", Nystrom(rank=rank, batch_size=8)), ("none", None)):
        start = time.perf_counter()
        residual, steps = jax.block_until_ready(iterate(problem, params, velocity, preconditioner))
        seconds = time.perf_counter() - start
        found[name] = {"steps": int(steps), "residual": float(residual), "seconds": seconds}
    return found | {"peak_memory_mib": peak_memory_mib()}


@eqx.filter_jit
def iterate(problem, params, velocity, preconditioner):
    jacobian = problem.jacobian(params)
    solver = CG(rtol=RTOL, max_steps=1000, preconditioner=preconditioner)
    psi, steps = solver.factorise(jacobian).iterations.iterate(velocity)
    solution = jacobian.T.mv(psi)
    return jnp.linalg.norm(jacobian.mv(solution) - velocity) / jnp.linalg.norm(velocity), steps


if __name__ == "__main__":
    run_cases("lift_iterative", {"conjugate_gradients": Case(conjugate_gradients)})
