"""Theorem 2.1 and Sections 2.1 and 2.2: the overparametrized flow, the rank of DDᵀ, and the stopping time."""

from functools import cache
from typing import Any

import numpy as np
from jax.flatten_util import ravel_pytree

import jaxgeo as jg
from cases.matrices import linear_problem
from cases.statements.base import FULL, LOST, Point, Statement, along, apart, known, norm, worst


class Orbit:
    """The overparametrized flow on a network, integrated to s/N = 24, with what was recorded at equal times."""

    def __init__(self) -> None:
        self.start = known("mlp over")
        self.count = self.start.problem.num_samples

        def record(s: Any, params: Any, problem: jg.Problem) -> Any:
            return problem.outputs(params), ravel_pytree(params)[0]

        times = np.linspace(0, 24 * self.count, 97)
        self.solution = jg.solve_flow(
            self.start.problem,
            jg.AdaptedFlow(),
            self.start.params,
            s1=times[-1],
            save_at=times,
            rtol=1e-11,
            record=record,
        )
        outputs, self.thetas = (np.asarray(each) for each in self.solution.records)
        self.deviations = (outputs - np.asarray(self.start.problem.loss.targets)).reshape(len(times), -1)
        self.tau = times / self.count
        self.costs = np.asarray(self.solution.costs)


orbit = cache(Orbit)


def speed_along() -> float:
    return max(apart(speed, -here.gradient) for speed, here in along("mlp over", jg.OverparametrizedFlow()))


def cost_law() -> float:
    early = orbit().tau <= 4
    exact = np.exp(-2 * orbit().tau) * orbit().costs[0]
    return float(np.abs(orbit().costs / exact - 1)[early].max())


def output_law() -> float:
    exact = np.exp(-orbit().tau)[:, None] * orbit().deviations[0]
    return float(np.abs(orbit().deviations - exact).max())


def end_of_the_orbit() -> float:
    """C = (N/2)|∇ₓC|² of the library where θ has converged, and how far both are from 0."""
    end = orbit().start.moved(orbit().thetas[-1])
    cost = float(end.problem.cost(end.params))
    gradient = norm(end.problem.loss.gradient(end.problem.outputs(end.params)))
    start = norm(orbit().start.gradient)
    return max(abs(orbit().count / 2 * gradient**2 / cost - 1), gradient / start, cost / orbit().costs[0])


def convergence() -> float:
    """How far θ still moves after s/N = 12, over |θ₀ − θ_∗|."""
    end = orbit().thetas[-1]
    late = orbit().thetas[orbit().tau >= 12]
    return float(np.linalg.norm(late - end, axis=1).max() / norm(orbit().thetas[0] - end))


def lengths_of_columns(here: Point) -> float:
    """Both sums of (2.12) against DDᵀ of the library."""
    lengths = np.linalg.norm(here.matrix, axis=0)
    used = lengths > 0
    units = here.matrix[:, used] / lengths[used]
    found = here.problem.gram(here.params).as_matrix()
    plain = sum(np.outer(column, column) for column in here.matrix.T)
    scaled = sum(size**2 * np.outer(unit, unit) for size, unit in zip(lengths[used], units.T, strict=True))
    return max(apart(found, plain), apart(found, scaled))


def partial_ranks(here: Point) -> float:
    order = np.random.default_rng(0).permutation(here.case.num_params)
    counts = np.arange(here.case.num_params + 1)
    found = jg.geometry.partial_ranks(here.problem, here.params, counts.tolist(), order)
    return float(np.sum(found != np.minimum(counts, here.case.rank)))


ROWS, DRAWS = 6, 400


def directions(rng: np.random.Generator, count: int) -> np.ndarray:
    """Independent directions from a small open cap of the sphere, with a density that is not uniform."""
    near = np.eye(ROWS)[0] + 0.3 * rng.standard_normal((count, ROWS)) ** 3
    return (near / np.linalg.norm(near, axis=1, keepdims=True)).T


def lost_draws() -> float:
    """Draws of K = QN and of QN + 2 directions, of which the sum (2.12) has a rank below QN; by the library."""
    rng, count = np.random.default_rng(0), 0
    for size in (ROWS, ROWS + 2):
        for _ in range(DRAWS):
            problem, params = linear_problem(directions(rng, size))
            count += int(jg.geometry.partial_ranks(problem, params, [size])[0] < ROWS)
    return float(count)


def shares_of_new() -> float:
    """The least distance of a new direction from the span of those before it, over all draws: never 0."""
    rng, least = np.random.default_rng(1), 1.0
    for _ in range(DRAWS):
        lengths = np.abs(np.diag(np.linalg.qr(directions(rng, ROWS), mode="r")))
        least = min(least, float(lengths.min()))
    return least


def without_density() -> float:
    """The share of draws of lower rank where directions come from QN fixed ones: 1 − QN!/QN^QN for K = QN."""
    rng = np.random.default_rng(2)
    fixed = directions(rng, ROWS)
    draws = [fixed[:, rng.integers(0, ROWS, ROWS)] for _ in range(DRAWS)]
    return float(np.mean([np.linalg.matrix_rank(draw) < ROWS for draw in draws]))


def stopping_time() -> float:
    start = known("mlp over")
    solution = jg.solve_flow(start.problem, jg.AdaptedFlow(), start.params, cost_tol=1e-4, rtol=1e-10)
    expected = start.problem.num_samples / 2 * np.log(float(start.problem.cost(start.params)) / 1e-4)
    return max(abs(float(time) / expected - 1) for time in (solution.final_s, solution.stopping_time))


def from_then_on() -> float:
    """Saved moments at which C ≤ ε and s ≥ s_ε are not both true or both false, for 40 values of ε."""
    wrong = 0
    for ratio in np.exp(-np.linspace(0.13, 39.7, 40)):
        time = float(jg.theory.stopping_time(orbit().costs[0], ratio * orbit().costs[0], orbit().count))
        wrong += int(np.sum((orbit().costs <= ratio * orbit().costs[0]) != (orbit().tau * orbit().count >= time)))
    return float(wrong)


STATEMENTS = [
    Statement(
        "Theorem 2.1, (2.5)",
        "∂ₛx = −∇ₓC along a whole orbit of the overparametrized flow",
        "relative difference from central differences of x at s/N = 0.3, 1 and 2",
        speed_along,
        1e-5,
        slow=True,
    ),
    Statement(
        "Theorem 2.1, (2.6)",
        "C(s) = e^{-2s/N} C(0) along the adapted flow of full rank QN",
        "relative difference up to s/N = 4, rtol 1e-11",
        cost_law,
        1e-8,
        test="test_integrate.py::test_law",
        slow=True,
    ),
    Statement(
        "Theorem 2.1, (2.7)",
        "x(s) − y = e^{-s/N}(x(0) − y), output by output",
        "largest difference of an output up to s/N = 24, same orbit",
        output_law,
        1e-8,
        test="test_integrate.py::test_law",
        slow=True,
    ),
    Statement(
        "(1.29), (2.10), (2.11); Theorem 2.1, (2.8)",
        "C = (N/2)|∇ₓC|², and both are 0 at θ_∗, the limit of θ(s)",
        "|∇ₓC| at s/N = 24 over |∇ₓC| at the start, same orbit; e^{-24} = 3.8e-11",
        end_of_the_orbit,
        1e-9,
        slow=True,
    ),
    Statement(
        "Theorem 2.1",
        "(2.8) supposes that θ(s) converges, which it does on this orbit",
        "largest |θ(s) − θ_∗|/|θ₀ − θ_∗| from s/N = 12 on",
        convergence,
        1e-4,
        slow=True,
    ),
    Statement(
        "(2.12)",
        "DDᵀ = Σ |∂x/∂θ_j|² e_j e_jᵀ, a sum of K terms of rank one",
        "relative difference",
        lambda: worst(lengths_of_columns, *FULL, *LOST, "mlp under"),
        1e-12,
    ),
    Statement(
        "(2.12)",
        "each term raises the rank by at most one, up to that of D",
        "partial sums in random order whose rank is not min(k, rank(D))",
        lambda: worst(partial_ranks, "mlp over", "mlp under", "mlp duplicates"),
        0.0,
        test="test_rank.py::test_partial_ranks",
    ),
    Statement(
        "Prop. 2.2, (2.13), (2.14)",
        "K ≥ QN directions, drawn independently from a density on an open part of the sphere, span all QN "
        "dimensions with probability 1",
        f"draws of lower rank among {2 * DRAWS}, K = QN = {ROWS} and K = QN + 2",
        lost_draws,
        0.0,
        slow=True,
    ),
    Statement(
        "Prop. 2.2, (2.15), (2.16)",
        "a direction drawn so lies in the span of at most QN − 1 earlier ones with probability 0",
        f"least distance from that span in {DRAWS} draws",
        shares_of_new,
        least=1e-10,
    ),
    Statement(
        "Prop. 2.2",
        "the density is needed: K = QN draws from QN fixed directions mostly repeat one",
        f"share of {DRAWS} draws of lower rank, 1 − QN!/QN^QN = 0.985 expected",
        without_density,
        least=0.95,
    ),
    Statement(
        "Theorem 2.3, (2.17)–(2.20)",
        "the first time with C ≤ ε is s_ε = (N/2) log(C(0)/ε)",
        "relative difference, ε = 1e-4",
        stopping_time,
        1e-9,
        test="test_integrate.py::test_stopping_time",
        slow=True,
    ),
    Statement(
        "(2.21)",
        "C ≤ ε at every s ≥ s_ε, and at no earlier one",
        "saved moments of an orbit where that is wrong, for 40 values of ε",
        from_then_on,
        0.0,
        slow=True,
    ),
]
