"""What all benchmarks share: interleaved medians, the environment, JSON."""

import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

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
        "cores": os.cpu_count(),
        "load_average_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in (*PACKAGES, *rivals)},
        # SciPy's LAPACK, which JAX's Cholesky calls on a CPU, follows this one.
        "OPENBLAS_CORETYPE": os.environ.get("OPENBLAS_CORETYPE"),
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def measure(calls: dict[str, Callable[[], Any]], repeats: int = 7) -> dict[str, dict[str, Any]]:
    """Medians of interleaved calls in this process, in milliseconds; the first call, which compiles, apart.

    A call that raises is a row too, with what it said.
    """
    rows: dict[str, dict[str, Any]] = {}
    times: dict[str, list[float]] = {}
    for name, call in calls.items():
        start = time.perf_counter()
        try:
            jax.block_until_ready(call())
        # A rival may fail in any way: that is what is recorded.
        except Exception as error:
            rows[name] = {"failed": f"{type(error).__name__}: {str(error)[:200]}"}
            continue
        rows[name] = {"first_call_s": time.perf_counter() - start}
        times[name] = []
    for _ in range(repeats):
        for name in times:
            start = time.perf_counter()
            jax.block_until_ready(calls[name]())
            times[name].append(1e3 * (time.perf_counter() - start))
    for name, measured in times.items():
        rows[name] |= {"median_ms": statistics.median(measured), "least_ms": min(measured), "repeats": repeats}
    return rows


def peak_memory_mib() -> float:
    """The most that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_cases(module: str, cases: dict[str, Callable[[], dict[str, Any]]]) -> None:
    """Run the case named on the command line; without one each case in a process of its own, into one JSON file."""
    if len(sys.argv) > 1:
        print(json.dumps(cases[sys.argv[1]]()))
        return
    results = {}
    for name in cases:
        command = [sys.executable, "-m", f"benchmarks.{module}", name]
        print(f"{module} {name}", file=sys.stderr, flush=True)
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        results[name] = json.loads(done.stdout.strip().splitlines()[-1])
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{module}.json"
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    print(f"wrote {path.name}", file=sys.stderr)
