"""A recurrent and an attentive network of realistic size: the plan of an update, and its time and memory beside it."""

import time
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

import jaxgeo as jg
from benchmarks.harness import Case, environment, peak_memory_mib, run_cases
from jaxgeo.linalg.planning.routes import RoutePlan


class Recurrent(eqx.Module):
    """The last hidden state of an LSTM, read out."""

    cell: eqx.nn.LSTMCell
    last: eqx.nn.Linear

    def __init__(self, features: int, units: int, outputs: int):
        first, second = jr.split(jr.key(0))
        self.cell = eqx.nn.LSTMCell(features, units, key=first, dtype=jnp.float32)
        self.last = eqx.nn.Linear(units, outputs, key=second, dtype=jnp.float32)

    def __call__(self, sequence: jax.Array) -> jax.Array:
        def step(carry: Any, x: jax.Array) -> tuple[Any, None]:
            return self.cell(x, carry), None

        still = jnp.zeros(self.cell.hidden_size, sequence.dtype)
        (hidden, _), _ = jax.lax.scan(step, (still, still), sequence)
        return self.last(hidden)


class Attentive(eqx.Module):
    """A block of attention and a layer beside it, averaged over tokens and read out."""

    attention: eqx.nn.MultiheadAttention
    layer: eqx.nn.MLP
    last: eqx.nn.Linear

    def __init__(self, heads: int, size: int, outputs: int):
        keys = jr.split(jr.key(0), 3)
        self.attention = eqx.nn.MultiheadAttention(heads, size, key=keys[0], dtype=jnp.float32)
        self.layer = eqx.nn.MLP(size, size, 2 * size, 1, jax.nn.gelu, key=keys[1], dtype=jnp.float32)
        self.last = eqx.nn.Linear(size, outputs, key=keys[2], dtype=jnp.float32)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        mixed = tokens + self.attention(tokens, tokens, tokens)
        mixed = mixed + jax.vmap(self.layer)(mixed)
        return self.last(jnp.mean(mixed, axis=0))


def measured(model: Any, inputs: jax.Array, targets: jax.Array, updates: int = 3) -> Iterator[dict[str, Any]]:
    """Updates of Levenberg–Marquardt on all samples: memory by XLA and by the system, seconds of the processor."""
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_enable_compilation_cache", False)
    inputs, targets = inputs.astype(jnp.float32), targets.astype(jnp.float32)
    problem, params = jg.supervised(model, inputs, targets)
    tx = jg.optim.adapted_levenberg_marquardt()
    state = tx.init(params)
    plan = problem.plan(params, damping=1.0)
    assembly = problem.gram(params).plan()
    result: dict[str, Any] = {
        "environment": environment(),
        "QN": plan.rows,
        "K": plan.columns,
        "plan": {route.label: _mib(route) for route in plan.routes if route.label.startswith("GramCholesky")},
        "chosen": plan.chosen.label,
        "leaves": [f"{leaf.name}: {leaf.route}" for leaf in assembly.leaves],
        "gram_gflop": sum(leaf.flops for leaf in assembly.leaves) / 1e9,
        "before_mib": peak_memory_mib(),
    }
    yield result

    def update(params: Any, state: Any, problem: jg.Problem) -> Any:
        step, state = tx.update(None, state, params, problem=problem)
        return eqx.apply_updates(params, step), state

    def gradient(params: Any, problem: jg.Problem) -> Any:
        return jax.grad(problem.cost)(params)

    arrays, rest = eqx.partition((params, state, problem), eqx.is_array)

    @jax.jit
    def step(arrays: Any) -> Any:
        return eqx.filter(update(*eqx.combine(arrays, rest)), eqx.is_array)

    @jax.jit
    def slope(arrays: Any) -> Any:
        params, _, problem = eqx.combine(arrays, rest)
        return gradient(params, problem)

    start = time.process_time()
    compiled = step.lower(arrays).compile()
    memory = compiled.memory_analysis()
    result |= {
        "compile_cpu_s": time.process_time() - start,
        "xla_temporary_mib": None if memory is None else memory.temp_size_in_bytes / 2**20,
    }
    yield result
    slopes = slope.lower(arrays).compile()
    seconds: dict[str, list[list[float]]] = {"update": [], "gradient": []}
    costs: list[float] = []
    for _ in range(updates):
        before = time.perf_counter(), time.process_time()
        found = jax.block_until_ready(compiled(arrays))
        seconds["update"].append([time.perf_counter() - before[0], time.process_time() - before[1]])
        arrays = (*found, arrays[2])
        costs.append(float(found[1].info.new_cost))
        before = time.perf_counter(), time.process_time()
        jax.block_until_ready(slopes(arrays))
        seconds["gradient"].append([time.perf_counter() - before[0], time.process_time() - before[1]])
        result |= {"seconds_wall_and_cpu": seconds, "costs": costs, "peak_mib": peak_memory_mib()}
        yield result


def _mib(route: RoutePlan) -> dict[str, float]:
    parts = {"matrices": route.matrices, "assembly": route.assembly, "linearisation": route.linearisation}
    return {name: size / 2**20 for name, size in (parts | {"lifts": route.lifts, "peak": route.bytes}).items()}


def recurrent(samples: int = 2000, length: int = 50, units: int = 100) -> Iterator[dict[str, Any]]:
    """The sum of the values that a second channel marks, as in the adding problem."""
    first, second = jr.split(jr.key(1))
    values = jr.uniform(first, (samples, length))
    marked = (jr.uniform(second, (samples, length)) < 2 / length).astype(values.dtype)
    targets = jnp.sum(values * marked, axis=1, keepdims=True)
    return measured(Recurrent(2, units, 1), jnp.stack([values, marked], axis=-1), targets)


def attentive(samples: int = 500, tokens: int = 64, size: int = 64, heads: int = 4) -> Iterator[dict[str, Any]]:
    """How much of one token the others have, by the largest product with it."""
    values = jr.normal(jr.key(1), (samples, tokens, size)) / size**0.5
    targets = jnp.max(jnp.einsum("nts,ns->nt", values[:, 1:], values[:, 0]), axis=1, keepdims=True)
    return measured(Attentive(heads, size, 1), values, targets)


if __name__ == "__main__":
    run_cases(
        "models",
        {"lstm": Case(recurrent), "attention": Case(attentive)},
        {"lstm": Case(lambda: recurrent(100, 10, 8)), "attention": Case(lambda: attentive(20, 8, 8))},
    )
