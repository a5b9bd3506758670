"""The figures in the text of `docs/differential.md`: its code as it stands, compared with exact solutions.

`python -m benchmarks.differential` writes `results/differential.json`.
"""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp

import jaxgeo as jg
from benchmarks.harness import RESULTS, Case, environment, run_cases

PAGE = RESULTS.parent.parent / "docs" / "differential.md"
VISCOSITY = 0.01 / math.pi


def ended(section: str) -> dict[str, Any]:
    """The names that the first block of code of a section leaves behind."""
    text = PAGE.read_text(encoding="utf-8").split(f"# {section}\n", 1)[1]
    block = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert block is not None, section
    names: dict[str, Any] = {}
    exec(block[1], names)
    return names


def described(names: dict[str, Any]) -> dict[str, Any]:
    """How a fit of Burgers' equation ended, and its relative L2 error at points that were not trained on."""
    found = names["found"]
    last = found.rows[-1]
    points = names["box"].uniform(jax.random.key(9), 10_000)
    exact = jax.vmap(jg.equations.burgers_1d().solution)(points)
    errors = jax.vmap(names["u"], (None, 0))(found.model, points) - exact
    return {
        "environment": environment(),
        "updates": last["step"],
        **{name: last[name] for name in ("cost", "validation_cost", "drawn")},
        "residual_rms": math.sqrt(2 * last["validation_cost"]),
        "error": float(jnp.linalg.norm(errors) / jnp.linalg.norm(exact)),
    }


def burgers() -> dict[str, Any]:
    """Burgers' equation, with a known viscosity."""
    return described(ended("From a script to a result"))


def viscosity() -> dict[str, Any]:
    """The viscosity from exact values of the solution."""
    names = ended("An unknown coefficient")
    found = float(jnp.exp(names["found"].model["log_nu"]))
    return described(names) | {"found": found, "relative_error": abs(found / VISCOSITY - 1)}


def diffusivity() -> dict[str, Any]:
    """The diffusivity of the heat equation from exact values, and from values with an error."""
    jax.config.update("jax_enable_x64", True)
    row: dict[str, Any] = {"environment": environment()}
    for name, noise in (("exact", 0.0), ("noisy", 0.01)):
        sought = jg.equations.heat_inverse((16, 16), noise=noise)
        conditions = sought.conditions(jax.random.key(1))
        found = jg.fit(sought.init(jax.random.key(0)), conditions)
        estimate = float(sought.estimate(found.model))
        row[name] = {"found": estimate, "relative_error": abs(estimate / sought.coefficient - 1)}
        if noise:
            error = float(sought.standard_error(conditions[1].points))
            row[name] |= {"standard_error": error, "deviations": (estimate - sought.coefficient) / error}
    return row


if __name__ == "__main__":
    run_cases("differential", {case.__name__: Case(case) for case in (burgers, viscosity, diffusivity)})
