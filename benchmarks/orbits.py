"""Orbits exact to round-off: the cost of the corrector, against a tolerance that is as accurate without it."""

import sys
import time
from typing import Any

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np

import jaxgeo as jg
from benchmarks.harness import Case, environment, run_cases
from cases.problems import digits

TIMES = np.linspace(0.0, 3000.0, 31)
RUNS = {
    "Tsit5 along the line, corrected": (jg.OrbitCorrector(jg.integrate.StraightLine(dfx.Tsit5())), 1e-6),
    "Tsit5, corrected": (jg.OrbitCorrector(dfx.Tsit5()), 1e-6),
    "Tsit5": (dfx.Tsit5(), 1e-6),
    **{f"Dopri8, rtol {rtol:.0e}": (dfx.Dopri8(), rtol) for rtol in (1e-12, 1e-13)},
}


def on_digits() -> dict[str, Any]:
    """100 digits, QN = 1000, float64, to s/N = 30: how far x is from e^{-s/N}, in how many lifts and seconds."""
    jax.config.update("jax_enable_x64", True)
    case = digits()

    def deviation(s: jax.Array, params: Any, problem: jg.Problem) -> jax.Array:
        return problem.loss.deviation(problem.outputs(params))

    def run(solver: dfx.AbstractSolver, rtol: float, times: np.ndarray) -> tuple[jg.FlowSolution, float]:
        start = time.perf_counter()
        sol = jg.solve_flow(
            case.problem,
            jg.AdaptedFlow(),
            case.params,
            s1=times[-1],
            save_at=times,
            record=deviation,
            solver=solver,
            rtol=rtol,
            rank_check=False,
            max_steps=10_000,
        )
        jax.block_until_ready(sol.params)
        return sol, time.perf_counter() - start

    start = np.asarray(deviation(jnp.array(0.0), case.params, case.problem))
    exact = np.exp(-TIMES / case.problem.num_samples)[:, None, None] * start
    rows = {}
    for name, (solver, rtol) in RUNS.items():
        # Compile the same program on a short orbit first.
        run(solver, rtol, TIMES / 1000)
        sol, seconds = run(solver, rtol, TIMES)
        corrected = isinstance(solver, jg.OrbitCorrector)
        within: Any = solver.solver if isinstance(solver, jg.OrbitCorrector) else solver
        along = isinstance(within, jg.integrate.StraightLine)
        tableau = (within.solver if along else within).tableau
        steps = int(sol.stats["num_steps"])
        lawful = np.asarray(sol.predicted_costs >= 1e-20 * sol.initial_cost)
        print(f"{name}: {seconds:.1f} s", file=sys.stderr, flush=True)
        rows[name] = {
            "seconds": seconds,
            "rtol": rtol,
            "steps": steps,
            # Along the line, each record is corrected too.
            "lifts": steps * (tableau.num_stages - bool(tableau.fsal) + corrected) + 1 + along * len(TIMES),
            "largest_error_of_an_output": float(np.abs(np.asarray(sol.records) - exact).max()),
            "largest_defect_down_to_1e-20": float(np.abs(np.asarray(sol.defect)[lawful]).max()),
        }
    sizes = {"N": case.problem.num_samples, "QN": case.num_rows, "K": case.num_params}
    return {"environment": environment(), **sizes, "rows": rows}


if __name__ == "__main__":
    run_cases("orbits", {"digits": Case(on_digits)})
