"""Section 4.1: the flows where D has lost rank."""

import jax
import numpy as np

import jaxgeo as jg
from cases.statements.base import FULL, LOST, Point, Statement, along, apart, known, norm, worst


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
    found = here.velocity(jg.RankAdaptiveFlow())
    expected = -here.matrix.T @ np.linalg.solve(here.gram, here.gradient)
    return max(apart(found, expected), apart(found, here.velocity(jg.OverparametrizedFlow())))


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
        "with both signs as printed, θ̇ = −DᵀΨ, the cost would rise: ∂ₛx = +𝒫∇ₓC",
        "|∂ₛx + 𝒫∇ₓC|/|𝒫∇ₓC| with these signs; (4.7) needs 0",
        lambda: min(as_printed(known(name)) for name in LOST),
        least=1.99,
    ),
    Statement(
        "Theorem 4.1",
        "at full rank QN this flow is that of Theorem 2.1",
        "relative difference",
        lambda: worst(at_full_rank, *FULL),
        1e-8,
        test="test_rank_loss.py::test_at_full_rank_it_is_the_overparametrized_flow",
    ),
    Statement(
        "(4.6), (4.9)",
        "|DDᵀΨ + ∇ₓC| is as small as it can be, |𝒫⊥∇ₓC|",
        "relative difference; infinite if one of 1000 other velocities leaves less",
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
        "∂ₛx = −𝒫∇ₓC along a whole orbit under rank loss",
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
]
