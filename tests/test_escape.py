"""Local equilibria by loss of rank: reached, recognised and left."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgeo as jg

# Singular values below 1e-4 of the largest do not count: a unit about to die lets one go to zero, and a flow that
# used it to the last would have to move its parameters ever faster.
FLOW = jg.RankAdaptiveFlow(jg.linalg.SVD(jg.linalg.SmoothCutoff(1e-4)))


def network(params, x):
    """A straight line, and units that are constantly zero on one side."""
    return params["c"] * x + params["d"] + params["v"] @ jax.nn.relu(params["w"] * x + params["b"]) ** 3


def dead_units(seed):
    """N = 4 samples, of which no unit sees one: rank(D) = 2 with K = 38.

    Where the line is fitted, no small change of any parameter lowers the cost: units that stay dead do nothing.
    """
    rng = np.random.default_rng(seed)
    inputs = jnp.asarray(np.sort(rng.uniform(-2, 2, 4)))
    problem = jg.Problem(network, inputs, jg.L2(jnp.asarray(rng.normal(size=4))))
    w, v = jnp.asarray(rng.normal(size=12)), jnp.asarray(rng.normal(size=12))
    zero = jnp.array(0.0)
    return problem, {"c": zero, "d": zero, "v": v, "w": w, "b": -2 * jnp.abs(w) - 0.5}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_local_minimum_left_and_on_to_the_global_one(seed):
    problem, params = dead_units(seed)
    options = {"cost_tol": 1e-20, "rank_check": False, "throw": False}
    stuck = jg.solve_flow(problem, FLOW, params, **options)
    inputs, targets = np.asarray(problem.blocks[0].inputs), np.asarray(problem.loss.targets)[:, 0]
    line = np.polyfit(inputs, targets, 1)
    left = np.sum((np.polyval(line, inputs) - targets) ** 2) / 8
    np.testing.assert_allclose(stuck.final_cost, left, rtol=1e-6)
    assert left > 1e-3
    assert stuck.result == jg.RESULTS.stalled
    assert jg.rank_report(problem, stuck.params).rank == 2
    free = jg.geometry.find_escape(problem, stuck.params)
    assert problem.cost(free.params) == pytest.approx(float(free.new_cost), rel=1e-12)
    assert free.new_cost < stuck.final_cost
    # A local minimum: it takes a finite step.
    assert abs(free.kappa) > 0.1
    assert abs(free.curvature) < 1e-6

    sol = jg.solve_flow(problem, FLOW, params, restart=jg.geometry.escape, max_restarts=10, **options)
    assert sol.result == jg.RESULTS.successful
    assert sol.final_cost <= 1.001e-20
    assert jnp.all(jnp.diff(sol.s) >= 0)
    assert len(sol.s) > len(stuck.s)


def test_the_best_step_is_found():
    """C = (ab − 1)²/2 at the saddle point 0: curvature −1 along (1, 1)."""
    problem = jg.Problem(lambda a, x: a[0] * a[1] * x, jnp.ones(1), jg.L2(jnp.ones(1)))
    found = jg.geometry.find_escape(problem, jnp.zeros(2))
    np.testing.assert_allclose(found.curvature, -1.0, rtol=1e-12)
    np.testing.assert_allclose(np.abs(found.params), np.abs(found.kappa) / np.sqrt(2), rtol=1e-12)
    np.testing.assert_allclose(found.new_cost, (found.kappa**2 / 2 - 1) ** 2 / 2, rtol=1e-12)
    assert found.new_cost < found.cost == 0.5


def test_a_global_minimum_is_not_left():
    problem = jg.Problem(lambda a, x: a * x, jnp.ones(2), jg.L2(jnp.array([1.0, 3.0])))
    with pytest.raises(RuntimeError, match="no step lowers the cost 0.5"):
        jg.geometry.escape(problem, jnp.array(2.0))
    wide = jg.Problem(lambda a, x: a[0] * x, jnp.ones(1), jg.L2(jnp.ones(1)))
    with pytest.raises(ValueError, match="got K=4097"):
        jg.geometry.find_escape(wide, jnp.ones(4097))
