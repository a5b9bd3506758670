"""Section 3: the standard flow, which is trapped, and its equilibria."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxgeo as jg
from cases.equilibria import examples
from cases.statements.base import Point, Statement, along, apart, known, norm, point, worst
from cases.trapping import sharpness


def speed_along() -> float:
    moments = along("mlp over", jg.StandardFlow())
    return max(apart(speed, -here.gram @ here.gradient) for speed, here in moments)


def least_eigenvalues(here: Point) -> np.ndarray:
    """The least eigenvalue of DDᵀ at θ and at θ/100, by the library; NaN if D has not the rank QN there."""
    found = []
    for factor in (1.0, 0.01):
        report = jg.rank_report(here.problem, here.at(factor * here.theta()))
        found.append(report.eigenvalues[-1] if report.rank == report.num_rows else np.nan)
    return np.array(found)


def no_bound() -> float:
    first, second = least_eigenvalues(known("mlp over"))
    return float(second / first)


def bound_of_linear() -> float:
    first, second = least_eigenvalues(known("linear over"))
    return float(abs(second / first - 1))


def only_at_the_targets(here: Point) -> float:
    """|∇ₓC| over |x − y|/N at outputs of every size, and |∇ₓC| at y itself."""
    loss = here.problem.loss
    rng, found = np.random.default_rng(0), [norm(loss.gradient(loss.targets))]
    for size in np.logspace(-8, 8, 17):
        outputs = loss.targets + size * here.rows(rng.standard_normal(len(here.matrix)))
        distance = norm(outputs - loss.targets) / here.problem.num_samples
        found.append(abs(norm(loss.gradient(outputs)) / distance - 1))
    return max(found)


def cost_and_gradient(here: Point) -> float:
    """(2C/N)^½, |∇ₓC| and |x − y|/N are the same."""
    count, outputs = here.problem.num_samples, here.problem.outputs(here.params)
    values = [
        np.sqrt(2 * float(here.problem.cost(here.params)) / count),
        norm(here.problem.loss.gradient(outputs)),
        norm(here.deviation) / count,
    ]
    return max(values) / min(values) - 1


def closed_form() -> float:
    """x = θ², y = 4, N = 1 from θ = 0.01: |Dᵀ∇ₓC| ≤ |∇ₓC|/2 up to θ = 1/4, at a time that is known."""
    problem = jg.Problem(lambda a, x: a**2 * x, jnp.array([1.0]), jg.L2(jnp.array([4.0])))
    start, end = 0.01, 0.25
    time = (np.log(end**2 / (4 - end**2)) - np.log(start**2 / (4 - start**2))) / 16
    times = np.linspace(0, 1.2 * time, 2001)
    solution = jg.solve_flow(
        problem,
        jg.StandardFlow(),
        jnp.array(start),
        s1=times[-1],
        save_at=times,
        record=jg.geometry.trapping_record,
        rtol=1e-8,
    )
    (found,) = jg.geometry.trapped_intervals(solution, 0.5)
    bound = 2 * (end - start) / (4 - start**2)
    return max(abs(found.duration / time - 1), abs(found.length / (end - start) - 1), abs(found.bound / bound - 1))


def trapped() -> float:
    return float(sharpness().max())


def critical_points() -> list[Point]:
    """Equilibria with ∇ₓC ≠ 0: minima and saddles, of contradictory samples and behind a bottleneck."""
    return [point(case) for case in examples().values()]


def lost_rank() -> float:
    """|Dᵀ∇ₓC| and |∇θC| over |∇ₓC|; infinite unless rank(D) < QN and ∇ₓC ≠ 0."""
    found = []
    for here in critical_points():
        report = jg.rank_report(here.problem, here.params)
        fits = report.rank < report.num_rows and norm(here.gradient) > 0.01
        size = max(norm(here.matrix.T @ here.gradient), norm(here.slope)) / norm(here.gradient)
        found.append(size if fits else np.inf)
    return max(found)


def full_rank_slope() -> float:
    """σ_min|∇ₓC| / |∇θC| at 20 random points of full rank; infinite where the rank is lower."""
    start = known("mlp over")
    rng, found = np.random.default_rng(0), []
    slope: Any = jax.jit(jax.grad(start.problem.cost))
    for _ in range(20):
        here = start.moved(start.theta() + rng.standard_normal(start.case.num_params))
        values = np.linalg.svd(here.matrix, compute_uv=False)
        full = values[-1] > 1e-10 * values[0]
        found.append(values[-1] * norm(here.gradient) / norm(here.flat(slope(here.params))) if full else np.inf)
    return max(found)


STATEMENTS = [
    Statement(
        "(3.1), (3.7)",
        "∂ₛx = −DDᵀ∇ₓC along a whole orbit of the standard flow",
        "relative difference from central differences of x at s/N = 0.3, 1 and 2",
        speed_along,
        1e-5,
        slow=True,
    ),
    Statement(
        "(3.2), (3.3)",
        "no λ > 0 bounds DDᵀ from below for all θ, even where rank(D) = QN",
        "least eigenvalue of a network at θ/100 over that at θ",
        no_bound,
        1e-6,
    ),
    Statement(
        "(3.2)",
        "where x is linear in θ, DDᵀ is constant, and at rank QN there is such a λ",
        "relative change of the least eigenvalue",
        bound_of_linear,
        1e-12,
    ),
    Statement(
        "(3.8)",
        "∇ₓC is 0 at x = y and nowhere else, as |∇ₓC| = |x − y|/N",
        "relative difference, |x − y| from 1e-8 to 1e8",
        lambda: worst(only_at_the_targets, "mlp over"),
        1e-6,
    ),
    Statement(
        "Prop. 3.1, (3.4), (3.5)",
        "on x = θ², y = 4: how long the orbit is trapped, its length there, and the bound",
        "largest relative difference from closed forms",
        closed_form,
        1e-3,
        test="test_trapping.py::test_interval_in_closed_form",
        slow=True,
    ),
    Statement(
        "Prop. 3.1, (3.6)",
        "an orbit of the standard flow spends at least N L_U/(ε|x(s₀) − y|) in a region U with |Dᵀ∇ₓC| < ε|∇ₓC|, "
        "L_U its length there",
        "largest bound/time of 50 orbits",
        trapped,
        1.0,
        test="test_trapping.py::test_bound_holds_on_fifty_trapped_orbits",
        slow=True,
    ),
    Statement(
        "(3.9)",
        "(2C/N)^{1/2} = |∇ₓC| = |x − y|/N",
        "relative difference",
        lambda: worst(cost_and_gradient, "mlp over", "linear under", "contradictory"),
        1e-14,
    ),
    Statement(
        "Lemma 3.2, (3.10)",
        "any equilibrium of the standard flow with ∇ₓC ≠ 0 has rank(D) < QN and ∇ₓC ∈ ker Dᵀ",
        "|Dᵀ∇ₓC|/|∇ₓC| at six such equilibria, minima and saddles, all of lower rank",
        lost_rank,
        1e-9,
        test="test_critical.py::test_equilibria",
    ),
    Statement(
        "Lemma 3.2, (3.11)",
        "where rank(D) = QN there is none: ker Dᵀ = 0, and |∇θC| ≥ σ_min|∇ₓC|",
        "largest σ_min|∇ₓC|/|∇θC| at 20 random points",
        full_rank_slope,
        1.0,
        test="test_critical.py::test_no_local_extremum_at_full_rank",
    ),
]
