"""The pullback metric, its gradients, brackets of horizontal fields, curvature and holonomy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxgeo as jg
from cases.fibres import Loop, along_the_fibre, bottleneck, case_at, kernel
from cases.problems import Layer, cases, random_like
from jaxgeo.geometry import ConstantField, Ellipse, HorizontalField, Segment

# Compiles several times as fast as the default, which other tests and the doctests use.
SVD = jg.linalg.SVD()


def curvature(case, first, second):
    return flat(case, jg.geometry.curvature(case.problem, case.params, first, second, SVD))


def flat(case, velocity):
    return np.asarray(ravel_pytree(case.problem.partition(velocity)[0])[0])


def output_velocities(case, *seeds):
    return [random_like(case.problem.outputs(case.params), seed) for seed in seeds]


@pytest.mark.parametrize("name", ["mlp under", "frozen"])
def test_metric(name):
    """(2.22), (2.25); (5.14), (5.15)."""
    case = cases()[name]
    first, second = random_like(case.params, 1), random_like(case.params, 2)
    matrix = case.dense()
    expected = (matrix @ flat(case, first)) @ (matrix @ flat(case, second))
    found = jg.geometry.pullback_metric(case.problem, case.params, first, second)
    np.testing.assert_allclose(found, expected, rtol=1e-11)


@pytest.mark.parametrize("name", ["mlp over", pytest.param("mlp under", marks=pytest.mark.slow)])
def test_gradient_of_the_cost_is_the_adapted_flow(name):
    """Propositions 2.4 and 5.3: ∂ₛθ = −grad C in the metric h, and in g. And the flow is horizontal."""
    case = cases()[name]
    gradient = flat(case, jg.geometry.pullback_gradient(case.problem, case.params, solver=SVD))
    velocity = flat(case, jg.AdaptedFlow(jg.linalg.QR())(0.0, case.params, case.problem))
    assert np.linalg.norm(gradient + velocity) <= 1e-9 * np.linalg.norm(velocity)
    assert np.linalg.norm(kernel(case) @ velocity) <= 1e-11 * np.linalg.norm(velocity)


def test_gradient_represents_the_differential():
    """(2.23), (5.16): ⟨D grad F, DW⟩ = dF(W), for a function of the outputs that is not the cost."""
    case = cases()["mlp under"]

    def function(params):
        return jnp.sum(jnp.sin(case.problem.outputs(params)) ** 2)

    gradient = jg.geometry.pullback_gradient(case.problem, case.params, function, SVD)
    direction = random_like(case.params, 3)
    _, expected = jax.jvp(function, (case.params,), (direction,))
    found = jg.geometry.pullback_metric(case.problem, case.params, gradient, direction)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_bracket_of_linear_fields():
    """[Aθ, Bθ] = (BA − AB)θ, also where params hold what is no number."""
    rng = np.random.default_rng(0)
    one, two, point = rng.normal(size=(3, 3)), rng.normal(size=(3, 3)), rng.normal(size=3)
    params = {"x": jnp.asarray(point), "steps": jnp.arange(2), "name": "tanh"}

    def field(matrix):
        return lambda params: {"x": jnp.asarray(matrix) @ params["x"], "steps": None, "name": None}

    found = jg.geometry.lie_bracket(field(one), field(two), params)
    np.testing.assert_allclose(found["x"], (two @ one - one @ two) @ point, rtol=1e-12)
    assert found["steps"] is None


def test_bracket_of_lifts_is_the_curvature():
    """For constant v, w of full rank D carries [V, W] to [v, w] = 0: all of it is vertical, and is the curvature."""
    case = cases()["dict"]
    first, second = output_velocities(case, 1, 2)
    fields = [HorizontalField(case.problem, ConstantField(value), SVD) for value in (first, second)]
    bracket = flat(case, jg.geometry.lie_bracket(*fields, case.params))
    found = curvature(case, first, second)
    size = np.linalg.norm(found)
    assert size > 0.1
    assert np.linalg.norm(case.dense() @ bracket) <= 1e-9 * size
    assert np.linalg.norm(found - bracket) <= 1e-9 * size


@pytest.mark.slow
def test_curvature_depends_on_values_only_and_changes_sign():
    case = cases()["dict"]
    first, second = output_velocities(case, 1, 2)

    def bent(outputs):
        start = case.problem.outputs(case.params)
        return first + jnp.sin(outputs - start) * first[0, 0] - (outputs - start) ** 2

    fields = (HorizontalField(case.problem, field, SVD) for field in (bent, ConstantField(second)))
    bracket = flat(case, jg.geometry.lie_bracket(*fields, case.params))
    vertical = kernel(case).T @ (kernel(case) @ bracket)
    found = curvature(case, first, second)
    np.testing.assert_allclose(found, vertical, atol=1e-9 * np.linalg.norm(found))
    # Such a field is not carried to a constant one, so its bracket does move the outputs.
    assert np.linalg.norm(case.dense() @ bracket) > 0.1
    back = curvature(case, second, first)
    np.testing.assert_allclose(back, -found, atol=1e-9 * np.linalg.norm(found))


@pytest.mark.slow
def test_curvature_under_rank_loss_by_finite_differences():
    """The vertical part of [D⁺v, D⁺w] where D has rank 3 of 4, with NumPy's pseudo-inverse and differences."""
    case = bottleneck()
    theta, unravel = ravel_pytree(case.params)
    theta = np.asarray(theta)
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=4), rng.normal(size=4)

    def field(at, rows):
        return np.linalg.pinv(case_at(case, unravel(jnp.asarray(at))).dense(), rcond=1e-9) @ rows

    step = 1e-5
    start = [field(theta, rows) for rows in (first, second)]
    ahead = (field(theta + step * start[0], second) - field(theta - step * start[0], second)) / (2 * step)
    behind = (field(theta + step * start[1], first) - field(theta - step * start[1], first)) / (2 * step)
    basis = kernel(case)
    expected = basis.T @ (basis @ (ahead - behind))
    rows = [jnp.asarray(rows.reshape(2, 2)) for rows in (first, second)]
    found = curvature(case, *rows)
    assert np.linalg.norm(expected) > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.linalg.norm(expected))


@pytest.mark.slow
def test_nonintegrability_sums_the_curvature_of_a_basis():
    case = bottleneck()
    left, values, _ = np.linalg.svd(case.dense(), full_matrices=False)
    moves = [(sigma * vector) for sigma, vector in zip(values, left.T, strict=True)][: case.rank]
    shape = case.problem.outputs(case.params).shape
    moves = jnp.asarray(np.array(moves).reshape(-1, *shape))
    pairs = np.triu_indices(case.rank, 1)
    found = jax.vmap(lambda v, w: jg.geometry.curvature(case.problem, case.params, v, w, SVD))(
        moves[pairs[0]], moves[pairs[1]]
    )
    squares = sum(jnp.sum(leaf.reshape(len(leaf), -1) ** 2, axis=1) for leaf in jax.tree.leaves(found))
    expected = np.sqrt(np.mean(squares))
    np.testing.assert_allclose(jg.geometry.nonintegrability(case.problem, case.params), expected, rtol=1e-8)


def test_rank_deficient_is_not_holonomic():
    """Remark 5.4, overparametrized with rank loss: range(Dᵀ) is not integrable, and range(D) turns along a path that
    starts along it, so that the outputs do not follow a loop in a plane."""
    case = bottleneck()
    assert case.num_params > case.num_rows > case.rank
    assert jg.geometry.nonintegrability(case.problem, case.params) > 0.01
    first, second = (
        0.2 * jg.geometry.output_projection(case.problem, case.params, rows, SVD)
        for rows in output_velocities(case, 4, 5)
    )
    lifted = jg.geometry.lift_path(case.problem, case.params, Ellipse(first, second), num_steps=12, solver=SVD)
    assert float(lifted.chord) > 1e-3
    after = case_at(case, lifted.params)
    before, behind = (np.linalg.svd(each.dense())[0][:, : case.rank] for each in (case, after))
    assert np.linalg.norm(behind - before @ (before.T @ behind), 2) > 1e-3


@pytest.mark.slow
def test_outputs_of_constant_rank_stay_on_a_surface():
    """Where D has the rank r on an open set, x lies on a surface of dimension r, and 𝒫 depends on x alone: that is the
    constant rank theorem. Behind the bottleneck x is a 2 × 2 matrix of determinant 0, also along the flow."""
    case = bottleneck()
    other = along_the_fibre(case)
    before, behind = (np.linalg.svd(each.dense())[0][:, : case.rank] for each in (case, other))
    assert np.linalg.norm(behind - before @ (before.T @ behind)) < 1e-9
    flow = jg.RankAdaptiveFlow(SVD)
    end = jg.solve_flow(case.problem, flow, case.params, s1=4.0, rank_check=False).params
    assert np.linalg.norm(case.problem.outputs(end) - case.problem.outputs(case.params)) > 0.1
    assert abs(np.linalg.det(case.problem.outputs(end))) < 1e-12


def test_underparametrized_is_holonomic():
    """Remark 5.4, underparametrized: the outputs determine the parameters, which return when the outputs do."""
    case = cases()["mlp under"]
    assert jg.geometry.nonintegrability(case.problem, case.params) < 1e-9
    path = Loop(case.problem, case.params, random_like(case.params, 6))
    lifted = jg.geometry.lift_path(case.problem, case.params, path, num_steps=16, solver=SVD)
    assert float(lifted.length) > 0.5
    assert float(lifted.chord) < 1e-6 * float(lifted.length)


@pytest.mark.slow
def test_holonomy_is_the_curvature_of_a_small_loop():
    """To second order in the size of the loop; the relative difference falls linearly over three decades."""
    case = cases()["dict"]
    sizes = jnp.array([3e-2, 3e-3, 3e-4, 3e-5])
    first, second = output_velocities(case, 1, 2)
    bend = curvature(case, first, second)

    def once_round(size):
        axes = size * first, size * second
        return jg.geometry.holonomy(case.problem, case.params, *axes, num_steps=12, solver=SVD)

    moved = jax.vmap(once_round)(sizes)
    moved = np.asarray(jax.vmap(lambda tree: ravel_pytree(tree)[0])(moved))
    expected = np.pi * np.asarray(sizes)[:, None] ** 2 * bend
    differences = np.linalg.norm(moved - expected, axis=1) / np.linalg.norm(expected, axis=1)
    slopes = np.diff(np.log(differences)) / np.diff(np.log(sizes))
    print("sizes", sizes, "relative differences", differences, "slopes", slopes)
    np.testing.assert_allclose(slopes, 1.0, atol=0.05)
    assert differences[-1] < 1e-4


@pytest.mark.slow
def test_lift_of_a_chord():
    """The outputs walk the chord; θ moves the shortest way, so less than one that moves in the fibre as well."""
    case = cases()["equinox"]
    (velocity,) = output_velocities(case, 1)
    lifted = jg.geometry.lift_path(case.problem, case.params, Segment(velocity), solver=SVD)
    moved = case.problem.outputs(lifted.params) - case.problem.outputs(case.params)
    np.testing.assert_allclose(moved, velocity, atol=1e-9)
    np.testing.assert_allclose(lifted.output_length, np.linalg.norm(velocity), rtol=1e-9)
    assert float(lifted.chord) < float(lifted.length)
    ahead = flat(case, lifted.params) - flat(case, case.params)
    np.testing.assert_allclose(np.linalg.norm(ahead), lifted.chord, rtol=1e-12)
    # In many straight pieces, each by D⁺ of NumPy: the same length.
    speeds = []
    for t in (0.0, 1.0):
        at = jg.geometry.lift_path(case.problem, case.params, Segment(t * velocity), solver=SVD).params
        speeds.append(np.linalg.norm(np.linalg.pinv(case_at(case, at).dense()) @ np.ravel(velocity)))
    assert min(speeds) * 0.5 < float(lifted.length) < max(speeds) * 2


@pytest.mark.slow
def test_lift_of_a_path_by_a_known_model():
    """x = (a + b)/√2 · (1, …): the lift goes along (1, 1)/√2, as long as the path."""
    problem = jg.Problem(lambda a, x: jnp.sum(a) / jnp.sqrt(2.0) * x, jnp.array([1.0]), jg.L2(jnp.zeros(1)))
    lifted = jg.geometry.lift_path(
        problem, jnp.array([3.0, -1.0]), Segment(jnp.array([[2.0]])), num_steps=2, solver=SVD
    )
    np.testing.assert_allclose(lifted.displacement, np.sqrt(2.0) * np.ones(2), rtol=1e-12)
    np.testing.assert_allclose([lifted.length, lifted.chord, lifted.output_length], 2.0, rtol=1e-12)


@pytest.mark.slow
def test_dtype_and_structure_are_kept():
    single = cases()["dict"]
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), single.params)
    inputs = single.problem.blocks[0].inputs.astype(jnp.float32)
    problem = jg.Problem(Layer(), inputs, jg.L2(jnp.zeros((3, 2), jnp.float32)))
    rows = jnp.ones((3, 2), jnp.float32)
    bend = jg.geometry.curvature(problem, params, rows, rows + jnp.eye(3, 2, dtype=jnp.float32), SVD)
    assert jax.tree.structure(bend) == jax.tree.structure(params)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(bend))
