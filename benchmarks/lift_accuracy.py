"""How precise each solver of the lift is: `python -m benchmarks.lift_accuracy`.

It measures the errors of lift(v) and of D·lift(v) for D with prescribed singular values, against NumPy's singular
values in float64. In float32 the matrix is rounded first, and the reference uses the rounded matrix. The reference
leaves out singular values below the round-off of the dtype by `SmoothCutoff`'s formula, which is written out here
again.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import jaxgeo as jg
from benchmarks.harness import Case, environment, run_cases
from jaxgeo.linalg import (
    LSMR,
    QR,
    SVD,
    Auto,
    DenseCholesky,
    GramCholesky,
    GramEigh,
    NormalCholesky,
    SmoothCutoff,
)

SHAPES = [(20, 60), (30, 30), (60, 20)]
CONDITIONS = [1e0, 1e2, 1e4, 1e6, 1e8, 1e10, 1e12]
SOLVERS = {
    "Auto": Auto(),
    "DenseCholesky": DenseCholesky(),
    "QR": QR(),
    "SVD": SVD(SmoothCutoff()),
    "GramCholesky": GramCholesky(),
    "GramEigh": GramEigh(),
    "NormalCholesky": NormalCholesky(),
    "LSMR": LSMR(rtol=1e-14, max_steps=600),
}


class Row(eqx.Module):
    def __call__(self, params, row):
        return row @ params


@eqx.filter_jit
def solve(solver, matrix, velocity):
    problem = jg.Problem(Row(), matrix, jg.L2(jnp.zeros(len(matrix), matrix.dtype)))
    return solver.solve(problem.jacobian(jnp.zeros(matrix.shape[1], matrix.dtype)), velocity[:, None])


def spectrum(side: int, condition: float, lost: int) -> np.ndarray:
    values = np.logspace(0, -np.log10(condition), side)
    values[side - lost :] = 0
    return values


def reference(matrix: np.ndarray, velocity: np.ndarray, dtype: type) -> np.ndarray:
    left, values, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    low = np.finfo(dtype).eps * max(matrix.shape) ** 0.5
    position = np.clip(np.log(np.maximum(values / values[0], 1e-300) / low) / np.log(4.0), 0, 1)
    share = position**3 * (10 - 15 * position + 6 * position**2)
    return right.T @ (share / np.where(share > 0, values, 1) * (left.T @ velocity.astype(np.float64)))


def table(dtype: type) -> dict[str, Any]:
    if dtype is np.float64:
        jax.config.update("jax_enable_x64", True)
    before = environment()
    rng = np.random.default_rng(0)
    rows = []
    for shape in SHAPES:
        side = min(shape)
        for condition in CONDITIONS:
            for lost in (0, 5):
                left = np.linalg.qr(rng.standard_normal((shape[0], side)))[0]
                right = np.linalg.qr(rng.standard_normal((shape[1], side)))[0]
                matrix = ((left * spectrum(side, condition, lost)) @ right.T).astype(dtype)
                velocity = rng.standard_normal(shape[0]).astype(dtype)
                exact = reference(matrix, velocity, dtype)
                errors = {}
                for name, solver in SOLVERS.items():
                    value, info = solve(solver, jnp.asarray(matrix), jnp.asarray(velocity))
                    error = np.asarray(value, np.float64) - exact
                    errors[name] = {
                        "lift": float(np.linalg.norm(error) / np.linalg.norm(exact)),
                        "outputs": float(np.linalg.norm(matrix.astype(float) @ error) / np.linalg.norm(velocity)),
                        "outcome": int(info.outcome),
                        "finite": bool(np.isfinite(np.asarray(value)).all()),
                    }
                best = {key: min(entry[key] for entry in errors.values()) for key in ("lift", "outputs")}
                rows.append(
                    {
                        "dtype": np.dtype(dtype).name,
                        "QN": shape[0],
                        "K": shape[1],
                        "condition": condition,
                        "lost": lost,
                        "auto_over_best": {key: errors["Auto"][key] / best[key] for key in best},
                        "errors": errors,
                    }
                )
    worst = {key: max(row["auto_over_best"][key] for row in rows) for key in ("lift", "outputs")}
    finite = all(entry["finite"] for row in rows for entry in row["errors"].values())
    return {"environment": before, "auto_over_best_worst": worst, "all_finite": finite, "rows": rows}


if __name__ == "__main__":
    run_cases(
        "lift_accuracy",
        {
            "float64": Case(lambda: table(np.float64)),
            "float32": Case(lambda: table(np.float32)),
        },
    )
