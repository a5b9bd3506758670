"""`import jaxgeo` leaves JAX unchanged and loads nothing that only the command line or the tests need."""

import subprocess
import sys

import pytest

# Whatever diffrax does not load takes time that the first use of jaxgeo should not take.
CHECK_QUIET = """
import sys
import jax
settings = dict(jax.config.values)
import diffrax, lineax
before = {name.partition(".")[0] for name in sys.modules}
import jaxgeo
jaxgeo.solve_flow
after = dict(jax.config.values)
changed = {name: (settings.get(name), after[name]) for name in after if settings.get(name) != after[name]}
assert not changed, changed
loaded = {name.partition(".")[0] for name in sys.modules}
assert loaded - before == {"jaxgeo"}, loaded - before
assert not {"sklearn", "matplotlib", "typer", "rich", "flax", "jaxopt", "pandas"} & loaded, loaded
"""
# Each as if it were the first, in one process, since JAX takes seconds to load.
CHECK_FIRST = """
import importlib, sys
import diffrax, optax
for module in ("geometry", "integrate", "linalg", "optim", "equations", "theory", "flows", "costs"):
    for name in [name for name in sys.modules if name.partition(".")[0] == "jaxgeo"]:
        del sys.modules[name]
    importlib.import_module("jaxgeo." + module)
"""
CHECK_LAZY = """
import sys
import jaxgeo
assert "jax" not in sys.modules
assert all(hasattr(jaxgeo, name) for name in ("flows", "costs", "problem"))
assert "solve_flow" in dir(jaxgeo)
assert all(hasattr(jaxgeo, name) for name in ("linalg", "integrate", "metrics", "theory", "L2"))
assert "optax" not in sys.modules
assert "jaxgeo.geometry" not in sys.modules
assert jaxgeo.rank_report is jaxgeo.geometry.rank_report
assert jaxgeo.optim.__name__ == "jaxgeo.optim"
assert "optax" in sys.modules
try:
    jaxgeo.optimizers
except AttributeError as error:
    assert "optimizers" in str(error)
else:
    raise AssertionError
"""


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(CHECK_QUIET, id="quiet"),
        pytest.param(CHECK_FIRST, id="any module first", marks=pytest.mark.slow),
        pytest.param(CHECK_LAZY, id="lazy"),
    ],
)
def test_importing_is_quiet(script):
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == ""
