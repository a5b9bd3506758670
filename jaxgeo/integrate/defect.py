"""Why an orbit left its law: estimates for the step, the solve, the rank and the precision."""

import warnings
from dataclasses import dataclass

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree
from numpy.typing import NDArray

from jaxgeo._checks import check_count, check_number, check_positive
from jaxgeo.flows import AbstractFlow
from jaxgeo.integrate.controller import default_rtol
from jaxgeo.integrate.solution import RESULTS, FlowSolution
from jaxgeo.integrate.solve import solve_flow
from jaxgeo.linalg.gram.certificate import FAULT, half_the_digits, product_dtypes
from jaxgeo.linalg.gram.gram import Gram
from jaxgeo.linalg.spectra import left_singular, numerical_rank
from jaxgeo.outputs import Params
from jaxgeo.problem import Problem


@dataclass(frozen=True)
class DefectReport:
    """How far an orbit is off (2.7) at its end, |x − x_exact| / |x_exact − y|, and estimates of the causes.

    The relative error of the cost is twice as large. The estimates do not add up to the total: each is its own bound.

    - `total`: the measured distance.
    - `step`: the error of the ODE solver: the distance to an orbit with finer steps, beyond the round-off of both.
    - `solve`: the error of the lift's solver: ∫|Dθ̇ − 𝒫v| / |x − y| ds with v = −(x − y)/N.
    - `rank`: the part that no velocity of the parameters can follow: ∫|(1 − 𝒫)v| / |x − y| ds, 𝒫 at numerical rank.
    - `precision`: round-off of outputs and targets, eps(|x| + |y|) / |x_exact − y|.
    - `rank_lost_at`: flow time at which D lost rank on the way; infinity if it did not. The orbit ended there, unless
        the flow can continue. If it ended, the other numbers describe the orbit up to its end.
    - `gram`: the largest |G − DDᵀ| / |DDᵀ| found at the examined moments, where G is assembled from the factors of each
        leaf. 0 if round-off explains it; anything more is a bug in jaxgeo.
    """

    total: float
    step: float
    solve: float
    rank: float
    precision: float
    rank_lost_at: float = float("inf")
    gram: float = 0.0

    @property
    def dominant(self) -> str:
        """The largest of the four: "step", "solve", "rank" or "precision"; "rank" if rank was lost on the way.

        If G is wrong, "gram" comes before all others.
        """
        if self.gram > 0:
            return "gram"
        if np.isfinite(self.rank_lost_at):
            return "rank"
        parts = {"step": self.step, "solve": self.solve, "rank": self.rank, "precision": self.precision}
        return max(parts, key=lambda name: parts[name])

    def __str__(self) -> str:
        passage = f"; D lost rank at s = {self.rank_lost_at:.6g}" if np.isfinite(self.rank_lost_at) else ""
        passage += f"; DDᵀ as assembled is wrong by {self.gram:.1e}" if self.gram > 0 else ""
        return (
            f"off the law by {self.total:.1e}: step {self.step:.1e}, solve {self.solve:.1e}, rank {self.rank:.1e}, "
            f"precision {self.precision:.1e}{passage}"
        )


_ADVICE = {
    "step": "Lower `rtol`, or wrap the ODE solver in `jaxgeo.OrbitCorrector`.",
    "solve": "Choose another solver of the lift, such as `jaxgeo.linalg.QR()`, or no damping.",
    "rank": "D has lost rank: the law does not hold there. See `jaxgeo.rank_report`; or use a larger network or fewer "
    "samples.",
    "precision": "The dtype of the parameters cannot represent the outputs to more digits.",
    "gram": f"{FAULT} Until it is fixed, pass `jaxgeo.linalg.DenseCholesky()` as the solver of the lift.",
}


def explain_defect(
    problem: Problem,
    flow: AbstractFlow,
    params: Params,
    s1: float,
    *,
    rtol: float | None = None,
    solver: dfx.AbstractSolver | None = None,
    dt0: float | None = None,
    num_times: int = 9,
    tolerance: float = 1e-3,
) -> DefectReport:
    """Integrate twice, with the given and with finer steps, and say why the orbit is off the law at `s1`.

    Paper: (2.7), (4.7)

    Along the law e^{s/N}(x − y) is constant; any part of Dθ̇ other than −(x − y)/N changes it. These parts are measured
    at `num_times` moments of the orbit, in float64 with the singular values of the dense D.

    **Arguments:**

    - `flow`, `s1`, `rtol`, `solver`: as for `jaxgeo.solve_flow`.
    - `dt0`: if given, steps have this size, and the finer ones half of it. Otherwise the finer steps use `rtol`/100.
    - `num_times`: the number of moments to examine, at the price of one singular value decomposition of D each.
    - `tolerance`: warn if the total is larger.

    **Returns:** a `DefectReport`. A `UserWarning` names the largest part if `total` > `tolerance`, or if an orbit ended
    because D lost rank on the way.

    **Raises:** `RuntimeError` if an integration fails for any other reason.

    ```python
    >>> import diffrax, jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: jnp.tanh(a @ x), jnp.eye(2), jg.L2(jnp.array([0.5, -0.5])))
    >>> report = jg.integrate.explain_defect(problem, jg.AdaptedFlow(), jnp.zeros(2), 4.0)
    >>> report.dominant
    'step'

    ```
    """
    check_positive("s1", s1)
    check_count("num_times", num_times, least=2)
    check_number("tolerance", tolerance, least=0)
    problem = problem.without_ignored()
    problem.check(params)
    problem, params = problem.restrict(params)
    times = np.linspace(0.0, s1, num_times)
    constant = None if dt0 is None else dfx.ConstantStepSize()

    def run(rtol: float | None, dt0: float | None) -> FlowSolution:
        found = solve_flow(
            problem,
            flow,
            params,
            s1=s1,
            solver=solver,
            rtol=rtol,
            stepsize_controller=constant,
            dt0=dt0,
            save_at=times,
            record=_parameters,
            rank_check=False,
            throw=False,
        )
        explained = [RESULTS.successful, RESULTS.left_law, RESULTS.rank_lost]
        if not any(found.result == result for result in explained):
            raise RuntimeError(found.ending)
        return found

    found = run(rtol, dt0)
    eps = float(jnp.finfo(found.costs.dtype).eps)
    usual = default_rtol(found.costs.dtype) if rtol is None else rtol
    finer = run(usual / 100, None if dt0 is None else dt0 / 2)
    start, end, fine = (_deviation(problem, point) for point in (params, found.params, finer.params))
    # The end comes before `s1` if the orbit ended because D lost rank.
    exact = np.exp(-float(found.final_s) / problem.num_samples) * start
    scale = np.linalg.norm(exact)
    solve, rank, gram = np.zeros(len(times)), np.zeros(len(times)), np.zeros(len(times))
    for index in range(len(found.s)):
        point = jax.tree.map(lambda leaf, index=index: leaf[index], found.records)
        solve[index], rank[index], gram[index] = _leaks(problem, flow, point, float(found.s[index]))
    dtypes = product_dtypes(eqx.filter_eval_shape(problem.jacobian, params))
    outputs = np.asarray(problem.outputs(found.params), np.float64)
    round_off = eps * (np.linalg.norm(outputs) + np.linalg.norm(outputs.reshape(-1) - end))
    report = DefectReport(
        total=float(np.linalg.norm(end - exact) / scale),
        step=float(max(np.linalg.norm(end - fine) - 2 * round_off, 0.0) / scale),
        solve=_integral(solve, times),
        rank=_integral(rank, times),
        precision=float(round_off / scale),
        rank_lost_at=float(found.rank_lost_at),
        gram=float(np.max(gram)) if np.max(gram) > half_the_digits(*dtypes) else 0.0,
    )
    if report.total > tolerance or found.result == RESULTS.rank_lost or report.gram > 0:
        warnings.warn(f"{report}. {report.dominant}: {_ADVICE[report.dominant]}", stacklevel=2)
    return report


def _parameters(s: Float[Array, ""], params: Params, problem: Problem) -> PyTree:
    return params


def _integral(values: NDArray[np.float64], times: NDArray[np.float64]) -> float:
    """The integral, by the trapezoidal rule."""
    return float(np.sum((values[1:] + values[:-1]) / 2 * np.diff(times)))


def _deviation(problem: Problem, params: Params) -> NDArray[np.float64]:
    return np.asarray(problem.loss.deviation(problem.outputs(params)), np.float64).reshape(-1)


def _leaks(problem: Problem, flow: AbstractFlow, params: Params, s: float) -> tuple[float, float, float]:
    """|Dθ̇ − 𝒫v| and |(1 − 𝒫)v| over |x − y|, and |G − DDᵀ| over |DDᵀ|."""
    found = _linearised(jnp.asarray(s), params, problem, flow)
    matrix, velocity, deviation, gram = (np.asarray(array, np.float64) for array in found)
    aim = -deviation / problem.num_samples
    left, values = left_singular(matrix)
    left = left[:, : numerical_rank(values, (matrix.shape[0], matrix.shape[1]), found[0].dtype)]
    inside = left @ (left.T @ aim)
    scale = np.linalg.norm(deviation)
    true = matrix @ matrix.T
    mistaken = np.linalg.norm(gram - true) / np.linalg.norm(true) if np.any(true) else 0.0
    return (
        float(np.linalg.norm(matrix @ velocity - inside) / scale),
        float(np.linalg.norm(aim - inside) / scale),
        float(mistaken),
    )


@eqx.filter_jit
def _linearised(
    s: Float[Array, ""], params: Params, problem: Problem, flow: AbstractFlow
) -> tuple[Float[Array, "QN K"], Float[Array, " K"], Float[Array, " QN"], Float[Array, "QN QN"]]:
    """D, θ̇, x − y and G."""
    jacobian = problem.jacobian(params)
    velocity = flow.velocity(s.astype(jacobian.outputs.dtype), jacobian)
    deviation = jnp.ravel(problem.loss.deviation(jacobian.outputs))
    gram = Gram(jacobian).as_matrix(certify=False)
    return jacobian.as_matrix(), ravel_pytree(velocity)[0], deviation, gram
