"""How much longer a lift and an update take beside a second process that does JAX linear algebra on the same cores.

Each case is a process of its own with the BLAS threads that its name says. The second process, always with the default
threads, works only in every second round, so that times alone and beside it are interleaved.
"""

import contextlib
import functools
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

import jaxgeo as jg
from benchmarks.harness import Case, Result, environment, run_cases
from benchmarks.lift_speed import DAMPING, network
from jaxgeo.fitting.blas import one_blas_thread
from jaxgeo.linalg import triangular

SIZES = (256, 512, 1024, 2560)
THREADS = "OPENBLAS_NUM_THREADS"
AS_IN_FIT = ", as in jg.fit"
WAYS = ("alone", "beside")
# It works while it is told to, and ends with the process that started it, whose end closes its input.
NEIGHBOUR = """
import os, sys, threading
import jax, jax.numpy as jnp
jax.config.update("jax_enable_x64", True)
drawn = jax.random.normal(jax.random.key(0), (384, 384))
step = jax.jit(lambda a: (jnp.linalg.cholesky(a @ a.T + 384 * jnp.eye(384)), jnp.linalg.qr(a), jnp.linalg.svd(a)[1]))
jax.block_until_ready(step(drawn))
busy = threading.Event()

def listen():
    for line in sys.stdin:
        busy.set() if line.strip() == "work" else busy.clear()
    os._exit(0)

threading.Thread(target=listen).start()
print("ready", flush=True)
while True:
    busy.wait()
    print("working", flush=True)
    while busy.is_set():
        jax.block_until_ready(step(drawn))
    print("paused", flush=True)
"""


class Neighbour:
    """The second process; busy only between `resume` and `pause`."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-c", NEIGHBOUR], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_with(None)
        )
        self._hear()

    def pause(self) -> None:
        self._say("pause")
        self._hear()

    def resume(self) -> None:
        self._say("work")
        self._hear()
        # It is to be within its work, and its threads awake.
        time.sleep(0.2)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

    def _say(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def _hear(self) -> None:
        assert self.process.stdout is not None
        self.process.stdout.readline()


@contextlib.contextmanager
def whole_factorisations() -> Iterator[None]:
    """Programs traced here factorise by LAPACK as a whole."""
    least, triangular.LEAST_BYTES = triangular.LEAST_BYTES, sys.maxsize
    # What was traced before is not to be taken again.
    jax.clear_caches()
    try:
        yield
    finally:
        triangular.LEAST_BYTES = least
        jax.clear_caches()


def compiled(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    ready = eqx.filter_jit(function).lower(*arguments).compile()
    return lambda: ready(*arguments)


def update(problem: jg.Problem, params: Any) -> Callable[[], Any]:
    tx = jg.optim.adapted_levenberg_marquardt()

    def step(params: Any, state: Any, problem: jg.Problem) -> Any:
        return tx.update(params, state, params, problem=problem)

    return compiled(step, params, tx.init(params), problem)


def calls(size: int) -> dict[str, Callable[[], Any]]:
    """A lift and an update with many parameters, in blocks and by LAPACK; and an update with few, by QR and SVD.

    The update with few is there twice: by itself, and limited to one BLAS thread, as `jaxgeo.fit` does.
    """
    problem, params = network([16, 128, 128, 1], size)
    velocity = jax.random.normal(jax.random.key(2), (size, 1), jnp.float32)

    def lift(problem: jg.Problem, params: Any, velocity: jax.Array) -> Any:
        return jg.lift(problem, params, velocity, damping=DAMPING)

    found: dict[str, Callable[[], Any]] = {}
    for suffix, context in (("", contextlib.nullcontext), (", LAPACK", whole_factorisations)):
        with context():
            found[f"lift{suffix}"] = compiled(lift, problem, params, velocity)
            found[f"LM update{suffix}"] = update(problem, params)
    few = "LM update, few parameters"
    found[few] = found[few + AS_IN_FIT] = update(*network([4, 12, 12, 1], size))
    return found


def measured(sizes: tuple[int, ...] = SIZES, rounds: int = 7) -> Iterator[Result]:
    """Medians of interleaved rounds: milliseconds of the clock and of the processor, alone and beside."""
    found: Result = {"environment": environment(), "rounds": rounds, "rows": {}}
    neighbour = Neighbour()
    try:
        for size in sizes:
            found["rows"][str(size)] = _rows(calls(size), neighbour, rounds)
            yield found
    finally:
        neighbour.end()


def _rows(calls: dict[str, Callable[[], Any]], neighbour: Neighbour, rounds: int) -> dict[str, Result]:
    times: dict[str, dict[str, list[tuple[float, float]]]] = {name: {way: [] for way in WAYS} for name in calls}
    for call in calls.values():
        jax.block_until_ready(call())
    shuffled = random.Random(0)
    for _ in range(rounds):
        for way in WAYS:
            if way == "beside":
                neighbour.resume()
            for name in shuffled.sample(list(calls), len(calls)):
                with one_blas_thread() if name.endswith(AS_IN_FIT) else contextlib.nullcontext():
                    start, used = time.perf_counter(), time.process_time()
                    jax.block_until_ready(calls[name]())
                    times[name][way].append((time.perf_counter() - start, time.process_time() - used))
            if way == "beside":
                neighbour.pause()
    rows = {}
    for name, of_call in times.items():
        row: Result = {}
        for way, each in of_call.items():
            clock, processor = zip(*each, strict=True)
            row[f"{way}_ms"] = 1e3 * statistics.median(clock)
            row[f"{way}_processor_ms"] = 1e3 * statistics.median(processor)
        rows[name] = row | {"ratio": row["beside_ms"] / row["alone_ms"]}
    return rows


def _with(threads: str | None) -> dict[str, str]:
    """The environment with this setting of the threads of the BLAS."""
    rest = {name: value for name, value in os.environ.items() if name != THREADS}
    return rest if threads is None else rest | {THREADS: threads}


def apart(threads: str | None, sizes: tuple[int, ...] = SIZES, rounds: int = 7) -> Iterator[Result]:
    """`measured` in a process that starts with this setting, since the BLAS reads it when it is loaded."""
    program = f"import json\nfrom benchmarks.beside import measured\nfor found in measured({sizes}, {rounds}):\n" + (
        "    print(json.dumps(found), flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=_with(threads)) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield json.loads(line)
    if process.returncode != 0:
        raise RuntimeError(f"the measurement ended with exit status {process.returncode}")


if __name__ == "__main__":
    run_cases(
        "beside",
        {"default": Case(functools.partial(apart, None)), "one_thread": Case(functools.partial(apart, "1"))},
        {"default": Case(functools.partial(apart, None, (256,), 3))},
    )
