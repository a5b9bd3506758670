"""Section 4: the flows where D has lost rank, their equilibria, and the ways off them."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

import jaxgeo as jg
from benchmarks.statements.base import FULL, LOST, Point, Statement, along, apart, known, norm, worst
from benchmarks.statements.comparison import critical_points

SVD = jg.linalg.SVD()


def diagonal(here: Point) -> tuple[np.ndarray, np.ndarray]:
    """R and the diagonal of Λ in DDᵀ = RᵀΛR, without the eigenvalues that are round-off."""
    values, vectors = np.linalg.eigh(here.gram)
    kept = values > 1e-10 * values[-1]
    return vectors[:, kept].T, values[kept]


def eigenvalues(here: Point) -> float:
    """Eigenvalues by the library against NumPy's; and DDᵀ of the library against RᵀΛR."""
    turn, values = diagonal(here)
    report = jg.rank_report(here.problem, here.params)
    gram = here.problem.gram(here.params).as_matrix()
    if report.rank != len(values):
        return np.inf
    return max(apart(report.eigenvalues[: report.rank], values[::-1]), apart(gram, turn.T @ (values[:, None] * turn)))


def projector(here: Point) -> float:
    found, turn = here.projector(), diagonal(here)[0]
    gram = here.gram
    return max(
        norm(found @ found - found),
        norm(found - found.T),
        norm(found - turn.T @ turn),
        apart(found @ gram @ found, gram),
    )


def inverse_on_the_range(here: Point) -> float:
    """Pen[D]ᵀPen[D] of the library is the inverse of DDᵀ on its range."""
    turn, values = diagonal(here)
    found = here.penrose()
    return apart(found.T @ found, turn.T @ (turn / values[:, None]))


def standard_outputs(here: Point) -> float:
    velocity = jg.StandardFlow()(0.0, here.params, here.problem)
    _, speed = jax.jvp(here.problem.outputs, (here.params,), (velocity,))
    return apart(np.ravel(speed), -here.projector() @ here.gram @ here.gradient)


def least_squares(here: Point) -> np.ndarray:
    """Ψ as (4.5) and (4.6) have it: the shortest that makes |DDᵀΨ + ∇ₓC| least."""
    return np.linalg.lstsq(here.gram, -here.gradient, rcond=1e-10)[0]


def by_least_squares(here: Point) -> float:
    turn, values = diagonal(here)
    closed = -turn.T @ ((turn @ here.gradient) / values)
    psi = least_squares(here)
    found = here.velocity(jg.RankAdaptiveFlow())
    return max(apart(found, here.matrix.T @ psi), apart(found, here.matrix.T @ closed))


def least_residual(here: Point) -> float:
    """|Dθ̇ + ∇ₓC| of the library is |𝒫⊥∇ₓC|, and no θ̇ of 1000 others nearby has less."""
    velocity = here.velocity(jg.RankAdaptiveFlow())
    residual = norm(here.matrix @ velocity + here.gradient)
    rng = np.random.default_rng(0)
    others = velocity + norm(velocity) * np.logspace(-6, 0, 1000)[:, None] * rng.standard_normal((1000, len(velocity)))
    least = np.linalg.norm(others @ here.matrix.T + here.gradient, axis=1).min()
    expected = norm(here.gradient - here.inside(here.gradient))
    return abs(residual / expected - 1) if least >= residual * (1 - 1e-12) else np.inf


def as_printed(here: Point) -> float:
    """∂ₛx for ∂ₛθ = −DᵀΨ with DDᵀΨ = −𝒫∇ₓC, as printed, against −𝒫∇ₓC."""
    velocity = here.at(-here.matrix.T @ least_squares(here))
    _, speed = jax.jvp(here.problem.outputs, (here.params,), (velocity,))
    return apart(np.ravel(speed), -here.inside(here.gradient))


def at_full_rank(here: Point) -> float:
    return apart(here.velocity(jg.RankAdaptiveFlow()), here.velocity(jg.OverparametrizedFlow()))


def projected(here: Point) -> float:
    return apart(here.matrix @ here.velocity(jg.RankAdaptiveFlow()), -here.inside(here.gradient))


def projected_along() -> float:
    moments = along("contradictory", jg.RankAdaptiveFlow())
    return max(apart(speed, -here.inside(here.gradient)) for speed, here in moments)


def split(here: Point) -> float:
    """|DDᵀΨ + ∇ₓC|² = |𝒫DDᵀΨ + 𝒫∇ₓC|² + |𝒫⊥∇ₓC|² for random Ψ, with 𝒫 and DDᵀ of the library."""
    inside, gram = here.projector(), np.asarray(here.problem.gram(here.params).as_matrix())
    rng, found = np.random.default_rng(0), []
    for psi in rng.standard_normal((10, len(gram))):
        whole = norm(gram @ psi + here.gradient) ** 2
        parts = norm(inside @ (gram @ psi + here.gradient)) ** 2 + norm(here.gradient - inside @ here.gradient) ** 2
        found.append(abs(parts / whole - 1))
    return max(found)


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
        found.append(
            (here, jg.geometry.walk_critical(here.problem, here.params, direction, 0.05, 20, here.case.rank))
        )
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
        "(4.1)",
        "DDᵀ = RᵀΛR, with r positive eigenvalues where D has rank r",
        "relative difference of eigenvalues, and of DDᵀ",
        lambda: worst(eigenvalues, *LOST),
        1e-12,
        test="test_rank.py::test_rank_report",
    ),
    Statement(
        "(4.2)",
        "𝒫 = RᵀP_ΛR is the orthogonal projector onto range(DDᵀ), and DDᵀ = 𝒫DDᵀ𝒫",
        "norms of 𝒫² − 𝒫, 𝒫 − 𝒫ᵀ, 𝒫 − RᵀP_ΛR and DDᵀ − 𝒫DDᵀ𝒫",
        lambda: worst(projector, *LOST),
        1e-10,
        test="test_geometry.py::test_projections_at_rank_loss_with_a_solver_for_it",
    ),
    Statement(
        "(4.3)",
        "RᵀΛ̃⁻¹R inverts DDᵀ on its range",
        "relative difference of Pen[D]ᵀPen[D] by the lift",
        lambda: worst(inverse_on_the_range, *LOST),
        1e-9,
        test="test_lift.py::test_least_squares_at_any_rank",
    ),
    Statement(
        "(4.4)",
        "under rank loss the standard flow moves the outputs by −𝒫DDᵀ∇ₓC",
        "relative difference",
        lambda: worst(standard_outputs, *LOST),
        1e-10,
    ),
    Statement(
        "Theorem 4.1, (4.5), (4.10)",
        "the adapted flow at any rank is θ̇ = DᵀΨ with the shortest Ψ that makes |DDᵀΨ + ∇ₓC| least, −(DDᵀ)⁺∇ₓC",
        "relative difference from least squares, and from eigenvectors",
        lambda: worst(by_least_squares, *LOST),
        1e-8,
        test="test_flows.py::test_rank_adaptive_flow_under_rank_loss",
    ),
    Statement(
        "(4.5)",
        "with the sign as printed, θ̇ = −DᵀΨ, the outputs would climb: ∂ₛx = +𝒫∇ₓC",
        "|∂ₛx + 𝒫∇ₓC|/|𝒫∇ₓC| as printed, which (4.7) wants to be 0",
        lambda: min(as_printed(known(name)) for name in LOST),
        least=1.99,
    ),
    Statement(
        "Theorem 4.1",
        "at full rank QN it is the flow of Theorem 2.1",
        "relative difference",
        lambda: worst(at_full_rank, *FULL),
        1e-10,
        test="test_rank_loss.py::test_at_full_rank_it_is_the_overparametrized_flow",
    ),
    Statement(
        "(4.6), (4.9)",
        "what is left, |Dθ̇ + ∇ₓC|, is least, namely |𝒫⊥∇ₓC|",
        "relative difference; 1000 other velocities leave more",
        lambda: worst(least_residual, *LOST),
        1e-10,
    ),
    Statement(
        "Theorem 4.1, (4.7), (4.11)",
        "at any rank the outputs move by −𝒫∇ₓC",
        "relative difference",
        lambda: worst(projected, *LOST),
        1e-8,
        test="test_rank_loss.py::test_outputs_move_by_the_projected_gradient_all_along",
    ),
    Statement(
        "Theorem 4.1, (4.7)",
        "and so all along an orbit",
        "relative difference from central differences of x at s/N = 0.3, 1 and 2",
        projected_along,
        1e-5,
        slow=True,
    ),
    Statement(
        "(4.8)",
        "|DDᵀΨ + ∇ₓC|² = |𝒫DDᵀΨ + 𝒫∇ₓC|² + |𝒫⊥∇ₓC|² for any Ψ",
        "relative difference",
        lambda: worst(split, *LOST),
        1e-10,
    ),
    Statement(
        "Theorem 4.2, (4.12)",
        "both flows have the same equilibria, 𝒫∇ₓC = 0",
        "largest speed |∂ₛx|/|∇ₓC| of either at six equilibria with ∇ₓC ≠ 0",
        equilibria,
        1e-9,
        test="test_critical.py::test_equilibria",
    ),
    Statement(
        "Theorem 4.2, (4.12)",
        "and no others: σ_r|𝒫∇ₓC| ≤ |Dᵀ∇ₓC| ≤ σ₁|𝒫∇ₓC|",
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
        "generically: on the circle x = (cos θ₁, sin θ₁), K = 3, r = 1, for a target off its centre",
        "difference from K − r",
        generic,
        0.0,
    ),
    Statement(
        "Theorem 4.2, (4.14)",
        "not always: with its centre as target all g_α vanish everywhere",
        "dimension above K − r",
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
        "so the cost is constant on it",
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
        "off a saddle some step κ∇g_α lowers the cost",
        "relative change of the cost, |κ∇g_α| = 0.001, largest of two saddles",
        lambda: max(change(True)),
        -1e-8,
        test="test_critical.py::test_escapes",
    ),
    Statement(
        "(4.17)",
        "by as much as the second derivative along it says, whatever the sign of κ",
        "relative difference of the second derivative",
        second_derivative,
        1e-4,
        test="test_critical.py::test_escapes",
    ),
    Statement(
        "(4.17)",
        "off a minimum no small step along any ∇g_α does, of either sign",
        "relative change of the cost, |κ∇g_α| = 0.001, least of four minima",
        lambda: min(change(False)),
        least=1e-9,
        test="test_critical.py::test_escapes",
    ),
]
