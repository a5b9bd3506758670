"""Theorem 4.2 and Section 4.2: the equilibria of both flows, the manifold that they form, and the ways off it."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

import jaxgeo as jg
from cases.statements.base import FULL, LOST, Point, Statement, apart, norm, worst
from cases.statements.comparison import critical_points

SVD = jg.linalg.SVD()


def equilibria() -> float:
    """The speeds of both flows at equilibria that are built, over |∇ₓC|."""
    found = []
    for here in critical_points():
        for flow in (jg.StandardFlow(), jg.RankAdaptiveFlow(SVD)):
            velocity = flow(0.0, here.params, here.problem)
            _, speed = jax.jvp(here.problem.outputs, (here.params,), (velocity,))
            found.append(norm(speed) / norm(here.gradient))
    return max(found)


def between(here: Point) -> float:
    """σ_r|𝒫∇ₓC| ≤ |Dᵀ∇ₓC| ≤ σ₁|𝒫∇ₓC|: the larger of both quotients."""
    values, state = here.bases()[1], jg.geometry.equilibrium(here.problem, here.params)
    return max(values[-1] * state.adapted / state.standard, state.standard / (values[0] * state.adapted))


def components(here: Point) -> float:
    """(V_α, 𝒫∇ₓC) = (V_α, ∇ₓC) for columns V_α of D, with 𝒫 of the library."""
    return apart(here.matrix.T @ (here.projector() @ here.gradient), here.matrix.T @ here.gradient)


Manifolds = list[tuple[Point, jg.geometry.CriticalManifold]]


@cache
def manifolds() -> Manifolds:
    return [(here, jg.geometry.critical_manifold(here.problem, here.params)) for here in critical_points()]


def dimension() -> float:
    return float(max(abs(found.dimension - (here.case.num_params - here.case.rank)) for here, found in manifolds()))


@cache
def walks() -> list[tuple[Point, jg.geometry.Walk]]:
    found = []
    for here, manifold in manifolds():
        direction = jnp.asarray(manifold.tangent[0])
        found.append((here, jg.geometry.walk_critical(here.problem, here.params, direction, 0.05, 20, here.case.rank)))
    return found


def on_the_manifold() -> float:
    """|∇θC|/|∇ₓC| at the ends of walks along M_crit, which are 20 steps of 0.05 away."""
    ends = [here.moved(np.asarray(walk.points[-1])) for here, walk in walks()]
    return max(norm(end.slope) / norm(end.gradient) for end in ends)


def constant_cost() -> float:
    return float(max(np.ptp(walk.costs) for _, walk in walks()))


def chords() -> float:
    """The share of a chord of M_crit of length 1e-5 in the span of the ∇g_α."""
    found = []
    for here, manifold in manifolds():
        direction = jnp.asarray(manifold.tangent[-1])
        walk = jg.geometry.walk_critical(here.problem, here.params, direction, 1e-5, 1, here.case.rank)
        chord = np.asarray(walk.points[1] - walk.points[0])
        span = np.linalg.qr(manifold.gradients.T)[0]
        found.append(norm(span.T @ chord) / norm(chord))
    return max(found)


def circle(*target: float) -> jg.geometry.CriticalManifold:
    """M_crit at a critical point of x = (cos θ₁, sin θ₁) with three parameters: r = 1, K − r = 2."""

    def apply(params: jax.Array, scale: jax.Array) -> jax.Array:
        return scale * jnp.stack([jnp.cos(params[0]), jnp.sin(params[0])])

    problem = jg.Problem(apply, jnp.array([1.0]), jg.L2(jnp.array([target])))
    angle = float(np.arctan2(target[1], target[0]))
    return jg.geometry.critical_manifold(problem, jnp.array([angle, 0.2, -0.1]))


def generic() -> float:
    return float(abs(circle(0.3, 0.1).dimension - 2))


def not_generic() -> float:
    return float(circle(0.0, 0.0).dimension - 2)


def second_derivative() -> float:
    """Of C along the first escape of each saddle, by differences, against what the manifold says."""
    found = []
    for here, manifold in manifolds():
        for direction, curvature in zip(manifold.escapes, manifold.curvatures, strict=False):
            costs = [float(here.problem.cost(here.at(here.theta() + t * direction))) for t in (-1e-3, 0.0, 1e-3)]
            found.append(abs((costs[0] - 2 * costs[1] + costs[2]) / (1e-6 * curvature) - 1))
    return max(found)


def change(only_saddles: bool) -> list[float]:
    """The least relative change of C by a step κ∇g_α, |κ∇g_α| = 0.001, either sign, at each equilibrium of a kind."""
    found = []
    for here, manifold in manifolds():
        if (len(manifold.escapes) > 0) is not only_saddles:
            continue
        # Any basis of range(D) gives functions g_α: this one makes their gradients orthogonal.
        steps = [sign * 1e-3 * direction for direction in manifold.normal for sign in (1, -1)]
        cost = float(here.problem.cost(here.params))
        found.append(min(float(here.problem.cost(here.at(here.theta() + step))) / cost - 1 for step in steps))
    return found


STATEMENTS = [
    Statement(
        "Theorem 4.2, (4.12)",
        "where one flow stands still, 𝒫∇ₓC = 0, so does the other",
        "largest speed |∂ₛx|/|∇ₓC| of either at six equilibria with ∇ₓC ≠ 0",
        equilibria,
        1e-9,
        test="test_critical.py::test_equilibria",
    ),
    Statement(
        "Theorem 4.2, (4.12)",
        "neither flow stands still elsewhere: σ_r|𝒫∇ₓC| ≤ |Dᵀ∇ₓC| ≤ σ₁|𝒫∇ₓC|",
        "largest quotient of neighbours in this chain",
        lambda: worst(between, *FULL, *LOST, "mlp under"),
        1.0,
        test="test_critical.py::test_both_flows_stand_still_together",
    ),
    Statement(
        "(4.13)",
        "g_α = (V_α, 𝒫∇ₓC) = (V_α, ∇ₓC) for columns V_α of D",
        "relative difference",
        lambda: worst(components, *LOST),
        1e-10,
    ),
    Statement(
        "Theorem 4.2, (4.14)",
        "where D keeps its rank r, M_crit = {g_α = 0} has the dimension K − r if the ∇g_α are independent",
        "difference at six equilibria, r = QN − 1 and QN − 2",
        dimension,
        0.0,
        test="test_critical.py::test_dimension",
    ),
    Statement(
        "Theorem 4.2, (4.14)",
        "the circle x = (cos θ₁, sin θ₁), K = 3, r = 1, with a target off its centre, is generic",
        "difference of the dimension from K − r",
        generic,
        0.0,
    ),
    Statement(
        "Theorem 4.2, (4.14)",
        "with the centre as target it is not: g_α = 0 everywhere, and the ∇g_α are dependent",
        "dimension less K − r",
        not_generic,
        least=1.0,
    ),
    Statement(
        "(4.14)",
        "every point of M_crit is an equilibrium",
        "|∇θC|/|∇ₓC| after walks of 20 steps of 0.05 on it",
        on_the_manifold,
        1e-8,
        test="test_critical.py::test_walk_keeps_the_cost",
        slow=True,
    ),
    Statement(
        "(4.14)",
        "as ∇θC = 0 there, the cost is constant on M_crit",
        "largest change over these walks",
        constant_cost,
        1e-12,
        test="test_critical.py::test_walk_keeps_the_cost",
        slow=True,
    ),
    Statement(
        "(4.15), (4.16)",
        "the ∇g_α span the normal space of M_crit",
        "share in their span of a chord of M_crit of length 1e-5, linear in the length",
        chords,
        1e-3,
        test="test_critical.py::test_gradients_by_finite_differences",
        slow=True,
    ),
    Statement(
        "(4.16), (4.17)",
        "from a saddle some small step κ∇g_α lowers the cost",
        "relative change of the cost, |κ∇g_α| = 0.001, largest of two saddles",
        lambda: max(change(True)),
        -1e-8,
        test="test_critical.py::test_escapes",
    ),
    Statement(
        "(4.17)",
        "it lowers the cost by what the second derivative says, for either sign of κ",
        "relative difference of the second derivative",
        second_derivative,
        1e-4,
        test="test_critical.py::test_escapes",
    ),
    Statement(
        "(4.17)",
        "from a minimum no small step κ∇g_α does, for either sign of κ",
        "relative change of the cost, |κ∇g_α| = 0.001, least of four minima",
        lambda: min(change(False)),
        least=1e-9,
        test="test_critical.py::test_escapes",
    ),
]
