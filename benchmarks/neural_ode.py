"""A neural differential equation through a solver and its default adjoint, on noisy spirals, against Adam.

Every method has the same seconds of the processor, with tracing and compiling among them.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax

import jaxgeo as jg
from benchmarks.harness import Case, environment, run_cases

SPIRALS, TIMES, NOISE = 20, 24, 0.05
RATES = (1e-2, 3e-3, 3e-2)
SEEDS = (4, 5, 6)
# The solver's error is noise in the cost, and no optimizer that compares costs can see below it.
TOLERANCE = 1e-5
MATRIX = ((-0.1, 2.0), (-2.0, -0.1))


class Flow(eqx.Module):
    """From a start to the solution at the times, for a field that may have parameters."""

    field: Callable[[jax.Array], jax.Array]
    tolerance: float

    def __call__(self, start: jax.Array) -> jax.Array:
        return dfx.diffeqsolve(
            dfx.ODETerm(lambda t, y, args: self.field(y)),
            dfx.Tsit5(),
            0.0,
            6.0,
            0.1,
            start,
            saveat=dfx.SaveAt(ts=jnp.linspace(0.0, 6.0, TIMES)),
            stepsize_controller=dfx.PIDController(rtol=self.tolerance, atol=1e-3 * self.tolerance),
        ).ys


def starts(seed: int) -> jax.Array:
    """Points between 0.6 and 1.2 from the axes, in all four quadrants."""
    first, second = jr.split(jr.key(seed))
    return jr.uniform(first, (SPIRALS, 2), minval=0.6, maxval=1.2) * jr.rademacher(second, (SPIRALS, 2))


def race(
    budget_s: float = 60.0, rates: tuple[float, ...] = RATES, seeds: tuple[int, ...] = SEEDS
) -> Iterator[dict[str, Any]]:
    """Errors (root mean squares) on the noisy data, on the spirals behind them, and on spirals from other starts.

    Each seed is that of a network; the data are the same.
    """
    jax.config.update("jax_enable_compilation_cache", False)
    spirals = jax.jit(jax.vmap(Flow(lambda y: jnp.asarray(MATRIX) @ y**3, 1e-6)))
    here, elsewhere = starts(1), starts(2)
    clean, new = spirals(here), spirals(elsewhere)
    noisy = clean + NOISE * jr.normal(jr.key(3), clean.shape)
    ours = jg.optim.adapted_levenberg_marquardt()
    runs: dict[str, tuple[Any, int]] = {"adapted_levenberg_marquardt": (ours, 1)}
    runs |= {f"optax.adam({rate:g})": (optax.adam(rate), 20) for rate in rates}
    result: dict[str, Any] = {
        "environment": environment(),
        "noise": float(jnp.sqrt(jnp.mean((noisy - clean) ** 2))),
        "budget_cpu_s": budget_s,
        "columns": ["updates", "cpu_s", "data", "spirals", "other starts"],
        "seeds": {},
    }
    for seed in seeds:
        network = eqx.nn.MLP(2, 2, 32, 2, activation=jax.nn.softplus, key=jr.key(seed))
        problem, params = jg.supervised(Flow(network, TOLERANCE), here, noisy)
        whole = Flow(network, TOLERANCE)

        @jax.jit
        def errors(params: Any, whole: Flow = whole) -> tuple[jax.Array, ...]:
            flow = jax.vmap(eqx.combine(params, whole))
            found = flow(here)
            pairs = (found, noisy), (found, clean), (flow(elsewhere), new)
            return tuple(jnp.sqrt(jnp.mean((a - b) ** 2)) for a, b in pairs)

        result |= {"K": problem.num_params(params), "QN": problem.num_rows(params)}
        rows: dict[str, Any] = {"start": [float(error) for error in errors(params)]}
        result["seeds"][str(seed)] = rows
        for name, (tx, every) in runs.items():
            # Each run traces and compiles everything itself, as a user's first run does.
            jax.clear_caches()
            errors(params)
            rows[name] = []
            for row in trained(tx, every, problem, params, errors, budget_s):
                rows[name].append(row)
                yield result


def trained(
    tx: Any, every: int, problem: jg.Problem, params: Any, errors: Callable[[Any], Any], budget_s: float
) -> Iterator[list[float]]:
    """Rows at the first call and at every tenth of the budget."""
    spent, shown, updates, state = 0.0, 0.0, 0, tx.init(params)
    geometric = every == 1

    @jax.jit
    def call(params: Any, state: Any) -> Any:
        def update(carry: Any, _: None) -> tuple[Any, None]:
            params, state = carry
            if geometric:
                step, state = tx.update(None, state, params, problem=problem)
            else:
                step, state = tx.update(jax.grad(problem.cost)(params), state, params)
            return (eqx.apply_updates(params, step), state), None

        return jax.lax.scan(update, (params, state), length=every)[0]

    while spent < budget_s:
        before = time.process_time()
        params, state = jax.block_until_ready(call(params, state))
        spent, updates = spent + time.process_time() - before, updates + every
        if updates == every or spent - shown > budget_s / 10 or spent >= budget_s:
            shown = spent
            yield [updates, round(spent, 2), *(float(error) for error in errors(params))]


if __name__ == "__main__":
    run_cases(
        "neural_ode",
        {"spirals": Case(race)},
        {"spirals": Case(lambda: race(35.0, RATES[:1], SEEDS[:1]))},
    )
