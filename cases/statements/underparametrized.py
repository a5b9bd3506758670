"""Section 5: the underparametrized flow, its constraint, and its metric."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxgeo as jg
from cases.fibres import Loop, along_the_fibre, bottleneck
from cases.problems import random_like
from cases.statements.base import FEW, Point, Statement, along, apart, known, norm, point, slopes, worst

SVD = jg.linalg.SVD()


def normal_inverse(here: Point) -> np.ndarray:
    """(DᵀD)⁻¹."""
    return np.linalg.inv(here.matrix.T @ here.matrix)


def explicit(here: Point) -> float:
    """The flow against (5.2), with ∇θC by reverse mode."""
    return apart(here.velocity(jg.UnderparametrizedFlow()), -normal_inverse(here) @ here.slope)


def outputs(here: Point) -> float:
    expected = -here.matrix @ normal_inverse(here) @ here.matrix.T @ here.gradient
    velocity = jg.UnderparametrizedFlow()(0.0, here.params, here.problem)
    _, speed = jax.jvp(here.problem.outputs, (here.params,), (velocity,))
    return apart(np.ravel(speed), expected)


def projector(here: Point) -> float:
    found = here.projector()
    expected = here.matrix @ normal_inverse(here) @ here.matrix.T
    return max(norm(found @ found - found), norm(found - found.T), norm(found - expected))


def rank_of_the_rest(here: Point) -> float:
    """Of 1 − 𝒫, with 𝒫 of the library: by singular values, and by its trace."""
    rest = np.eye(len(here.matrix)) - here.projector()
    expected = here.case.num_rows - here.case.num_params
    return max(abs(np.linalg.matrix_rank(rest, tol=1e-8) - expected), abs(np.trace(rest) - expected))


@cache
def moments() -> list[Any]:
    return along("mlp under", jg.UnderparametrizedFlow())


def outputs_along() -> float:
    return max(apart(speed, -here.inside(here.gradient)) for speed, here in moments())


def constraint_along() -> float:
    """|𝒫⊥∂ₛx|/|∂ₛx|, with ∂ₛx from the outputs of an orbit and 𝒫 from the dense D."""
    return max(norm(speed - here.inside(speed)) / norm(speed) for speed, here in moments())


@cache
def end() -> tuple[Point, np.ndarray, float]:
    """Where an orbit ends, the costs along it, and the cost of the library there."""
    start = known("linear under")
    end_time = 14.0 * start.problem.num_samples
    solution = jg.solve_flow(start.problem, jg.UnderparametrizedFlow(), start.params, s1=end_time, rtol=1e-10)
    here = start.moved(np.ravel(solution.params))
    return here, np.asarray(solution.costs), float(solution.final_cost)


def critical() -> float:
    here = end()[0]
    gradient = here.problem.loss.gradient(here.problem.outputs(here.params))
    inside = jg.geometry.output_projection(here.problem, here.params, gradient, SVD)
    return norm(inside) / norm(gradient)


def cost_left() -> float:
    """By theory, with 𝒫⊥ from NumPy; and the minimum over all θ, by least squares."""
    here, _, cost = end()
    count = here.problem.num_samples
    outside = here.gradient - here.inside(here.gradient)
    theory = float(jg.theory.critical_cost(here.rows(outside), count))
    targets = np.ravel(here.problem.loss.targets)
    least = norm(targets - here.inside(targets)) ** 2 / (2 * count)
    return max(abs(theory / cost - 1), abs(least / cost - 1))


def cost_rate(here: Point) -> float:
    velocity = jg.UnderparametrizedFlow()(0.0, here.params, here.problem)
    _, rate = jax.jvp(here.problem.cost, (here.params,), (velocity,))
    square = norm(here.inside(here.gradient)) ** 2
    return abs(float(rate) / square + 1)


def monotone() -> float:
    return float(max(0.0, np.diff(end()[1]).max()))


def strictly_positive() -> float:
    """The least (N/2)|𝒫⊥∇ₓC|² at the critical points for 500 random targets, over C at x = 0."""
    here, count = known("linear under"), known("linear under").problem.num_samples
    rng, found = np.random.default_rng(0), []
    for targets in rng.standard_normal((500, len(here.matrix))):
        theta = np.linalg.lstsq(here.matrix, targets)[0]
        gradient = (here.matrix @ theta - targets) / count
        outside = gradient - here.inside(gradient)
        cost = float(jg.theory.critical_cost(here.rows(outside), count))
        found.append(cost / (norm(targets) ** 2 / (2 * count)))
    return min(found)


def metric(here: Point) -> float:
    """All g_ββ′ of the library against DᵀD."""
    units = [here.at(unit) for unit in np.eye(here.case.num_params)]
    found = [[jg.geometry.pullback_metric(here.problem, here.params, v, w) for v in units] for w in units]
    return apart(found, here.matrix.T @ here.matrix)


def other_function(here: Point) -> Any:
    """A function of θ that is not the cost."""

    def function(params: Any) -> Any:
        return jnp.sum(jnp.sin(here.problem.outputs(params)) ** 2)

    return function


def represents(here: Point) -> float:
    """∂F/∂θ by central differences against DᵀD grad F."""
    function = other_function(here)
    gradient = here.flat(jg.geometry.pullback_gradient(here.problem, here.params, function, SVD))
    differential = slopes(lambda theta: function(here.at(theta)), here.theta())
    return apart(here.matrix.T @ (here.matrix @ gradient), differential)


def gradient_form(here: Point) -> float:
    function = other_function(here)
    gradient = here.flat(jg.geometry.pullback_gradient(here.problem, here.params, function, SVD))
    return apart(gradient, normal_inverse(here) @ here.flat(jax.grad(function)(here.params)))


def metric_gradient(here: Point) -> float:
    gradient = here.flat(jg.geometry.pullback_gradient(here.problem, here.params))
    expected = normal_inverse(here) @ here.slope
    return max(apart(gradient, expected), apart(here.velocity(jg.UnderparametrizedFlow()), -gradient))


def holonomic() -> float:
    here = known("mlp under")
    path = Loop(here.problem, here.params, random_like(here.params, 6))
    lifted = jg.geometry.lift_path(here.problem, here.params, path, num_steps=16, solver=SVD)
    return float(lifted.chord / lifted.length)


def not_by_outputs() -> float:
    """x = (θ₁, θ₂θ₃) has the rank 1 at (½, 0, 0) and 2 at (½, 1, 0), with the same outputs."""

    def apply(params: jax.Array, scale: jax.Array) -> jax.Array:
        return scale * jnp.stack([params[0], params[1] * params[2]])

    problem = jg.Problem(apply, jnp.array([1.0]), jg.L2(jnp.ones((1, 2))))
    first, second = jnp.array([0.5, 0.0, 0.0]), jnp.array([0.5, 1.0, 0.0])
    if norm(problem.outputs(first) - problem.outputs(second)) > 0:
        return np.nan
    project = jg.geometry.output_projection
    units = [jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])]
    return norm([project(problem, first, unit, SVD) - project(problem, second, unit, SVD) for unit in units])


def same_range() -> float:
    case = bottleneck()
    before, behind = (point(each).bases()[0] for each in (case, along_the_fibre(case)))
    return norm(behind - before @ (before.T @ behind))


def not_integrable() -> float:
    case = bottleneck()
    return jg.geometry.nonintegrability(case.problem, case.params)


STATEMENTS = [
    Statement(
        "(1.30); Theorem 5.1, (5.2)",
        "the underparametrized flow is −(DᵀD)⁻¹∇θC",
        "relative difference",
        lambda: worst(explicit, *FEW),
        1e-8,
    ),
    Statement(
        "(1.31); Theorem 5.1, (5.3), (5.8)",
        "the outputs of the underparametrized flow move by −𝒫∇ₓC",
        "relative difference",
        lambda: worst(outputs, *FEW),
        1e-9,
        test="test_flows.py::test_outputs_move_along_their_projected_gradient",
    ),
    Statement(
        "(1.31); Theorem 5.1, (5.3)",
        "∂ₛx = −𝒫∇ₓC along a whole orbit of the underparametrized flow",
        "relative difference from central differences of x at s/N = 0.3, 1 and 2",
        outputs_along,
        1e-5,
        slow=True,
    ),
    Statement(
        "(1.32); Theorem 5.1, (5.4)",
        "𝒫 = D(DᵀD)⁻¹Dᵀ = 𝒫² = 𝒫ᵀ",
        "norms of 𝒫² − 𝒫, 𝒫 − 𝒫ᵀ and 𝒫 − D(DᵀD)⁻¹Dᵀ",
        lambda: worst(projector, *FEW),
        1e-9,
        test="test_geometry.py::test_projections",
    ),
    Statement(
        "Theorem 5.1, (5.5), (5.9)",
        "the constraint 𝒫⊥∂ₛx = 0 holds along a whole orbit",
        "|𝒫⊥∂ₛx|/|∂ₛx| by central differences of x, 𝒫 from the dense D",
        constraint_along,
        1e-5,
        test="test_flows.py::test_outputs_move_along_their_projected_gradient",
        slow=True,
    ),
    Statement(
        "Theorem 5.1, (5.6), (5.10)",
        "𝒫∇ₓC = 0 at a critical point",
        "|𝒫∇ₓC|/|∇ₓC| at the end of an orbit, s/N = 14; e^{-14} = 8.3e-7",
        critical,
        1e-5,
        test="test_critical.py::test_cost_left_at_a_critical_point_of_the_underparametrized_flow",
        slow=True,
    ),
    Statement(
        "Theorem 5.1, (5.7), (5.11)",
        "the cost at a critical point is (N/2)|𝒫⊥∇ₓC|²",
        "relative difference, and from least squares",
        cost_left,
        1e-8,
        test="test_integrate.py::test_cost_left_at_a_critical_point",
        slow=True,
    ),
    Statement(
        "Theorem 5.1",
        "rank(𝒫⊥) = QN − K",
        "difference",
        lambda: worst(rank_of_the_rest, *FEW),
        1e-9,
    ),
    Statement(
        "Remark 5.2, (5.12)",
        "∂ₛC = −|𝒫∇ₓC|² along the underparametrized flow",
        "relative difference",
        lambda: worst(cost_rate, *FEW),
        1e-9,
        test="test_integrate.py::test_cost_along_the_underparametrized_flow",
    ),
    Statement(
        "Remark 5.2, (5.12)",
        "the cost never rises along the underparametrized flow",
        "largest rise between two steps of an orbit",
        monotone,
        0.0,
        test="test_integrate.py::test_cost_along_the_underparametrized_flow",
        slow=True,
    ),
    Statement(
        "Remark 5.2",
        "the cost (5.7) is generically positive",
        "least cost for 500 random targets, over C at x = 0",
        strictly_positive,
        least=1e-6,
    ),
    Statement(
        "(5.14), (5.15)",
        "the metric that x pulls back to θ is g = DᵀD",
        "relative difference of all g_ββ′",
        lambda: worst(metric, "mlp under"),
        1e-12,
        test="test_subriemannian.py::test_metric",
    ),
    Statement(
        "(5.16)",
        "dF(V) = g(V, grad F) for all V",
        "relative difference from central differences of F",
        lambda: worst(represents, "mlp under"),
        1e-7,
        test="test_subriemannian.py::test_gradient_represents_the_differential",
    ),
    Statement(
        "(5.17)",
        "grad F = (DᵀD)⁻¹∇θF",
        "relative difference",
        lambda: worst(gradient_form, *FEW),
        1e-8,
        slow=True,
    ),
    Statement(
        "Prop. 5.3, (5.18)",
        "the underparametrized flow is −grad C in the metric g",
        "relative difference",
        lambda: worst(metric_gradient, *FEW),
        1e-8,
        test="test_subriemannian.py::test_gradient_of_the_cost_is_the_adapted_flow",
    ),
    Statement(
        "Remark 5.4",
        "underparametrized: the constraint on x is holonomic, and θ returns when x does",
        "distance of the ends of θ over its way, after a loop of outputs on their surface",
        holonomic,
        1e-6,
        test="test_subriemannian.py::test_underparametrized_is_holonomic",
        slow=True,
    ),
    Statement(
        "Remark 5.4",
        "overparametrized with rank loss: 𝒫 is in general not a function of x, x = (θ₁, θ₂θ₃) at two θ with the same x",
        "norm of the difference of both 𝒫",
        not_by_outputs,
        least=0.99,
    ),
    Statement(
        "Remark 5.4",
        "overparametrized with rank loss: the constraint on θ, to range(Dᵀ), is in general not holonomic",
        "non-integrability of range(Dᵀ)",
        not_integrable,
        least=0.01,
        test="test_subriemannian.py::test_rank_deficient_is_not_holonomic",
    ),
    Statement(
        "Remark 5.4",
        "where D has the rank r on an open set, x lies on a surface of dimension r, and 𝒫 is a function of x there",
        "range(D) outside that at another θ with the same x, 0.5 away along its fibre",
        same_range,
        1e-8,
        test="test_subriemannian.py::test_outputs_of_constant_rank_stay_on_a_surface",
    ),
]
