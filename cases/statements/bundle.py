"""Sections 2.3 and 2.4: the bundle metric h, its gradient, and the horizontal fields."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import jaxgeo as jg
from cases.statements.base import FULL, Point, Statement, apart, known, norm, slopes, worst

SVD = jg.linalg.SVD()


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
        return jnp.sum(jnp.sin(here.problem.outputs(params)) ** 2) + jnp.sum(
            jnp.cos(flat * jnp.arange(1.0, 1 + flat.size))
        )

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
        slow=True,
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
        "where two outputs depend on different parameters, range(Dᵀ) is integrable: [V, W] is horizontal, and a loop "
        "of outputs brings θ back",
        "size of the vertical part, and of the displacement",
        integrable,
        1e-9,
        slow=True,
    ),
    Statement(
        "(2.31)",
        "on a network it is not: [V, W] has a vertical part, and a loop of outputs displaces θ",
        "the smaller of these two sizes",
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
        "range(Dᵀ) is normal to the fibre {x[θ] = const}",
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
