"""Critical points against dense Hessians, and walks along the manifold that they form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxgeo as jg
from cases.equilibria import examples
from cases.problems import Case, cases


def flat(case):
    return np.asarray(ravel_pytree(case.params)[0])


def hessian(case):
    """The Hessian of the cost, by JAX over the flat parameters."""
    theta, unravel = ravel_pytree(case.params)
    return np.asarray(jax.jit(jax.hessian(lambda theta: case.problem.cost(unravel(theta))))(theta))


EXAMPLES = [
    "1 contradictory",
    "saddle of 2",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("2 contradictory", "minimum of 2", "minimum of 3", "saddle of 3")
    ),
]
SADDLES = ["saddle of 2", "saddle of 3"]
# With one of them fast.
FEW = [pytest.param("1 contradictory", marks=pytest.mark.slow), *EXAMPLES[1:]]


@pytest.mark.parametrize("name", EXAMPLES)
def test_equilibria(name):
    """(3.10), (4.12): 𝒫∇ₓC = 0 with ∇ₓC ≠ 0, which lies in ker Dᵀ; Lemma 3.2: rank is lost there."""
    case = examples()[name]
    found = jg.geometry.equilibrium(case.problem, case.params)
    assert found.is_critical(1e-9)
    assert found.standard < 1e-9
    assert found.gradient > 0.01
    assert found.rank == case.rank < found.num_rows
    assert found.num_rows - found.rank == len(found.lost) == (2 if name[0] == "2" or name[-1] == "3" else 1)
    lost = found.lost.reshape(len(found.lost), -1)
    assert np.abs(lost @ case.dense()).max() < 1e-9
    gradient = np.ravel(case.problem.loss.gradient(case.problem.outputs(case.params)))
    np.testing.assert_allclose(lost.T @ (lost @ gradient), gradient, atol=1e-9)


@pytest.mark.parametrize("name", ["mlp over", "mlp under", "mlp duplicates"])
def test_both_flows_stand_still_together(name):
    """Theorem 4.2, with how much: σ_r |𝒫∇ₓC| ≤ |Dᵀ∇ₓC| ≤ σ₁ |𝒫∇ₓC|, and the speeds are those of the flows."""
    case = cases()[name]
    found = jg.geometry.equilibrium(case.problem, case.params)
    assert found.rank == case.rank
    assert found.smallest * found.adapted <= found.standard <= found.largest * found.adapted
    assert not found.is_critical(1e-3)
    matrix = case.dense()
    gradient = np.ravel(case.problem.loss.gradient(case.problem.outputs(case.params)))
    np.testing.assert_allclose(found.standard, np.linalg.norm(matrix.T @ gradient), rtol=1e-10)
    projected = matrix @ (np.linalg.pinv(matrix, rcond=1e-9) @ gradient)
    np.testing.assert_allclose(found.adapted, np.linalg.norm(projected), rtol=1e-9)


def test_no_local_extremum_at_full_rank():
    """Lemma 3.2: where rank(D) = QN, |∇θC| ≥ σ_min |∇ₓC|, so that only ∇ₓC = 0 is critical. At 20 random points."""
    case = cases()["mlp over"]
    theta, unravel = ravel_pytree(case.params)
    slope = jax.jit(jax.grad(lambda theta: case.problem.cost(unravel(theta))))
    rng = np.random.default_rng(0)
    for _ in range(20):
        point = theta + jnp.asarray(rng.normal(size=theta.shape))
        at = Case("", case.problem, unravel(point), case.rank)
        values = np.linalg.svd(at.dense(), compute_uv=False)
        gradient = np.linalg.norm(case.problem.loss.gradient(case.problem.outputs(at.params)))
        assert np.linalg.norm(slope(point)) >= values[-1] * gradient > 0


@pytest.mark.parametrize("name", FEW)
def test_dimension(name):
    """(4.14): M_crit has the dimension K − r, r = QN − 1 or QN − 2, and {∇g_α} the rank r, that of the Hessian of C."""
    case = examples()[name]
    manifold = jg.geometry.critical_manifold(case.problem, case.params)
    second = hessian(case)
    curved = np.linalg.eigvalsh(second)
    count = int(np.sum(np.abs(curved) > 1e-8 * np.abs(curved).max()))
    assert manifold.rank == count == len(manifold.normal) == case.rank
    assert manifold.dimension == jg.geometry.equilibrium(case.problem, case.params).dimension
    assert manifold.dimension == case.num_params - case.rank
    np.testing.assert_allclose(manifold.tangent @ manifold.normal.T, 0, atol=1e-10)
    np.testing.assert_allclose(manifold.tangent @ second, 0, atol=1e-8 * np.abs(curved).max())
    expected = curved[np.abs(curved) > 1e-8 * np.abs(curved).max()]
    np.testing.assert_allclose(manifold.curvatures, expected, atol=1e-8 * np.abs(curved).max())


@pytest.mark.parametrize("name", [pytest.param("1 contradictory", marks=pytest.mark.slow), "saddle of 3"])
def test_gradients_by_finite_differences(name):
    """Σ ∇g_α ⊗ ∇g_α, which no rotation of the e_α changes: the e_α turn with the parameters, and 𝒫∇ₓC = Σ g_α e_α."""
    case = examples()[name]
    theta, unravel = ravel_pytree(case.params)

    def projected(theta):
        at = Case("", case.problem, unravel(jnp.asarray(theta)), case.rank)
        left = np.linalg.svd(at.dense())[0][:, : case.rank]
        return left @ (left.T @ np.ravel(case.problem.loss.gradient(case.problem.outputs(at.params))))

    step = 1e-5 * np.eye(len(theta))
    slopes = np.array([(projected(theta + row) - projected(theta - row)) / 2e-5 for row in step])
    expected = slopes @ slopes.T
    found = jg.geometry.critical_manifold(case.problem, case.params).gradients
    np.testing.assert_allclose(found.T @ found, expected, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("name", FEW)
def test_walk_keeps_the_cost(name):
    """(4.14): every point of M_crit is critical, over a walk that goes far, and the cost is constant along it."""
    case = examples()[name]
    manifold = jg.geometry.critical_manifold(case.problem, case.params)
    direction = jnp.asarray(manifold.tangent[np.abs(manifold.tangent).sum(axis=0).argmax() % manifold.dimension])
    walk = jg.geometry.walk_critical(case.problem, case.params, direction, 0.05, 20, case.rank)
    assert np.abs(walk.costs - walk.costs[0]).max() < 1e-10
    assert walk.residuals.max() < 1e-9
    assert np.linalg.norm(walk.points[-1] - walk.points[0]) > 0.3
    at = case.problem.jacobian(case.params).unravel(walk.points[-1])
    there = jg.geometry.equilibrium(case.problem, at)
    assert there.is_critical(1e-9)
    assert there.rank == case.rank


def test_newton_returns_to_the_manifold():
    case = examples()["saddle of 3"]
    rng = np.random.default_rng(1)
    away = jax.tree.map(lambda leaf: leaf + 0.02 * rng.normal(size=leaf.shape), case.params)
    assert jg.geometry.equilibrium(case.problem, away).adapted > 1e-3
    back = jg.geometry.nearest_critical(case.problem, away, case.rank)
    assert jg.geometry.equilibrium(case.problem, back).is_critical(1e-12)
    np.testing.assert_allclose(case.problem.cost(back), case.problem.cost(case.params), rtol=1e-10)


@pytest.mark.parametrize("name", EXAMPLES)
def test_escapes(name):
    """(4.15)–(4.17): off a saddle the cost falls along some ∇g_α, and by how much; off a minimum it does not."""
    case = examples()[name]
    manifold = jg.geometry.critical_manifold(case.problem, case.params)
    if name not in SADDLES:
        assert len(manifold.escapes) == 0
        return
    assert len(manifold.escapes) > 0
    unravel = case.problem.jacobian(case.params).unravel
    direction, fall = manifold.escapes[0], manifold.curvatures[0]
    # In the span of the ∇g_α, and off M_crit.
    span = np.linalg.qr(manifold.gradients.T)[0]
    np.testing.assert_allclose(span @ (span.T @ direction), direction, atol=1e-8)
    step = 1e-3
    for sign in (1, -1):
        moved = unravel(jnp.asarray(flat(case) + sign * step * direction))
        change = float(case.problem.cost(moved) - case.problem.cost(case.params))
        np.testing.assert_allclose(change, step**2 * fall / 2, rtol=0.02)


def test_cost_left_at_a_critical_point_of_the_underparametrized_flow():
    """(5.6), (5.7): 𝒫∇ₓC = 0 and C = (N/2)|𝒫⊥∇ₓC|², at a least-squares solution."""
    case = cases()["linear under"]
    matrix, targets = case.dense(), np.ravel(case.problem.loss.targets)
    weight = np.linalg.lstsq(matrix, targets)[0].reshape(case.params.shape)
    found = jg.geometry.equilibrium(case.problem, jnp.asarray(weight))
    assert found.is_critical(1e-12)
    left = found.lost.reshape(len(found.lost), -1)
    gradient = np.ravel(case.problem.loss.gradient(case.problem.outputs(jnp.asarray(weight))))
    outside = (left.T @ (left @ gradient)).reshape(case.problem.loss.targets.shape)
    cost = case.problem.cost(jnp.asarray(weight))
    np.testing.assert_allclose(jg.theory.critical_cost(outside, case.problem.num_samples), cost, rtol=1e-12)


def test_a_point_that_is_not_critical_is_refused():
    case = cases()["mlp duplicates"]
    with pytest.raises(ValueError, match="not a critical point"):
        jg.geometry.critical_manifold(case.problem, case.params)


def test_an_equilibrium_is_printed_in_a_line():
    problem = jg.Problem(lambda a, x: a * x, jnp.array([1.0, 1.0]), jg.L2(jnp.array([0.0, 2.0])))
    text = str(jg.geometry.equilibrium(problem, jnp.array(1.0)))
    assert text.startswith("|∇ₓC| = 0.707, |Dᵀ∇ₓC| = ")
    assert text.endswith("; QN = 2, K = 1, rank(D) = 1, with singular values from 1.41 to 1.41")
