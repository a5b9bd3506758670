"""Every numbered statement of arXiv:2311.15487, and how far the numbers are from it.

`python -m benchmarks.statements` writes `results/statements.json` and the table of `docs/statements.md`.
"""

import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import jaxgeo as jg
from benchmarks.harness import RESULTS, environment

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))
START, END = "<!-- measured: begin -->", "<!-- measured: end -->"


class Statement(NamedTuple):
    """A statement, the test that fails if it is false, and what is measured: a deviation of 0 is perfect agreement."""

    source: str
    says: str
    test: str
    what: str
    measure: Callable[[], float]


def flat(case: Any, velocity: Any) -> np.ndarray:
    return np.asarray(ravel_pytree(case.problem.partition(velocity)[0])[0])


def norm(values: Any) -> float:
    return float(np.linalg.norm(values))


def known(*names: str) -> list[Any]:
    from problems import cases

    return [cases()[name] for name in names]


def gradient(case: Any) -> np.ndarray:
    return np.ravel(case.problem.loss.gradient(case.problem.outputs(case.params)))


def standard_rate() -> float:
    found = []
    for case in known("mlp over", "mlp under", "mlp duplicates"):
        velocity = jg.StandardFlow()(0.0, case.params, case.problem)
        _, slope = jax.jvp(case.problem.cost, (case.params,), (velocity,))
        square = norm(case.dense().T @ gradient(case)) ** 2
        found.append(abs(float(slope) + square) / square)
    return max(found)


@cache
def orbit() -> tuple[Any, jg.FlowSolution]:
    (case,) = known("mlp over")

    def record(s, params, problem):
        return problem.outputs(params)

    times = np.linspace(0, 4 * case.problem.num_samples, 17)
    return case, jg.solve_flow(
        case.problem, jg.AdaptedFlow(), case.params, s1=times[-1], save_at=times, rtol=1e-10, record=record
    )


def cost_law() -> float:
    return float(jnp.abs(orbit()[1].defect).max())


def output_law() -> float:
    case, solution = orbit()
    loss = case.problem.loss
    exact = [jg.theory.outputs_at(s, solution.records[0], loss.targets, loss.num_samples) for s in solution.s]
    return float(np.abs(np.asarray(solution.records) - np.array(exact)).max())


def stopping_time() -> float:
    case = orbit()[0]
    solution = jg.solve_flow(case.problem, jg.AdaptedFlow(), case.params, cost_tol=1e-4, rtol=1e-10)
    return abs(float(solution.final_s / solution.stopping_time) - 1)


def partial_ranks() -> float:
    wrong = 0
    for case in known("mlp over", "mlp under", "mlp duplicates"):
        order = np.random.default_rng(0).permutation(case.num_params)
        counts = np.arange(case.num_params + 1)
        found = jg.geometry.partial_ranks(case.problem, case.params, counts.tolist(), order)
        wrong += int(np.sum(found != np.minimum(counts, case.rank)))
    return float(wrong)


def metric_gradient(*names: str) -> float:
    found = []
    for case in known(*names):
        velocity = flat(case, jg.AdaptedFlow()(0.0, case.params, case.problem))
        ours = flat(case, jg.geometry.pullback_gradient(case.problem, case.params))
        found.append(norm(ours + velocity) / norm(velocity))
    return max(found)


def small_loop() -> float:
    (case,) = known("dict")
    rng = np.random.default_rng(1)
    first, second = (jnp.asarray(rng.normal(size=(3, 2))) for _ in range(2))
    size, solver = 3e-5, jg.linalg.SVD()
    axes = size * first, size * second
    moved = flat(case, jg.geometry.holonomy(case.problem, case.params, *axes, num_steps=12, solver=solver))
    expected = np.pi * size**2 * flat(case, jg.geometry.curvature(case.problem, case.params, first, second))
    return norm(moved - expected) / norm(expected)


def trapped() -> float:
    from test_trapping import sharpness

    return float(sharpness().max())


def full_rank_slope() -> float:
    (case,) = known("mlp over")
    values = np.linalg.svd(case.dense(), compute_uv=False)
    return float(values[-1] * norm(gradient(case)) / norm(case.dense().T @ gradient(case)))


def projected(*names: str) -> float:
    """|Dθ̇ + 𝒫∇ₓC| / |𝒫∇ₓC| along the adapted flow."""
    found = []
    for case in known(*names):
        matrix = case.dense()
        left = np.linalg.svd(matrix)[0][:, : case.rank]
        aim = left @ (left.T @ gradient(case))
        velocity = flat(case, jg.RankAdaptiveFlow()(0.0, case.params, case.problem))
        found.append(norm(matrix @ velocity + aim) / norm(aim))
    return max(found)


def critical_examples() -> list[Any]:
    from test_critical import examples

    return list(examples().values())


def equilibria() -> float:
    found = [jg.geometry.equilibrium(case.problem, case.params) for case in critical_examples()]
    return max(max(each.standard, each.adapted) / each.gradient for each in found)


@cache
def manifolds() -> list[tuple[Any, jg.geometry.CriticalManifold]]:
    return [(case, jg.geometry.critical_manifold(case.problem, case.params)) for case in critical_examples()]


def dimension() -> float:
    return float(max(abs(manifold.dimension - (case.num_params - case.rank)) for case, manifold in manifolds()))


def constant_cost() -> float:
    found = []
    for case, manifold in manifolds():
        direction = jnp.asarray(manifold.tangent[0])
        walk = jg.geometry.walk_critical(case.problem, case.params, direction, 0.05, 20, case.rank)
        found.append(np.ptp(walk.costs))
    return float(max(found))


def escape() -> float:
    found = []
    for case, manifold in manifolds():
        for direction, fall in zip(manifold.escapes, manifold.curvatures, strict=False):
            theta, unravel = ravel_pytree(case.params)
            step = 1e-3
            costs = [float(case.problem.cost(unravel(theta + t * direction))) for t in (-step, 0.0, step)]
            found.append(abs((costs[0] - 2 * costs[1] + costs[2]) / (step**2 * fall) - 1))
    return max(found)


@cache
def constrained() -> tuple[Any, jg.FlowSolution]:
    (case,) = known("linear under")
    return case, jg.solve_flow(case.problem, jg.UnderparametrizedFlow(), case.params, s1=12.0 * 7, rtol=1e-9)


def monotone() -> float:
    return float(max(0.0, np.diff(constrained()[1].costs).max()))


def critical_cost() -> float:
    case, solution = constrained()
    rows = case.problem.loss.gradient(case.problem.outputs(solution.params))
    outside = rows - jg.geometry.output_projection(case.problem, solution.params, rows)
    return abs(float(jg.theory.critical_cost(outside, case.problem.num_samples) / solution.final_cost) - 1)


def integrable() -> float:
    (case,) = known("mlp under")
    return jg.geometry.nonintegrability(case.problem, case.params)


def not_integrable() -> float:
    from test_subriemannian import bottleneck

    case = bottleneck()
    return jg.geometry.nonintegrability(case.problem, case.params)


def borderline() -> float:
    (case,) = known("mlp borderline")
    rows, columns = jg.linalg.GramCholesky(), jg.linalg.NormalCholesky()
    over = flat(case, jg.OverparametrizedFlow(rows)(0.0, case.params, case.problem))
    under = flat(case, jg.UnderparametrizedFlow(columns)(0.0, case.params, case.problem))
    return norm(over - under) / norm(under)


STATEMENTS = [
    Statement(
        "(1.10)",
        "∂ₛC = −|∇θC|² along the standard flow",
        "test_flows.py::test_standard_flow",
        "relative difference",
        standard_rate,
    ),
    Statement(
        "(2.6)",
        "C(s) = e^{-2s/N} C(0) along the adapted flow of full rank QN",
        "test_integrate.py::test_law",
        "relative difference up to s/N = 4, rtol 1e-10",
        cost_law,
    ),
    Statement(
        "(2.7)",
        "each output deviates as e^{-s/N}",
        "test_integrate.py::test_law",
        "absolute difference of the outputs, same orbit",
        output_law,
    ),
    Statement(
        "(2.18)",
        "the time to a cost ε is (N/2) log(C(0)/ε)",
        "test_integrate.py::test_stopping_time",
        "relative difference, ε = 1e-4",
        stopping_time,
    ),
    Statement(
        "(2.12), Prop. 2.2",
        "DDᵀ is a sum of K terms of rank one, each of which raises the rank by at most one, up to min(K, QN)",
        "test_rank.py::test_partial_ranks",
        "partial sums in random order whose rank is not min(k, rank)",
        partial_ranks,
    ),
    Statement(
        "Prop. 2.4",
        "the overparametrized flow is −grad C in the bundle metric h, and horizontal",
        "test_subriemannian.py::test_gradient_of_the_cost_is_the_adapted_flow",
        "relative difference",
        lambda: metric_gradient("mlp over", "linear over"),
    ),
    Statement(
        "(2.31)–(2.33)",
        "the vertical part of [V, W] is the curvature: what a small loop leaves behind over its area",
        "test_subriemannian.py::test_holonomy_is_the_curvature_of_a_small_loop",
        "relative difference, linear in the size of the loop, at size 3e-5",
        small_loop,
    ),
    Statement(
        "(3.2)–(3.6), Prop. 3.1",
        "a trapped orbit of the standard flow takes at least ℓ/(ε|∇ₓC|)",
        "test_trapping.py::test_bound_holds_on_fifty_trapped_orbits",
        "largest bound/time of 50 orbits, to be below 1",
        trapped,
    ),
    Statement(
        "(3.10), Lemma 3.2",
        "a local extremum with ∇ₓC ≠ 0 needs rank(D) < QN: at full rank |∇θC| ≥ σ_min|∇ₓC|",
        "test_critical.py::test_no_local_extremum_at_full_rank",
        "σ_min|∇ₓC| / |∇θC|, to be below 1",
        full_rank_slope,
    ),
    Statement(
        "(4.5)",
        "at any rank the outputs move by −𝒫∇ₓC",
        "test_flows.py::test_rank_adaptive_flow_under_rank_loss",
        "relative difference",
        lambda: projected("mlp duplicates", "linear deficient"),
    ),
    Statement(
        "(4.12), Theorem 4.2",
        "both flows have the same equilibria",
        "test_critical.py::test_both_flows_stand_still_together",
        "largest speed of either at six constructed critical points, over |∇ₓC|",
        equilibria,
    ),
    Statement(
        "(4.13)",
        "M_crit has the dimension K − r, and {∇g_α} the rank r; r = QN − 1 and QN − 2",
        "test_critical.py::test_dimension",
        "difference",
        dimension,
    ),
    Statement(
        "(4.14)",
        "the cost is constant on M_crit",
        "test_critical.py::test_walk_keeps_the_cost",
        "largest change over walks of 20 steps of 0.05",
        constant_cost,
    ),
    Statement(
        "(4.15)–(4.17)",
        "off a saddle the cost falls along directions in the span of the ∇g_α",
        "test_critical.py::test_escapes",
        "relative difference of the second derivative of the cost",
        escape,
    ),
    Statement(
        "(5.3), (5.4)",
        "the outputs of the underparametrized flow move by −𝒫∇ₓC",
        "test_flows.py::test_outputs_move_along_their_projected_gradient",
        "relative difference",
        lambda: projected("mlp under", "linear under"),
    ),
    Statement(
        "(5.12)",
        "the cost falls monotonically along the underparametrized flow",
        "test_integrate.py::test_cost_along_the_underparametrized_flow",
        "largest rise between two steps",
        monotone,
    ),
    Statement(
        "(5.6), (5.7)",
        "at a critical point C = (N/2)|𝒫⊥∇ₓC|²",
        "test_critical.py::test_cost_left_at_a_critical_point_of_the_underparametrized_flow",
        "relative difference at the end of an orbit",
        critical_cost,
    ),
    Statement(
        "(5.14)–(5.18), Prop. 5.3",
        "the underparametrized flow is −grad C in the metric g = DᵀD",
        "test_subriemannian.py::test_gradient_of_the_cost_is_the_adapted_flow",
        "relative difference",
        lambda: metric_gradient("mlp under", "linear under"),
    ),
    Statement(
        "Remark 5.4",
        "underparametrized: integrable",
        "test_subriemannian.py::test_underparametrized_is_holonomic",
        "non-integrability, to be 0",
        integrable,
    ),
    Statement(
        "Remark 5.4",
        "overparametrized with rank loss: in general not integrable",
        "test_subriemannian.py::test_rank_deficient_is_not_holonomic",
        "non-integrability, to be well above 0",
        not_integrable,
    ),
    Statement(
        "(6.1)–(6.4)",
        "for K = QN both flows coincide",
        "test_flows.py::test_borderline_flows_coincide",
        "relative difference, one by DDᵀ and one by DᵀD",
        borderline,
    ),
]


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = ["| Statement | What it says | Test | Measured | Value |", "|---|---|---|---|---|"]
    for row in rows:
        says, what = (row[key].replace("|", "\\|") for key in ("says", "what"))
        lines.append(f"| {row['source']} | {says} | `{row['test']}` | {what} | {row['value']:.2g} |")
    return "\n".join(lines)


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    rows = []
    for statement in STATEMENTS:
        value = statement.measure()
        print(f"{statement.source:28s} {value:.2g}", file=sys.stderr, flush=True)
        rows.append(dict(zip(("source", "says", "test", "what", "value"), (*statement[:4], value), strict=True)))
    results = {"environment": environment(), "dtype": "float64", "statements": rows}
    (RESULTS / "statements.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    page = ROOT / "docs" / "statements.md"
    before, _, rest = page.read_text().partition(START)
    page.write_text(f"{before}{START}\n{table(rows)}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
