"""Flows whose D has lost rank by construction: duplicates, dead units, a bottleneck. Equilibria (Theorem 4.2)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import jacobian_matrix

import jaxgeo as jg
from jaxgeo.linalg import rank_record


def dense(problem, params):
    return np.asarray(jacobian_matrix(problem, params), np.float64)


def solved(problem, params, s1):
    """One signature for all, so that problems of one shape share a compiled program."""
    return jg.solve_flow(problem, jg.RankAdaptiveFlow(), params, s1=s1, rtol=1e-6, record=rank_record, max_steps=800)


def left_basis(matrix):
    left, values, _ = np.linalg.svd(matrix, full_matrices=False)
    return left[:, values > 1e-11 * values[0]]


def two_layers(params, x):
    return params["v"] @ jnp.tanh(params["w"] @ x)


def relu_layers(params, x):
    return params["v"] @ jax.nn.relu(params["w"] @ x + params["b"])


def weights(rng, *, inputs, hidden, outputs):
    return {
        "w": jnp.asarray(rng.standard_normal((hidden, inputs))),
        "v": jnp.asarray(rng.standard_normal((outputs, hidden)) / hidden**0.5),
    }


def duplicated(contradictory):
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((6, 2))
    inputs[5] = inputs[0]
    targets = 0.3 * rng.standard_normal((6, 1))
    targets[5] = targets[0] + (0.4 if contradictory else 0.0)
    problem = jg.Problem(two_layers, jnp.asarray(inputs), jg.L2(jnp.asarray(targets)))
    return problem, weights(rng, inputs=2, hidden=8, outputs=1)


def dead_units():
    rng = np.random.default_rng(1)
    inputs, targets = rng.standard_normal((5, 2)), 0.1 * rng.standard_normal((5, 1))
    params = weights(rng, inputs=2, hidden=8, outputs=1)
    # Four units are off on every sample, and stay so: nothing moves them.
    params["b"] = jnp.asarray(np.r_[np.full(4, 3.0), np.full(4, -50.0)])
    return jg.Problem(relu_layers, jnp.asarray(inputs), jg.L2(jnp.asarray(targets))), params


def bottleneck():
    rng = np.random.default_rng(2)
    inputs, targets = rng.standard_normal((5, 4)), 0.3 * rng.standard_normal((5, 3))

    def narrow(params, x):
        return params["out"] @ (params["mid"] @ jnp.tanh(params["in"] @ x))

    params = {
        "in": jnp.asarray(rng.standard_normal((8, 4))),
        "mid": jnp.asarray(rng.standard_normal((1, 8))),
        "out": jnp.asarray(rng.standard_normal((3, 1))),
    }
    return jg.Problem(narrow, jnp.asarray(inputs), jg.L2(jnp.asarray(targets))), params


def iris():
    """Samples 101 and 142 are the same flower twice, of one class."""
    data = pytest.importorskip("sklearn.datasets").load_iris()
    chosen = [101, 142, *range(0, 100, 10)]
    inputs = (data.data[chosen] - data.data.mean(0)) / data.data.std(0)
    np.testing.assert_array_equal(inputs[0], inputs[1])
    problem = jg.Problem(two_layers, jnp.asarray(inputs), jg.L2(jnp.asarray(np.eye(3)[data.target[chosen]])))
    return problem, weights(np.random.default_rng(0), inputs=4, hidden=16, outputs=3)


CASES = {
    "duplicates, equal targets": lambda: duplicated(False),
    "duplicates, contradictory targets": lambda: duplicated(True),
    "dead units": dead_units,
    "bottleneck": bottleneck,
    "iris": iris,
}

SLOW = ["duplicates, equal targets", "dead units", "bottleneck", "iris"]


@pytest.fixture(
    params=[pytest.param(make, id=name, marks=[pytest.mark.slow] * (name in SLOW)) for name, make in CASES.items()]
)
def case(request):
    return request.param()


@jax.jit
def _step(params, velocity):
    return jax.tree.map(lambda leaf, step: leaf + 0.2 * step, params, velocity)


def test_outputs_move_by_the_projected_gradient_all_along(case):
    problem, params = case
    flow = jg.RankAdaptiveFlow()
    assert left_basis(dense(problem, params)).shape[1] < problem.num_rows(params)
    for _ in range(6):
        velocity = flow(0.0, params, problem)
        matrix = dense(problem, params)
        moved = matrix @ np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(velocity)])
        basis = left_basis(matrix)
        gradient = np.asarray(problem.loss.gradient(problem.outputs(params))).reshape(-1)
        np.testing.assert_allclose(moved, -basis @ (basis.T @ gradient), atol=1e-8 * np.linalg.norm(gradient))
        params = _step(params, velocity)


@pytest.mark.slow
def test_flow_neither_stalls_nor_diverges_and_the_record_names_what_is_lost(case):
    problem, params = case
    solution = solved(problem, params, s1=10.0)
    costs = np.asarray(solution.costs)
    assert (np.diff(costs) < 1e-10).all()
    record = solution.records
    assert (np.asarray(record.rank) < problem.num_rows(params)).all()
    for end, point in ((0, params), (-1, solution.params)):
        basis = left_basis(dense(problem, point))
        gradient = np.asarray(problem.loss.gradient(problem.outputs(point))).reshape(-1)
        outside = 1 - np.sum((basis.T @ gradient) ** 2) / np.sum(gradient**2)
        assert abs(float(record.outside[end]) - outside) < 1e-6
        assert int(record.rank[end]) == basis.shape[1]


@pytest.mark.slow
def test_contradictory_targets_reach_the_least_squares_floor():
    problem, params = duplicated(True)
    solution = solved(problem, params, s1=80.0)
    # Two equal inputs with targets 0.4 apart: each is missed by 0.2.
    floor = 2 * 0.2**2 / (2 * 6)
    np.testing.assert_allclose(solution.costs[-1], floor, rtol=1e-8)
    gradient = problem.loss.gradient(problem.outputs(solution.params))
    np.testing.assert_allclose(jg.theory.critical_cost(gradient, 6), floor, rtol=1e-8)


@pytest.mark.slow
def test_equal_targets_are_reached_by_the_law():
    problem, params = duplicated(False)
    solution = solved(problem, params, s1=18.0)
    np.testing.assert_allclose(solution.costs[-1], solution.predicted_costs[-1], rtol=1e-3)


def test_at_full_rank_it_is_the_overparametrized_flow():
    rng = np.random.default_rng(4)
    inputs, targets = rng.standard_normal((5, 2)), rng.standard_normal((5, 1))
    problem = jg.Problem(two_layers, jnp.asarray(inputs), jg.L2(jnp.asarray(targets)))
    params = weights(rng, inputs=2, hidden=8, outputs=1)
    matrix = dense(problem, params)
    gradient = np.asarray(problem.loss.gradient(problem.outputs(params))).reshape(-1)
    expected = -matrix.T @ np.linalg.solve(matrix @ matrix.T, gradient)
    velocity = jg.RankAdaptiveFlow()(0.0, params, problem)
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(velocity)])
    np.testing.assert_allclose(flat, expected, atol=1e-10 * np.linalg.norm(expected))


@pytest.mark.slow
def test_both_flows_have_the_same_equilibria():
    # Paper: Theorem 4.2. Two equal inputs with contradictory targets: a critical point with ∇ₓC ≠ 0.
    problem, params = duplicated(True)
    adapted = solved(problem, params, s1=120.0).params
    scalar = jg.Problem(lambda a, x: jnp.tanh(a * x), jnp.array([1.0, 1.0]), jg.L2(jnp.array([0.1, 0.5])))
    standard = jg.solve_flow(scalar, jg.StandardFlow(), jnp.array(0.0), s1=60.0).params
    for case, point in ((problem, adapted), (scalar, standard)):
        assert float(jnp.linalg.norm(case.loss.gradient(case.outputs(point)))) > 0.04
        for flow in (jg.StandardFlow(), jg.RankAdaptiveFlow()):
            velocity = flow(0.0, point, case)
            assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(velocity)) < 1e-6


def test_a_flow_says_nan_where_the_lift_failed_so_that_an_adaptive_step_is_retried():
    problem = jg.Problem(lambda a, x: jnp.sqrt(a) * x, jnp.array([1.0]), jg.L2(jnp.array([1.0])))
    assert bool(jnp.isnan(jg.AdaptedFlow()(0.0, jnp.array(-1.0), problem)))


@pytest.mark.slow
def test_iris_has_a_natural_duplicate():
    problem, params = iris()
    solution = solved(problem, params, s1=24.0)
    assert (np.asarray(solution.records.rank) == 33).all()
    # The deviation of the two differs by nothing, so nothing of the gradient is lost and the law holds.
    assert float(solution.records.outside.max()) < 1e-12
    np.testing.assert_allclose(solution.costs[-1], solution.predicted_costs[-1], rtol=1e-3)


def test_record_where_the_dense_jacobian_is_too_large():
    # 65 · 2¹⁸ entries of D: the record goes through DDᵀ. Rows of known lengths, the last one a copy of the first.
    count, width = 65, 2**18
    lengths = np.linspace(1.0, 4.0, count)
    inputs = np.zeros((count, width))
    inputs[np.arange(count), np.arange(count)] = lengths
    inputs[-1] = inputs[0]
    targets = np.zeros(count)
    targets[0], targets[-1] = 1.0, 3.0
    problem = jg.Problem(lambda a, x: a @ x, jnp.asarray(inputs), jg.L2(jnp.asarray(targets)))
    record = rank_record(0.0, jnp.zeros(width), problem)
    assert int(record.rank) == count - 1
    # Of (1, 3) along two equal rows, (−1, 1) is out of reach: 2 of 10.
    np.testing.assert_allclose(record.outside, 0.2, rtol=1e-10)
    # The copied rows make one direction of length √2, so the longest is the last but one.
    np.testing.assert_allclose(record.smallest, lengths[1] / lengths[-2], rtol=1e-10)
