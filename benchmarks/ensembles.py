"""An ensemble of orbits in one program by `vmap`, compared with the same orbits one after the other."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

import jaxgeo as jg
from benchmarks.harness import Case, environment, measure, run_cases

MEMBERS = 32
REPEATS = 100


def repeated(function: Callable[[Any], Any], start: Any) -> Callable[[], Any]:
    """A program that calls the function 100 times, each time at slightly different parameters."""

    def step(point: Any, _: None) -> tuple[Any, None]:
        return jax.tree.map(lambda leaf, change: leaf + 1e-9 * change, point, function(point)), None

    run = jax.jit(lambda start: jax.lax.scan(step, start, None, length=REPEATS)[0])
    return lambda: run(start)


def solved(matrix: jax.Array) -> jax.Array:
    """A Cholesky factorisation and its two triangular solves, spread over the matrix."""
    factor = jax.scipy.linalg.cho_factor(matrix, lower=True)
    return jnp.zeros_like(matrix).at[:, 0].set(jax.scipy.linalg.cho_solve(factor, matrix[:, 0]))


def compare(num_samples: int, width: int) -> dict[str, Any]:
    """32 initialisations of a tanh network on a 1-D regression, each integrated to s/N = 8 in float64."""
    jax.config.update("jax_enable_x64", True)
    inputs = jnp.linspace(-1.0, 1.0, num_samples)[:, None]
    template = eqx.nn.MLP(1, 1, width, 1, activation=jnp.tanh, key=jr.key(0))
    problem, params = jg.supervised(template, inputs, jnp.sin(3 * inputs))

    def member(key: jax.Array) -> Any:
        model = eqx.nn.MLP(1, 1, width, 1, activation=jnp.tanh, key=key)
        return problem.partition(eqx.filter(model, eqx.is_inexact_array))[0]

    def end(params: Any) -> tuple[Any, jax.Array, jax.Array]:
        sol = jg.solve_flow(
            problem, jg.AdaptedFlow(), params, s1=8.0 * num_samples, max_steps=512, rank_check=False, throw=False
        )
        return sol.params, sol.final_cost, sol.stats["num_steps"]

    keys = jr.split(jr.key(1), MEMBERS)
    ensemble = jax.vmap(member)(keys)
    members = [jax.tree.map(lambda leaf, index=index: leaf[index], ensemble) for index in range(MEMBERS)]
    together, alone = jax.jit(jax.vmap(end)), jax.jit(end)
    calls: dict[str, Callable[[], Any]] = {
        "vmap": lambda: together(ensemble),
        "one by one": lambda: [alone(member) for member in members],
    }
    rows = measure(calls, repeats=7)
    # The time of a velocity inside a program, without the overhead of a call, and of its factorisations of DDᵀ alone.
    flow = jg.AdaptedFlow()
    gram = jnp.broadcast_to(jnp.eye(num_samples) + 0.1, (MEMBERS, num_samples, num_samples))
    inner = measure(
        {
            "32 velocities by vmap": repeated(jax.vmap(lambda params: flow(0.0, params, problem)), ensemble),
            "1 velocity": repeated(lambda params: flow(0.0, params, problem), members[0]),
            "32 factors and solves by vmap": repeated(jax.vmap(solved), gram),
            "1 factor and solve": repeated(solved, gram[0]),
        }
    )
    steps = together(ensemble)[2]
    difference = jnp.max(jnp.abs(together(ensemble)[1] / jnp.stack([alone(member)[1] for member in members]) - 1))
    return environment() | {
        "N": num_samples,
        "K": problem.num_params(params),
        "members": MEMBERS,
        "dtype": "float64",
        "mean_steps": float(jnp.mean(steps)),
        "most_steps": int(jnp.max(steps)),
        "largest_relative_difference_of_final_costs": float(difference),
        "rows": rows,
        "microseconds_inside_a_program": {name: 1e3 * row["median_ms"] / REPEATS for name, row in inner.items()},
        "times_faster": rows["one by one"]["median_ms"] / rows["vmap"]["median_ms"],
    }


if __name__ == "__main__":
    run_cases("ensembles", {"N=8": Case(lambda: compare(8, 16))})
