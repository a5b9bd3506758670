"""`import jaxgeo` leaves JAX as it is and loads nothing that only the command line or the tests need."""

import subprocess
import sys

import pytest

CHECK_CONFIG = """
import jax
before = dict(jax.config.values)
import jaxgeo
after = dict(jax.config.values)
changed = {name: (before.get(name), after[name]) for name in after if before.get(name) != after[name]}
assert not changed, changed
"""

CHECK_MODULES = """
import sys
import jaxgeo
loaded = sorted({"sklearn", "matplotlib", "typer", "rich", "flax", "jaxopt", "pandas"} & set(sys.modules))
assert not loaded, loaded
"""


@pytest.mark.parametrize("script", [CHECK_CONFIG, CHECK_MODULES], ids=["config", "modules"])
def test_importing_is_quiet(script):
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == ""
