"""Classical least squares compared with MINPACK, SciPy's `trf` and optimistix: `python -m benchmarks.fits`.

Each fit has two starts and tolerances of round-off. An update is an evaluation of the Jacobian for jaxgeo and SciPy,
and a step, taken or not, for optimistix. Evaluations are those of the model: for jaxgeo all that run, even within
derivatives, and for SciPy the residuals and Jacobians. A fit counts as solved if its cost is the lowest that any method
found from either start.
"""

import functools
import importlib.util
import logging
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Case, environment, run_cases
from cases.classical_fits import CLASSICAL_FITS, RESIDUALS
from cases.curve_fits import CURVE_FITS, CurveFit, reference
from cases.fitting import fits_to_the_end, optimistixs, scipys

SOLVERS = ("jaxgeo", "lm", "trf", "optimistix", *(["nlsq"] if importlib.util.find_spec("nlsq") else []))


def measure(fit: CurveFit) -> dict[str, dict[str, Any]]:
    """For each solver and start: the cost, the number of updates, and correct digits of the worst parameter."""
    starts = {"far": fit.start, "near": fit.near}
    rows: dict[str, dict[str, Any]] = {name: {} for name in SOLVERS}
    counted = Counted(fit.model)
    for where, ended in zip(starts, fits_to_the_end(replace(fit, model=counted), list(starts.values())), strict=True):
        jax.effects_barrier()
        rows["jaxgeo"][where] = {
            "cost": ended.costs[-1],
            "updates": len(ended.costs) - 1,
            "evaluations": counted.taken(),
            "late": ended.late,
            "ending": ended.ending.name,
            **_digits(fit, ended.params),
        }
    for method in ("lm", "trf"):
        for where, found in zip(starts, scipys(fit, list(starts.values()), method), strict=True):
            rows[method][where] = {
                "cost": float(found.cost),
                "updates": int(found.njev),
                "evaluations": int(found.nfev + found.njev),
                **_digits(fit, found.x),
            }
    for where, (params, steps) in zip(starts, optimistixs(fit, list(starts.values())), strict=True):
        cost = 0.5 * float(np.sum(np.asarray(fit.model(jnp, jnp.asarray(params), fit.x) - fit.y) ** 2))
        rows["optimistix"][where] = {
            "cost": cost if math.isfinite(cost) else math.inf,
            "updates": steps,
            **_digits(fit, params),
        }
    if "nlsq" in rows:
        rows["nlsq"] = {where: nlsqs(fit, start) for where, start in starts.items()}
    return rows


def nlsqs(fit: CurveFit, start: Sequence[float], most: int = 1000) -> dict[str, Any]:
    """The result of NLSQ's `curve_fit`; nothing if it raises an error."""
    import nlsq

    logging.getLogger("nlsq").setLevel(logging.CRITICAL)

    def curve(_: Any, *params: Any) -> Any:
        return fit.model(jnp, jnp.stack(params), fit.x)

    tolerances = {"xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15, "max_nfev": most, "x_scale": "jac"}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            found = nlsq.curve_fit(
                curve, np.arange(float(len(fit.y))), fit.y, p0=list(start), method="trf", **tolerances
            )
        # It may refuse or fail in any way; the failure is the result.
        except Exception as error:
            return {"cost": math.inf, "updates": 0, "failed": str(error)[:200]}
    cost = 0.5 * float(np.sum(np.asarray(fit.model(jnp, jnp.asarray(found.x), fit.x) - fit.y) ** 2))
    counts = {"updates": int(found.njev), "evaluations": int(found.nfev + found.njev)}
    return {"cost": cost if math.isfinite(cost) else math.inf, **counts, **_digits(fit, found.x)}


class Counted:
    """A model that counts its evaluations."""

    def __init__(self, model: Callable[..., Any]):
        self.model, self.count = model, 0

    def __call__(self, xp: Any, b: Any, x: Any) -> Any:
        if xp is jnp:
            jax.debug.callback(self._add)
        return self.model(xp, b, x)

    def _add(self) -> None:
        self.count += 1

    def taken(self) -> int:
        """The number of evaluations since the last call."""
        count, self.count = self.count, 0
        return count


def _digits(fit: CurveFit, params: np.ndarray) -> dict[str, float]:
    """Correct digits compared with the nearest minimum, provided that none of its parameters is 0."""
    if fit.name in RESIDUALS:
        return {}
    with np.errstate(all="ignore"):
        errors = np.abs(params / reference(replace(fit, near=tuple(params)), 40) - 1)
    worst = float(np.max(errors))
    return {"digits": float(-np.log10(worst + 1e-17))} if np.isfinite(worst) else {}


def fits(cases: list[CurveFit]) -> dict[str, Any]:
    jax.config.update("jax_enable_x64", True)
    return {"environment": environment("nlsq"), "fits": {fit.name: measure(fit) for fit in cases}}


ALL = {"curves": CURVE_FITS, "classical": CLASSICAL_FITS}

if __name__ == "__main__":
    run_cases("fits", {name: Case(functools.partial(fits, cases)) for name, cases in ALL.items()})
