"""Section 1: the model, both gradient flows, and what is announced of them."""

from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import jaxgeo as jg
from cases.statements.base import FEW, FULL, LOST, Point, Statement, apart, known, norm, slopes, worst
from jaxgeo.equations import Network

SIZES = (3, 5, 4, 2)


@cache
def network() -> tuple[jg.Problem, Network, np.ndarray]:
    """A network with two hidden layers on six samples of three classes, and its outputs by (1.3) and (1.4) in NumPy."""
    inputs = np.random.default_rng(0).normal(size=(6, SIZES[0]))
    model = Network(SIZES, jnp.float64, key=jax.random.key(0))
    problem, _ = jg.supervised(model, jnp.asarray(inputs), jg.L2(jnp.ones((6, SIZES[-1]))))
    values = inputs
    for layer in model.layers[:-1]:
        values = np.tanh(values @ np.asarray(layer.weight).T + np.asarray(layer.bias))
    return problem, model, values @ np.asarray(model.layers[-1].weight).T + np.asarray(model.layers[-1].bias)


def labels() -> float:
    """Targets of labels, one by one."""
    omega, vectors = np.array([2, 0, 1, 2, 2, 0]), np.random.default_rng(1).normal(size=(3, 2))
    found = jg.L2.from_labels(jnp.asarray(omega), jnp.asarray(vectors)).targets
    return max(norm(found[j] - vectors[omega[j]]) for j in range(6))


def layers() -> float:
    problem, model, expected = network()
    return apart(problem.outputs(eqx.filter(model, eqx.is_inexact_array)), expected)


def count() -> float:
    problem, model, _ = network()
    expected = sum(SIZES[i] * SIZES[i - 1] + SIZES[i] for i in range(1, len(SIZES)))
    return float(abs(problem.num_params(eqx.filter(model, eqx.is_inexact_array)) - expected))


def cost() -> float:
    problem, model, outputs = network()
    deviation = outputs - np.asarray(problem.loss.targets)
    found = float(problem.cost(eqx.filter(model, eqx.is_inexact_array)))
    one_by_one = sum(norm(row) ** 2 for row in deviation) / 12
    return max(abs(found / expected - 1) for expected in (norm(deviation) ** 2 / 12, one_by_one))


def standard(here: Point) -> float:
    found = here.velocity(jg.StandardFlow())
    return max(apart(found, -here.slope), apart(found, -here.matrix.T @ here.gradient))


def standard_rate(here: Point) -> float:
    velocity = jg.StandardFlow()(0.0, here.params, here.problem)
    _, rate = jax.jvp(here.problem.cost, (here.params,), (velocity,))
    square = norm(here.slope) ** 2
    return abs(float(rate) / square + 1)


def comparison(here: Point) -> float:
    """The comparison flow, component by component."""
    outputs = here.problem.outputs(here.params)
    found = np.ravel(jg.OutputFlow()(0.0, outputs, here.problem))
    expected = [-each / here.problem.num_samples for each in here.deviation]
    return apart(found, expected)


@cache
def comparison_orbit() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """s/N, deviations of the comparison flow that were integrated, and those of its closed form."""
    here = known("mlp over")
    tau = np.array([*np.linspace(0, 5, 11), 40.0])
    times = jnp.asarray(tau * here.problem.num_samples)
    outputs = jg.integrate.solve_output_flow(here.problem, here.params, times, rtol=1e-12, atol=1e-14)
    found = (np.asarray(outputs) - np.asarray(here.problem.loss.targets)).reshape(len(tau), -1)
    return tau, found, np.exp(-tau)[:, None] * here.deviation


def comparison_outputs() -> float:
    _, found, expected = comparison_orbit()
    return float(np.abs(found - expected).max())


def comparison_cost() -> float:
    tau, found, _ = (each[:-1] for each in comparison_orbit())
    costs = np.sum(found**2, axis=1)
    return float(np.abs(costs / (np.exp(-2 * tau) * costs[0]) - 1).max())


def comparison_limit() -> float:
    """The distance to y at s/N = 40, integrated; and N times the Hessian of C in x less 1."""
    here = known("mlp over")
    count = here.problem.num_samples
    outputs = here.problem.outputs(here.params)
    left = norm(comparison_orbit()[1][-1]) / norm(here.deviation)
    curved = jax.hessian(lambda x: here.problem.loss(x.reshape(outputs.shape)))(jnp.ravel(outputs))
    return max(left, norm(np.linalg.eigvalsh(curved) * count - 1))


def jacobian(here: Point) -> float:
    def outputs(theta: np.ndarray) -> np.ndarray:
        return np.ravel(here.problem.outputs(here.at(theta)))

    return apart(here.problem.jacobian(here.params).as_matrix(), slopes(outputs, here.theta()))


def chain(here: Point) -> float:
    expected = slopes(lambda theta: here.problem.cost(here.at(theta)), here.theta())
    return apart(here.matrix.T @ here.gradient, expected)


def output_gradient(here: Point) -> float:
    shape = here.problem.loss.targets.shape
    outputs = np.ravel(here.problem.outputs(here.params))
    differences = slopes(lambda x: here.problem.loss(jnp.asarray(x.reshape(shape))), outputs, 1e-4)
    found = np.ravel(here.problem.loss.gradient(here.problem.outputs(here.params)))
    return max(apart(found, differences), apart(found, here.gradient))


def pushed(here: Point) -> float:
    """∂ₛx along the standard flow, by a JVP of the outputs."""
    velocity = jg.StandardFlow()(0.0, here.params, here.problem)
    _, speed = jax.jvp(here.problem.outputs, (here.params,), (velocity,))
    return apart(np.ravel(speed), -here.gram @ here.gradient)


def right_inverse(here: Point) -> float:
    return norm(here.matrix @ here.penrose() - np.eye(len(here.matrix)))


def penrose(here: Point) -> float:
    return apart(here.penrose(), here.matrix.T @ np.linalg.inv(here.gram))


def onto_rows(here: Point) -> float:
    """P = Pen[D]D against itself squared, transposed, and the projector of an orthonormal basis of range(Dᵀ)."""
    found = here.penrose() @ here.matrix
    right = here.bases()[2]
    return max(norm(found @ found - found), norm(found - found.T), norm(found - right.T @ right))


def explicit(here: Point) -> float:
    """The flow against (1.26) with a pseudo-inverse by NumPy, and (1.27) with a solve."""
    found = here.velocity(jg.OverparametrizedFlow())
    inverse = here.inverse()
    twice = np.linalg.solve(here.gram, np.linalg.solve(here.gram, here.matrix @ here.slope))
    return max(apart(found, -inverse @ (inverse.T @ here.slope)), apart(found, -here.matrix.T @ twice))


def over_outputs(here: Point) -> float:
    return apart(here.matrix @ here.velocity(jg.OverparametrizedFlow()), -here.gradient)


STATEMENTS = [
    Statement(
        "(1.1), (1.2)",
        "y_ω has the target y_ω(j) for each sample j",
        "difference",
        labels,
        0.0,
        test="test_costs.py::test_labels_choose_class_vectors",
    ),
    Statement(
        "(1.3), (1.4), (1.6), (1.8)",
        "the outputs x are those of the layers, one after another, stacked over samples",
        "relative difference from NumPy",
        layers,
        1e-13,
    ),
    Statement(
        "(1.5)",
        "K = Σ (M_ℓ M_{ℓ−1} + M_ℓ)",
        "difference",
        count,
        0.0,
        test="test_problem.py::test_number_of_parameters_of_a_network",
    ),
    Statement("(1.7)", "C = |x − y|²/2N, also as a sum over samples", "relative difference", cost, 1e-13),
    Statement(
        "(1.9), (1.19)",
        "the standard flow is −∇θC, which is −Dᵀ∇ₓC",
        "relative difference from either",
        lambda: worst(standard, *FULL, *FEW, *LOST),
        1e-12,
        test="test_flows.py::test_standard_flow",
    ),
    Statement(
        "(1.10)",
        "∂ₛC = −|∇θC|² along the standard flow",
        "relative difference",
        lambda: worst(standard_rate, *FULL, *FEW, *LOST),
        1e-12,
        test="test_integrate.py::test_cost_along_the_standard_flow",
    ),
    Statement(
        "(1.11), (1.12)",
        "each component of the comparison flow is −(x − y)/N of that component alone",
        "relative difference",
        lambda: worst(comparison, "mlp over", "mlp under"),
        1e-14,
        test="test_flows.py::test_output_flow_is_the_negative_gradient",
    ),
    Statement(
        "(1.13)",
        "along the comparison flow x − y falls as e^{-s/N}",
        "largest difference of an output, integrated to s/N = 40",
        comparison_outputs,
        1e-9,
        test="test_theory.py::test_outputs_at_solves_its_equation_and_has_that_cost",
    ),
    Statement(
        "(1.14)",
        "along the comparison flow C falls as e^{-2s/N}",
        "relative difference up to s/N = 5, same orbit",
        comparison_cost,
        1e-7,
        test="test_theory.py::test_cost_at_solves_its_equation",
    ),
    Statement(
        "(1.15), (1.16)",
        "x goes to y, the only zero of C, which is strictly convex in x",
        "|x − y|/|x₀ − y| at s/N = 40, and N times the Hessian of C in x less 1",
        comparison_limit,
        1e-12,
        slow=True,
    ),
    Statement(
        "(1.17)",
        "D is the Jacobian of x in θ",
        "relative difference from central differences",
        lambda: worst(jacobian, "mlp over", "mlp under"),
        1e-8,
        test="test_jacobian.py::test_dense_forms_and_products_agree",
    ),
    Statement(
        "(1.18)",
        "∇θC = Dᵀ∇ₓC",
        "relative difference from central differences",
        lambda: worst(chain, "mlp over", "mlp under"),
        1e-8,
        test="test_jacobian.py::test_gradient_of_the_cost_is_the_transposed_output_gradient",
    ),
    Statement(
        "(1.20)",
        "∇ₓC = (x − y)/N",
        "relative difference from central differences",
        lambda: worst(output_gradient, "mlp over", "mlp under"),
        1e-9,
        test="test_costs.py::test_gradient_against_finite_differences",
    ),
    Statement(
        "(1.22)",
        "along the standard flow the outputs move by −DDᵀ∇ₓC",
        "relative difference from a JVP of the outputs",
        lambda: worst(pushed, "mlp over", "linear under", "contradictory"),
        1e-12,
    ),
    Statement(
        "(1.23); Theorem 2.1, (2.2)",
        "at full rank QN the lift is Pen[D] = Dᵀ(DDᵀ)⁻¹",
        "relative difference of all columns",
        lambda: worst(penrose, *FULL),
        1e-9,
        test="test_lift.py::test_is_the_pseudo_inverse",
    ),
    Statement(
        "(1.24); Theorem 2.1, (2.3)",
        "D Pen[D] = 1",
        "norm of the difference",
        lambda: worst(right_inverse, *FULL),
        1e-10,
        test="test_lift.py::test_right_inverse_and_shortest",
    ),
    Statement(
        "(1.25); Theorem 2.1, (2.3)",
        "P = Pen[D]D is the orthogonal projector onto range(Dᵀ)",
        "norms of P² − P, P − Pᵀ and P − VVᵀ",
        lambda: worst(onto_rows, *FULL),
        1e-10,
        test="test_geometry.py::test_projections",
    ),
    Statement(
        "(1.26), (1.27); Theorem 2.1, (2.4)",
        "the overparametrized flow is −Pen[D]Pen[D]ᵀ∇θC = −Dᵀ(DDᵀ)⁻²D∇θC",
        "relative difference from either",
        lambda: worst(explicit, *FULL),
        1e-8,
    ),
    Statement(
        "(1.28); Theorem 2.1, (2.5), (2.9)",
        "the overparametrized flow at full rank QN moves the outputs by −∇ₓC",
        "relative difference",
        lambda: worst(over_outputs, *FULL),
        1e-10,
        test="test_flows.py::test_outputs_move_along_their_gradient",
    ),
]
