"""Memory of one process over fits of many shapes and over many updates: arrays, and programs that JAX keeps."""

import contextlib
import ctypes
import gc
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

import jaxgeo as jg
from benchmarks.harness import Case, environment, run_cases
from jaxgeo.fitting import Progress

METHODS = ("levenberg-marquardt", "adam", "adapted")
SHAPES = 50


class Compiled:
    """Counts the programs that were compiled, or read from a cache, since it was created."""

    def __init__(self) -> None:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._hear)

    def _hear(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        self.count += event.endswith("backend_compile_duration")


def held() -> dict[str, float]:
    """Resident MiB of this process, after free memory went back to the system, and the number of live JAX arrays."""
    gc.collect()
    # Only glibc has it; with other allocators, free memory that they keep counts too.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    arrays = jax.live_arrays()
    return {
        "resident_mib": round(pages * 4096 / 2**20, 1),
        "live_arrays": len(arrays),
        "live_bytes": sum(array.nbytes for array in arrays),
    }


def fit_of_shape(count: int, **options: Any) -> None:
    """A network with its own width on this number of samples, with each method in turn, and with `progress=`."""
    inputs = jr.normal(jr.key(count), (count, 2), jnp.float64)
    model = eqx.nn.MLP(2, 1, 4 + count % 7, 1, activation=jnp.tanh, key=jr.key(0))
    heard: list[float] = []
    jg.fit(
        model,
        inputs,
        jnp.sin(3 * inputs[:, :1]),
        method=METHODS[count % len(METHODS)],
        max_steps=6,
        tol=1e-30,
        rank_check=False,
        progress=lambda progress: heard.append(progress.cost),
        **options,
    )


def over_shapes(shapes: int = SHAPES, every: int = 10) -> Iterator[dict[str, Any]]:
    """Fits of this number of shapes: each once, all again twice, and with `jax.clear_caches()` after each."""
    jax.config.update("jax_enable_x64", True)
    compiled, rounds = Compiled(), {}
    with tempfile.TemporaryDirectory() as folder:
        # A program read from the cache takes the same memory as a compiled one, without the time to compile.
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        fit_of_shape(shapes)
        for name in ("new shapes", "the same again", "the same a third time", "cleared after each"):
            rows, before = [held() | {"fits": 0}], compiled.count
            for number in range(shapes):
                fit_of_shape(shapes + number)
                if name == "cleared after each":
                    eqx.clear_caches()
                    jax.clear_caches()
                if (number + 1) % every == 0:
                    rows.append(held() | {"fits": number + 1})
            rounds[name] = {"compiled_or_read": compiled.count - before, "rows": rows}
            yield {"environment": environment(), "methods": METHODS, "rounds": rounds}


def over_updates(updates: int = 10_000, every: int = 1000) -> Iterator[dict[str, Any]]:
    """One fit of this number of updates, saved in a folder and measured after each part."""
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_enable_compilation_cache", False)
    inputs = jnp.linspace(-1.0, 1.0, 20)[:, None]
    model = eqx.nn.MLP(1, 1, 16, 1, activation=jnp.tanh, key=jr.key(0))
    compiled, methods = Compiled(), {}
    for method in ("adapted-momentum", "adam"):
        rows: list[dict[str, float]] = []

        def look(progress: Progress, model: Any, rows: list[dict[str, float]] = rows) -> None:
            rows.append(held() | {"updates": progress.step, "compiled_or_read": compiled.count})

        with tempfile.TemporaryDirectory() as folder:
            jg.fit(
                model,
                inputs,
                jnp.sin(8 * inputs),
                method=method,
                batch_size=5,
                tol=0,
                max_steps=updates,
                record_every=every,
                callbacks=[look],
                folder=folder,
                keep_every=0,
            )
        methods[method] = rows
        yield {"environment": environment(), "methods": methods}


if __name__ == "__main__":
    run_cases(
        "memory",
        {"shapes": Case(over_shapes), "updates": Case(over_updates)},
        {"shapes": Case(lambda: over_shapes(4, 2)), "updates": Case(lambda: over_updates(200, 50))},
    )
