"""Classical least squares beside MINPACK and SciPy's `trf`: `python -m benchmarks.fits`.

Each from two starts, with tolerances of round-off. One of ours is an update, one of theirs an evaluation of the
Jacobian. A fit is solved where its cost is the least that anyone found from either start.
"""

import functools
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from benchmarks.harness import Case, environment, run_cases
from cases.classical_fits import CLASSICAL_FITS, RESIDUALS
from cases.curve_fits import CURVE_FITS, CurveFit, reference
from cases.fitting import fit_to_the_end, scipys

SOLVERS = ("jaxgeo", "lm", "trf")


def measure(fit: CurveFit) -> dict[str, dict[str, Any]]:
    """By solver and start: the cost, how many updates, and correct digits of the worst parameter."""
    starts = {"far": fit.start, "near": fit.near}
    rows: dict[str, dict[str, Any]] = {name: {} for name in SOLVERS}
    for where, ended in zip(starts, fit_to_the_end(fit, list(starts.values())), strict=True):
        rows["jaxgeo"][where] = {
            "cost": ended.costs[-1],
            "updates": len(ended.costs) - 1,
            "late": ended.late,
            "ending": ended.ending.name,
            **_digits(fit, ended.params),
        }
    for method in ("lm", "trf"):
        for where, found in zip(starts, scipys(fit, list(starts.values()), method), strict=True):
            rows[method][where] = {
                "cost": float(found.cost),
                "updates": int(found.njev),
                "evaluations": int(found.nfev),
                **_digits(fit, found.x),
            }
    return rows


def _digits(fit: CurveFit, params: np.ndarray) -> dict[str, float]:
    """Correct digits beside the minimum nearby, where no parameter of it is 0."""
    if fit.name in RESIDUALS:
        return {}
    with np.errstate(all="ignore"):
        errors = np.abs(params / reference(replace(fit, near=tuple(params)), 40) - 1)
    worst = float(np.max(errors))
    return {"digits": float(-np.log10(worst + 1e-17))} if np.isfinite(worst) else {}


def fits(cases: list[CurveFit]) -> dict[str, Any]:
    jax.config.update("jax_enable_x64", True)
    return {"environment": environment(), "fits": {fit.name: measure(fit) for fit in cases}}


ALL = {"curves": CURVE_FITS, "classical": CLASSICAL_FITS}

if __name__ == "__main__":
    run_cases("fits", {name: Case(functools.partial(fits, cases)) for name, cases in ALL.items()})
