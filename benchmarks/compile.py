"""How much is compiled before the first step: lines of StableHLO and CPU seconds, compared with other libraries."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import optimistix as optx

import jaxgeo as jg
from benchmarks.harness import Case, environment, run_cases
from jaxgeo.equations import Network
from jaxgeo.integrate.field import Field

WIDTHS, SAMPLES = (5, 32, 32, 1), 100


class Program(NamedTuple):
    """A function and its arguments, compiled but never run."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


def programs(num_samples: int = SAMPLES) -> dict[str, Program]:
    """An MLP with 1281 parameters and L2, in float64: updates, lifts and integrations."""
    keys = jr.split(jr.key(1), 3)
    inputs = jr.normal(keys[0], (num_samples, WIDTHS[0]), jnp.float64)
    targets = jr.normal(keys[1], (num_samples, WIDTHS[-1]), jnp.float64)
    problem, params = jg.supervised(Network(WIDTHS, jnp.float64, key=jr.key(0)), inputs, targets)
    velocity = jr.normal(keys[2], targets.shape, jnp.float64)
    flow, end = jg.AdaptedFlow(), float(num_samples)

    def update(tx: optax.GradientTransformationExtraArgs) -> Program:
        def step(params: Any, state: Any, problem: jg.Problem) -> Any:
            return tx.update(params, state, params, problem=problem)

        return Program(step, (params, tx.init(params), problem))

    search = optax.lbfgs()

    def lbfgs(arrays: Any, state: Any, rest: Any, problem: jg.Problem) -> Any:
        def cost(arrays: Any) -> jax.Array:
            return problem.cost(eqx.combine(arrays, rest))

        value, grad = optax.value_and_grad_from_state(cost)(arrays, state=state)
        return search.update(grad, state, arrays, value=value, grad=grad, value_fn=cost)

    def gradient(arrays: Any, rest: Any, problem: jg.Problem) -> Any:
        return jax.grad(lambda arrays: problem.cost(eqx.combine(arrays, rest)))(arrays)

    def least_squares(arrays: Any, rest: Any, problem: jg.Problem) -> Any:
        def residual(arrays: Any, _: Any) -> jax.Array:
            return problem.loss.deviation(problem.outputs(eqx.combine(arrays, rest)))

        solver = optx.LevenbergMarquardt(1e-8, 1e-8)
        return optx.least_squares(residual, solver, arrays, throw=False, max_steps=256).value

    def integrate(problem: jg.Problem, params: Any) -> Any:
        restricted, trainable = problem.restrict(params)
        return dfx.diffeqsolve(
            dfx.ODETerm(Field(flow)),
            dfx.Tsit5(),
            0.0,
            end,
            None,
            trainable,
            args=restricted,
            stepsize_controller=dfx.PIDController(1e-6, 1e-9),
            throw=False,
        ).ys

    def to_time(problem: jg.Problem, params: Any) -> Any:
        return jg.solve_flow(problem, flow, params, s1=end, throw=False).costs

    def to_cost(problem: jg.Problem, params: Any) -> Any:
        return jg.solve_flow(problem, flow, params, cost_tol=1e-6, throw=False).costs

    arrays, rest = eqx.partition(params, eqx.is_array)
    return {
        "gradient": Program(gradient, (arrays, rest, problem)),
        "optax.lbfgs, an update": Program(lbfgs, (arrays, search.init(arrays), rest, problem)),
        "optimistix.LevenbergMarquardt, whole": Program(least_squares, (arrays, rest, problem)),
        "adapted_levenberg_marquardt, an update": update(jg.optim.adapted_levenberg_marquardt()),
        "adapted_momentum, an update": update(jg.optim.adapted_momentum(learning_rate=1e-2)),
        "lift": Program(jg.lift, (problem, params, velocity)),
        "lift, damped": Program(lambda *given: jg.lift(*given, damping=1e-3), (problem, params, velocity)),
        "AdaptedFlow, a velocity": Program(flow, (0.0, params, problem)),
        "diffrax.diffeqsolve of AdaptedFlow": Program(integrate, (problem, params)),
        "solve_flow to a time": Program(to_time, (problem, params)),
        "solve_flow to a cost": Program(to_cost, (problem, params)),
    }


def measured(rounds: int = 3) -> dict[str, Any]:
    """Medians over interleaved rounds, each of which compiles all again; their ratios also hold on a busy machine."""
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_enable_compilation_cache", False)
    lines: dict[str, int] = {}
    seconds: dict[str, dict[str, list[float]]] = {}
    for _ in range(rounds):
        for name, program in programs().items():
            jax.clear_caches()
            start = time.process_time()
            lowered = eqx.filter_jit(program.function).lower(*program.arguments)
            traced = time.process_time()
            lowered.compile()
            times = seconds.setdefault(name, {"trace_s": [], "compile_s": []})
            times["trace_s"].append(traced - start)
            times["compile_s"].append(time.process_time() - traced)
            lines[name] = lowered.as_text().count("\n")
    rows = {
        name: {"lines": lines[name], **{key: statistics.median(each) for key, each in times.items()}}
        for name, times in seconds.items()
    }
    return {"environment": environment(), "widths": list(WIDTHS), "N": SAMPLES, "rounds": rounds, "rows": rows}


if __name__ == "__main__":
    run_cases("compile", {"programs": Case(measured)}, {"programs": Case(lambda: measured(1))})
