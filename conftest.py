"""Strict numerics for every test and doctest: float64, no silent promotion of dtypes or ranks."""

import gc
import itertools
import os
import pathlib
import shutil
import signal
import tempfile

# Before SciPy is loaded: JAX's Cholesky runs on its OpenBLAS, whose threads wait for one another in a busy loop. With
# two test processes on two cores that makes a factorisation of milliseconds one of a second.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import jaxlib.version
import pytest

# Imports and tracing make many objects that live long, and each search for garbage among them goes through all of them.
gc.set_threshold(100_000, 50, 100)

# A shell starts its background jobs with Ctrl-C ignored, which they pass on, and some tests press it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


PROGRAMS = pytest.StashKey[str]()
MAPS = pathlib.Path("/proc/self/maps")
TESTS, FILES = itertools.count(1), itertools.count(1)
# Examples that integrate, fit or compile a lift, of functions that fast tests use too.
SLOW_EXAMPLES = {
    "jaxgeo.estimators.JaxgeoClassifier",
    "jaxgeo.estimators.JaxgeoRegressor",
    "jaxgeo.fitting.call.fit",
    "jaxgeo.geometry.escapes.escape",
    "jaxgeo.geometry.paths.lift_path",
    "jaxgeo.geometry.subriemannian.curvature",
    "jaxgeo.geometry.subriemannian.pullback_gradient",
    "jaxgeo.geometry.trapping.trapped_intervals",
    "jaxgeo.integrate.comparison.solve_output_flow",
    "jaxgeo.integrate.corrector.OrbitCorrector",
    "jaxgeo.integrate.defect.explain_defect",
    "jaxgeo.integrate.events.GradientBelow",
    "jaxgeo.integrate.interpolation.solve_interpolation",
    "jaxgeo.integrate.line.StraightLine",
    "jaxgeo.integrate.solve.solve_flow",
    "jaxgeo.linalg.lifting.lift_gradient",
    "jaxgeo.linalg.streaming.streamed_lift",
    "jaxgeo.optim.interpolation.linear_interpolation",
    "jaxgeo.optim.levenberg_marquardt.adapted_levenberg_marquardt",
    "jaxgeo.optim.momentum.adapted_momentum",
    "jaxgeo.optim.transforms.adapted_gradient_descent",
    "jaxgeo.optim.transforms.scale_by_adapted_metric",
    "jaxgeo.uncertainty.curves.curve_fit",
}


def pytest_configure(config: pytest.Config) -> None:
    # A third of the time of the fast tests is XLA's optimisation of programs that run once. The slow ones compile as
    # users do.
    fast = config.option.markexpr == "not slow"
    jax.config.update("jax_disable_most_optimizations", fast)
    if fast and jaxlib.version.__version_info__ < (0, 11):
        # Its older generator of code takes half of the time; newer versions of jaxlib do not know the option.
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_use_fusion_emitters=false"
    share_compiled_programs(config)


def share_compiled_programs(config: pytest.Config) -> None:
    """A folder for compiled programs, made for this run and used by its processes, unless the user names one.

    To read a program takes a tenth of the time of compiling it, and to write it next to none.
    """
    if jax.config.jax_compilation_cache_dir is None:
        given = getattr(config, "workerinput", {})
        folder = given.get("programs") or tempfile.mkdtemp(prefix="jaxgeo-tests-")
        config.stash[PROGRAMS] = folder
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node) -> None:
    node.workerinput["programs"] = node.config.stash.get(PROGRAMS, None)


def pytest_unconfigure(config: pytest.Config) -> None:
    if PROGRAMS in config.stash and not hasattr(config, "workerinput"):
        shutil.rmtree(config.stash[PROGRAMS], ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.DoctestItem) and item.name in SLOW_EXAMPLES:
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    # The million objects of the imported libraries stay; to search them again and again took a tenth of the time of all
    # tests.
    gc.collect()
    gc.freeze()


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)


def pytest_runtest_teardown() -> None:
    # XLA maps some hundred pieces of memory for each larger program, and a process that has 65 530 of them aborts.
    if next(TESTS) % 10 == 0 and MAPS.exists() and MAPS.read_bytes().count(b"\n") > 40_000:
        jax.clear_caches()


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled_programs():
    """Bounds the memory of a test process.

    Not after each file, since to forget takes time, and so does to trace once more what the files have in common.
    """
    yield
    if next(FILES) % 12 == 0:
        jax.clear_caches()
