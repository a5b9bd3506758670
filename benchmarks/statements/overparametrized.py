"""Section 2: the overparametrized flow, the rank of DDᵀ, the stopping time, the bundle metric and its horizontal fields."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import jaxgeo as jg
from benchmarks.statements.base import (
    FULL,
    LOST,
    Point,
    Statement,
    along,
    apart,
    known,
    norm,
    slopes,
    worst,
)

SVD = jg.linalg.SVD()


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
    from matrices import linear_problem

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


def bundle_metric(here: Point) -> float:
    """h of two horizontal velocities; and, as it is a metric, whether h(V, V) ≥ σ_min²|V|² > 0."""
    _, values, right = here.bases()
    rng, found = np.random.default_rng(0), []
    for _ in range(4):
        first, second = rng.standard_normal((2, len(right))) @ right
        h = float(jg.geometry.pullback_metric(here.problem, here.params, here.at(first), here.at(second)))
        found.append(abs(h - (here.matrix @ first) @ (here.matrix @ second)) / norm(here.matrix @ first))
        square = float(jg.geometry.pullback_metric(here.problem, here.params, here.at(first), here.at(first)))
        found.append(0.0 if square >= (1 - 1e-12) * values[-1] ** 2 * norm(first) ** 2 > 0 else np.inf)
    return max(found)


def other_function(here: Point) -> Any:
    """A function of θ that is not the cost, and depends on θ not through x alone."""

    def function(params: Any) -> Any:
        flat = ravel_pytree(params)[0]
        return jnp.sum(jnp.sin(here.problem.outputs(params)) ** 2) + jnp.sum(jnp.cos(flat * jnp.arange(1.0, 1 + flat.size)))

    return function


def represents(here: Point) -> float:
    """dF(V) by central differences, against h(V, grad F), for all V of a basis of range(Dᵀ)."""
    function, right = other_function(here), here.bases()[2]
    gradient = here.flat(jg.geometry.pullback_gradient(here.problem, here.params, function, SVD))
    differential = right @ slopes(lambda theta: function(here.at(theta)), here.theta())
    return apart(right @ here.matrix.T @ (here.matrix @ gradient), differential)


def gradient_forms(here: Point) -> float:
    """(2.28), (2.29) and (2.30), with P and Pen[D] by NumPy."""
    function = other_function(here)
    gradient = here.flat(jg.geometry.pullback_gradient(here.problem, here.params, function, SVD))
    slope = here.flat(jax.grad(function)(here.params))
    inverse, right = here.inverse(), here.bases()[2]
    projected = right.T @ (right @ slope)
    return max(
        apart(here.matrix.T @ (here.matrix @ gradient), projected),
        apart(here.matrix @ gradient, inverse.T @ slope),
        apart(gradient, inverse @ (inverse.T @ slope)),
    )


def metric_gradient(here: Point) -> float:
    """θ̇ + grad C, and the part of θ̇ outside range(Dᵀ)."""
    velocity, right = here.velocity(jg.OverparametrizedFlow()), here.bases()[2]
    gradient = here.flat(jg.geometry.pullback_gradient(here.problem, here.params))
    return max(apart(-gradient, velocity), apart(right.T @ (right @ velocity), velocity))


def two_curves() -> tuple[jg.Problem, Any]:
    """Two outputs of different parameters, x = (f(a, b), g(c, d)): its leaves are products of two curves."""

    def apply(params: Any, sample: Any) -> Any:
        a, b, c, d = params
        return jnp.stack([a * jnp.exp(b) + sample * jnp.sin(a), c * c * d + sample * d])

    return jg.Problem(apply, jnp.array([0.7]), jg.L2(jnp.zeros((1, 2)))), jnp.array([0.4, -0.3, 0.8, 0.5])


def integrable() -> float:
    """The vertical part of [V, W] where range(Dᵀ) is integrable, and the displacement after a large loop of outputs."""
    problem, params = two_curves()
    first, second = jnp.array([[0.3, 0.0]]), jnp.array([[0.0, 0.3]])
    moved = jg.geometry.holonomy(problem, params, first, second, num_steps=64, solver=SVD)
    return max(jg.geometry.nonintegrability(problem, params), norm(moved))


def not_integrable() -> float:
    """The same on a network: the vertical part, and the displacement."""
    here = known("dict")
    first, second = (0.3 * here.rows(each) for each in np.eye(len(here.matrix))[:2])
    moved = jg.geometry.holonomy(here.problem, here.params, first, second, num_steps=32, solver=SVD)
    return min(jg.geometry.nonintegrability(here.problem, here.params), norm(here.flat(moved)))


def fibre() -> float:
    """The share along range(Dᵀ) of a chord of length 1e-6 in a fibre, which is found by Newton's method."""
    here = known("mlp over")
    inverse, right = here.inverse(), here.bases()[2]
    rng = np.random.default_rng(0)
    step = rng.standard_normal(here.case.num_params)
    step -= right.T @ (right @ step)
    start = here.theta()
    theta = start + 1e-6 * step / norm(step)
    for _ in range(4):
        missing = np.ravel(here.problem.outputs(here.at(theta)) - here.problem.outputs(here.params))
        theta = theta - inverse @ missing
    return norm(right @ (theta - start)) / norm(theta - start)


def contact() -> float:
    """[V, W] for V = ∂₁ + θ₂∂₃ and W = ∂₂ in three dimensions, normal to the curves along (−θ₂, 0, 1): it is −∂₃."""
    point = jnp.array([0.3, 0.9, -0.4])

    def first(theta: Any) -> Any:
        return jnp.array([1.0, 0.0, 0.0]) + theta[1] * jnp.array([0.0, 0.0, 1.0])

    def second(theta: Any) -> Any:
        return jnp.array([0.0, 1.0, 0.0]) + 0 * theta

    bracket = np.asarray(jg.geometry.lie_bracket(first, second, point))
    normal = np.array([-float(point[1]), 0.0, 1.0]) / np.hypot(1, float(point[1]))
    return float(abs(abs(normal @ bracket) - 1 / np.hypot(1, float(point[1]))))


def small_loop() -> float:
    here = known("dict")
    rng = np.random.default_rng(1)
    first, second = (jnp.asarray(rng.normal(size=(3, 2))) for _ in range(2))
    size = 3e-5
    moved = here.flat(
        jg.geometry.holonomy(here.problem, here.params, size * first, size * second, num_steps=12, solver=SVD)
    )
    curved = here.flat(jg.geometry.curvature(here.problem, here.params, first, second, SVD))
    return apart(moved, np.pi * size**2 * curved)


STATEMENTS = [
    Statement(
        "Theorem 2.1, (2.5)",
        "∂ₛx = −∇ₓC all along an orbit",
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
        "C = (N/2)|∇ₓC|², and both are 0 at the limit of θ(s)",
        "|∇ₓC| at s/N = 24 over its start, same orbit",
        end_of_the_orbit,
        1e-9,
        slow=True,
    ),
    Statement(
        "Theorem 2.1",
        "on this orbit θ(s) itself converges, as (2.8) supposes",
        "|θ(s) − θ_∗|/|θ₀ − θ_∗| from s/N = 12 on",
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
        "K ≥ QN independent directions from a density on an open part of the sphere have the rank QN with probability 1",
        f"draws of lower rank among {2 * DRAWS}, K = QN = {ROWS} and K = QN + 2",
        lost_draws,
        0.0,
        slow=True,
    ),
    Statement(
        "Prop. 2.2, (2.15), (2.16)",
        "a new direction lies in the span of at most QN − 1 earlier ones with probability 0",
        f"least distance from that span in {DRAWS} draws, to be above round-off",
        shares_of_new,
        least=1e-10,
    ),
    Statement(
        "Prop. 2.2",
        "the density is needed: of QN fixed directions K = QN draws mostly repeat one",
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
    Statement(
        "(2.22), (2.25)",
        "h(V, W) = ⟨DV, DW⟩, positive on range(Dᵀ)",
        "relative difference",
        lambda: worst(bundle_metric, *FULL),
        1e-11,
        test="test_subriemannian.py::test_metric",
    ),
    Statement(
        "(2.23), (2.26), (2.27)",
        "h(V, grad F) = dF(V) for all horizontal V, also for an F that is not a function of x",
        "relative difference from central differences of F",
        lambda: worst(represents, "mlp over"),
        1e-7,
        test="test_subriemannian.py::test_gradient_represents_the_differential",
    ),
    Statement(
        "(2.28)–(2.30)",
        "DᵀD grad F = P∇F, D grad F = Pen[D]ᵀ∇F and grad F = Pen[D]Pen[D]ᵀ∇F",
        "largest relative difference",
        lambda: worst(gradient_forms, *FULL),
        1e-9,
    ),
    Statement(
        "Prop. 2.4, (2.24)",
        "the overparametrized flow is −grad C in the bundle metric h, and horizontal",
        "relative difference, and |(1 − P)θ̇|/|θ̇|",
        lambda: worst(metric_gradient, *FULL),
        1e-9,
        test="test_subriemannian.py::test_gradient_of_the_cost_is_the_adapted_flow",
    ),
    Statement(
        "(2.31)",
        "integrable, with [V, W] horizontal and no holonomy: two outputs of separate parameters",
        "vertical part of [V, W], and displacement after a loop",
        integrable,
        1e-9,
    ),
    Statement(
        "(2.31)",
        "not integrable, with neither: a network",
        "the smaller of both",
        not_integrable,
        least=1e-2,
        slow=True,
    ),
    Statement(
        "(2.31), (2.33)",
        "the vertical part of [V, W] is the curvature: what a small loop of outputs leaves behind over its area",
        "relative difference, linear in the size of the loop, at size 3e-5",
        small_loop,
        1e-4,
        test="test_subriemannian.py::test_holonomy_is_the_curvature_of_a_small_loop",
        slow=True,
    ),
    Statement(
        "(2.32)",
        "range(Dᵀ) is normal to the fibre of x through θ",
        "share along range(Dᵀ) of a chord in the fibre of length 1e-6, linear in the length",
        fibre,
        1e-4,
    ),
    Statement(
        "Section 2.4",
        "the normal bundle of a foliation by curves need not be integrable: the contact planes of three dimensions",
        "difference of the vertical part of [V, W] from its closed form",
        contact,
        1e-14,
    ),
]
