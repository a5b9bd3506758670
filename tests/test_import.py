"""`import jaxgeo` leaves JAX as it is and loads nothing that only the command line or the tests need."""

import subprocess
import sys

import pytest

CHECK_CONFIG = """
import jax
before = dict(jax.config.values)
import jaxgeo
jaxgeo.solve_flow
after = dict(jax.config.values)
changed = {name: (before.get(name), after[name]) for name in after if before.get(name) != after[name]}
assert not changed, changed
"""

CHECK_MODULES = """
import sys
import jaxgeo
jaxgeo.solve_flow
loaded = sorted({"sklearn", "matplotlib", "typer", "rich", "flax", "jaxopt", "pandas"} & set(sys.modules))
assert not loaded, loaded
"""

# Whatever diffrax does not load takes time that the first use of jaxgeo should not take.
CHECK_LIGHT = """
import sys
import diffrax, lineax
before = {name.partition(".")[0] for name in sys.modules}
import jaxgeo
jaxgeo.solve_flow
extra = {name.partition(".")[0] for name in sys.modules} - before
assert extra == {"jaxgeo"}, extra
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
    "module", ["geometry", "integrate", "linalg", "optim", "equations", "theory", "flows", "costs"]
)
def test_any_module_can_be_imported_first(module):
    done = subprocess.run([sys.executable, "-c", f"import jaxgeo.{module}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "script",
    [CHECK_CONFIG, CHECK_MODULES, CHECK_LIGHT, CHECK_LAZY],
    ids=["config", "modules", "light", "lazy"],
)
def test_importing_is_quiet(script):
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == ""
