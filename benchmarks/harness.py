"""Shared by all benchmarks: interleaved medians, the environment, separate processes, JSON.

`python -m benchmarks.MODULE` runs the cases of a module and writes `results/MODULE.json` after each. With names it runs
only these cases and keeps the rows of the others. `--missing` runs the cases without a complete result and keeps the
rest. A case that fails or exceeds its time becomes a row {"failed": …}, with its results so far. `--quick` runs a few
cases at small sizes into `results/quick/`; `--out` sets another file.
"""

import argparse
import gc
import importlib.metadata
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

Result = dict[str, Any]
RESULTS = Path(__file__).parent / "results"
PACKAGES = ("jax", "jaxlib", "equinox", "lineax", "diffrax", "optax", "optimistix", "numpy", "scipy")


def environment(*rivals: str) -> dict[str, Any]:
    """Device, versions and the settings that change a timing."""
    cpu = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
    return {
        "device": jax.devices()[0].device_kind if jax.default_backend() != "cpu" else cpu,
        # Those that this process may use.
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in (*PACKAGES, *rivals)},
        # SciPy's LAPACK, which JAX's Cholesky calls on a CPU, obeys these. Its threads can interfere with XLA's.
        **{name: os.environ.get(name) for name in ("OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS")},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def failure(error: Exception) -> Result:
    return {"failed": f"{type(error).__name__}: {str(error)[:300]}"}


def measure(calls: dict[str, Callable[[], Any]], repeats: int = 7) -> dict[str, dict[str, Any]]:
    """Medians of interleaved calls in this process, in milliseconds; the first call, which compiles, separately.

    Each round has a different order, because a call is slower after one that takes much memory. A call that raises
    becomes a row with its error.
    """
    rows: dict[str, dict[str, Any]] = {}
    times: dict[str, list[float]] = {}
    for name, call in calls.items():
        start = time.perf_counter()
        try:
            jax.block_until_ready(call())
        # Another library may fail in any way; the failure is the result.
        except Exception as error:
            rows[name] = failure(error)
            # Free its memory for the calls that follow.
            gc.collect()
            continue
        rows[name] = {"first_call_s": time.perf_counter() - start}
        times[name] = []
    shuffled = random.Random(0)
    for _ in range(repeats):
        for name in shuffled.sample(list(times), len(times)):
            start = time.perf_counter()
            jax.block_until_ready(calls[name]())
            times[name].append(1e3 * (time.perf_counter() - start))
    for name, measured in times.items():
        rows[name] |= {"median_ms": statistics.median(measured), "least_ms": min(measured), "repeats": repeats}
    return rows


def each(call: Callable[..., Any], arguments: dict[str, tuple[Any, ...]]) -> Iterator[Result]:
    """Yield the results of the call for each of these, by name, as they arrive; a failed call does not stop others."""
    found: Result = {}
    for name, given in arguments.items():
        try:
            found[name] = call(*given)
        # A call may run out of memory in many ways.
        except Exception as error:
            traceback.print_exc()
            found[name] = failure(error)
        yield found


def peak_memory_mib() -> float:
    """The peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Case(NamedTuple):
    """`run` returns a result, or yields it as it grows, so that an interrupted process leaves its results so far."""

    run: Callable[[], Result | Iterator[Result]]
    limit_s: float = 7200.0


def run_cases(
    module: str, cases: dict[str, Case], quick: dict[str, Case] | None = None, arguments: Sequence[str] | None = None
) -> None:
    """Run `python -m benchmarks.MODULE`; `quick` holds the cases of `--quick`."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{module}")
    parser.add_argument("names", nargs="*", help="cases to run; all by default")
    parser.add_argument("--quick", action="store_true", help="a few cases at small sizes, on any device")
    parser.add_argument("--out", type=Path, help=f"by default results/{module}.json, with --quick in results/quick/")
    parser.add_argument("--missing", action="store_true", help="only cases that have no result yet, or failed")
    parser.add_argument("--here", action="store_true", help="run in this process, and print")
    chosen = parser.parse_args(arguments)
    available = (quick or {}) if chosen.quick else cases
    unknown = set(chosen.names) - set(available)
    if unknown:
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join(available) or 'none'}")
    names = chosen.names or list(available)
    if chosen.here:
        for name in names:
            run_here(available[name])
        return
    command = [sys.executable, "-m", f"benchmarks.{module}", "--here", *(["--quick"] if chosen.quick else [])]
    path = chosen.out or (RESULTS / "quick" if chosen.quick else RESULTS) / f"{module}.json"
    kept = json.loads(path.read_text()) if (chosen.names or chosen.missing) and path.exists() else {}
    if chosen.missing:
        names = [name for name in names if "failed" in kept.get(name, {"failed": "not run"})]
    run_all({name: ([*command, name], available[name].limit_s) for name in names}, path, kept)


def run_here(case: Case) -> None:
    """Print the result as it grows, as lines of JSON; a failure is the last line."""
    if jax.default_backend() == "cpu":
        # With this limit a case that needs too much memory fails and becomes a row; the system would kill the process.
        most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4
        resource.setrlimit(resource.RLIMIT_DATA, (most, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    result: Result = {}
    try:
        found = case.run()
        for result in [found] if isinstance(found, dict) else found:
            print(json.dumps(result), flush=True)
    # If a case fails, the error is its result.
    except Exception as error:
        traceback.print_exc()
        print(json.dumps(result | failure(error)), flush=True)


def run_apart(command: Sequence[str], limit_s: float) -> Result:
    """The last result that a process prints, with the reason if it is incomplete."""
    failed = None
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+", errors="replace") as log:
        try:
            status = subprocess.run(command, stdout=out, stderr=log, timeout=limit_s, check=False).returncode
        except subprocess.TimeoutExpired:
            failed = f"not done after {limit_s:g} s"
        else:
            log.seek(0)
            if status != 0:
                failed = f"exit status {status}: {log.read().strip()[-300:]}"
        out.seek(0)
        result = last_result(out.read().splitlines())
    if failed is None and not result:
        failed = "printed no result"
    return result | ({} if failed is None else {"failed": failed}) | {"case_s": time.perf_counter() - start}


def last_result(lines: Sequence[str]) -> Result:
    for line in reversed(lines):
        try:
            found = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(found, dict):
            return found
    return {}


def run_all(commands: dict[str, tuple[Sequence[str], float]], path: Path, results: Result | None = None) -> Result:
    """Run each command within its time limit, and write all results so far after each."""
    results = {} if results is None else results
    path.parent.mkdir(parents=True, exist_ok=True)
    for name, (command, limit_s) in commands.items():
        print(f"{path.stem} {name}", file=sys.stderr, flush=True)
        results[name] = run_apart(command, limit_s)
        if "failed" in results[name]:
            print(f"failed: {results[name]['failed']}", file=sys.stderr, flush=True)
        path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    print(f"wrote {path.name}", file=sys.stderr)
    return results
