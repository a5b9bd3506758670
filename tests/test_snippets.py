"""The code on the pages that shows no results runs as it stands; examples with results are in `test_docs.py`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What a page's readers have already when they come to its blocks.
BEFORE = {
    "differential": "",
    "optimizers": "",
    "scaling": """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
import jax, jax.numpy as jnp, jaxgeo as jg
jax.config.update("jax_enable_x64", True)
inputs = jax.random.normal(jax.random.key(1), (8, 2))
params = {"W": jax.random.normal(jax.random.key(0), (16, 2)), "v": jnp.ones(16) / 4}
apply = lambda params, x: params["v"] @ jnp.tanh(params["W"] @ x)
problem = jg.Problem(apply, inputs, jg.L2(jnp.sin(inputs[:, 0])))
tx = jg.optim.adapted_levenberg_marquardt(apply)
state, grads = tx.init(params), jax.tree.map(jnp.zeros_like, params)
""",
    "training": """
import equinox as eqx, jax, jax.numpy as jnp, jaxgeo as jg
class Net(eqx.Module):
    inner: eqx.nn.MLP
    drop: eqx.nn.Dropout
    def __call__(self, x, key=None):
        return self.inner(self.drop(x, key=key))
x = jnp.linspace(-1.0, 1.0, 8)[:, None]
y = jnp.sin(x)
model = Net(eqx.nn.MLP(1, 1, 8, 1, key=jax.random.key(0)), eqx.nn.Dropout(0.1))
""",
}
# Each process needs the address of the first; `test_sharding.py` runs several.
NOT_ALONE = "jax.distributed.initialize("
# Fewer updates, of the same program.
SHORTER = {
    "differential": (r"max_steps=\d+, progress", "warmup=20, max_steps=2, progress"),
    "training": (r"method=", "max_steps=2, method="),
}


def blocks(page: Path) -> list[str]:
    found = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    return [block for block in found if ">>> " not in block]


def test_every_page_with_such_code_is_run():
    assert {page.stem for page in (ROOT / "docs").glob("*.md") if blocks(page)} == set(BEFORE)


@pytest.mark.slow
@pytest.mark.parametrize("name", BEFORE)
def test_the_code_of_a_page_runs_from_top_to_bottom(name, tmp_path):
    code = [block for block in blocks(ROOT / "docs" / f"{name}.md") if NOT_ALONE not in block]
    script = "\n".join([BEFORE[name], *code])
    if name in SHORTER:
        script, count = re.subn(*SHORTER[name], script)
        assert count
    (tmp_path / "page.py").write_text(script, encoding="utf-8")
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    ended = subprocess.run(
        [sys.executable, "page.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "nan" not in ended.stdout
