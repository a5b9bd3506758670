"""Flows of any cost in any metric of the outputs, against the comparison flow without a network."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgeo as jg
from cases.problems import cases

CASE = "dict"
CLASSES = np.array([0, 1, 0])


def with_cost(cost):
    case = cases()[CASE]
    return eqx.tree_at(lambda problem: problem.loss, case.problem, cost), case.params


def costs():
    targets = cases()[CASE].problem.loss.targets
    return {
        "L2": jg.L2(targets),
        "weighted": jg.WeightedL2(targets, jnp.array([[1.0, 4.0]])),
        "cross-entropy": jg.SoftmaxCrossEntropy.from_labels(CLASSES, num_classes=2),
        "Huber": jg.Huber(targets, 0.5),
    }


METRICS = {
    "Euclidean": jg.metrics.Euclidean(),
    "weights": jg.metrics.Weighted(jnp.array([2.0, 0.5])),
    "matrix": jg.metrics.MatrixMetric(jnp.array([[2.0, 0.5], [0.5, 1.0]])),
    "Hessian": jg.metrics.CostHessian(),
}


def dense_metric(metric, hessian):
    """g for each sample by NumPy, with the second derivatives of the cost."""
    if isinstance(metric, jg.metrics.Weighted):
        return np.broadcast_to(np.diag([2.0, 0.5]), (3, 2, 2))
    if isinstance(metric, jg.metrics.MatrixMetric):
        return np.broadcast_to([[2.0, 0.5], [0.5, 1.0]], (3, 2, 2))
    if isinstance(metric, jg.metrics.Euclidean):
        return np.broadcast_to(np.eye(2), (3, 2, 2))
    return np.stack([3 * hessian[j, :, j, :] for j in range(3)])


@eqx.filter_jit
def velocities(problem, params, metric):
    """∇ₓC, the second derivatives of C, the velocity of the comparison flow, and Dθ̇."""
    outputs = problem.outputs(params)
    velocity = jg.AdaptedFlow(jg.linalg.SVD(), metric)(0.0, params, problem)
    return (
        problem.loss.gradient(outputs),
        jax.hessian(problem.loss)(outputs),
        jg.OutputFlow(metric)(0.0, outputs, problem),
        problem.jacobian(params).mv(problem.partition(velocity)[0]),
    )


@pytest.mark.parametrize(
    ("cost", "metric"),
    [
        ("L2", "matrix"),
        ("Huber", "weights"),
        pytest.param("weighted", "Hessian", marks=pytest.mark.slow),
        ("cross-entropy", "Hessian"),
    ],
)
def test_velocities(cost, metric):
    """Dθ̇ has the g-length and direction of −g⁺∇ₓC, and the comparison flow is that vector itself."""
    problem, params = with_cost(costs()[cost])
    gradient, hessian, found, moved = map(np.asarray, velocities(problem, params, METRICS[metric]))
    matrices = dense_metric(METRICS[metric], hessian)
    expected = -np.stack([np.linalg.pinv(g, rcond=1e-10) @ row for g, row in zip(matrices, gradient, strict=True)])
    np.testing.assert_allclose(found, expected, atol=1e-10)
    # Directions that the metric does not see are free.
    difference = moved - expected
    lengths = np.einsum("jq,jqr,jr->j", difference, matrices, difference)
    assert np.abs(lengths).max() <= 1e-16


@pytest.mark.slow
@pytest.mark.parametrize(("cost", "metric"), [("weighted", "Euclidean"), ("Huber", "matrix")])
def test_orbit_against_the_comparison_flow(cost, metric):
    problem, params = with_cost(costs()[cost])
    times = jnp.array([0.5, 2.0, 5.0])

    def outputs(s, params, problem):
        return problem.outputs(params)

    flow = jg.AdaptedFlow(jg.linalg.SVD(), METRICS[metric])
    sol = jg.solve_flow(problem, flow, params, s1=5.0, save_at=times, record=outputs, rtol=1e-8)
    reference = jg.solve_output_flow(problem, params, times, metric=METRICS[metric])
    np.testing.assert_allclose(sol.records, reference, atol=1e-6)


def test_comparison_flow_of_l2_is_the_closed_form():
    case = cases()[CASE]
    found = jg.solve_output_flow(case.problem, case.params, jnp.array([1.0, 6.0]))
    start, targets = case.problem.outputs(case.params), case.problem.loss.targets
    for s, outputs in zip([1.0, 6.0], found, strict=True):
        np.testing.assert_allclose(outputs, jg.theory.outputs_at(s, start, targets, 3), atol=1e-9)


@pytest.mark.slow
def test_a_cost_without_a_law_is_stopped_where_it_ceases_to_fall():
    """By the law of L2 it would have been over long before."""
    problem, params = with_cost(costs()["weighted"])
    flow = jg.AdaptedFlow(jg.linalg.SVD())
    tol = 1e-6 * float(problem.cost(params))
    sol = jg.solve_flow(problem, flow, params, cost_tol=tol)
    np.testing.assert_allclose(sol.final_cost, tol, rtol=1e-9)
    assert not flow.follows_law(6, 5)
    assert not jg.AdaptedFlow(metric=jg.metrics.CostHessian()).follows_law(6, 20)
