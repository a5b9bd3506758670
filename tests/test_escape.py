"""Local equilibria by rank loss: reached, recognised and left."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxgeo as jg

NUM_UNITS, NUM_SAMPLES = 6, 4
FLOW = jg.RankAdaptiveFlow(jg.linalg.SVD(jg.linalg.SmoothCutoff()))


def network(params, x):
    return params["v"] @ jnp.tanh(params["w"] * x + params["b"])


def equal_units(seed):
    """A network whose units are all the same, and stay so: rank(D) ≤ 3 < N = 4 although K = 18."""
    rng = np.random.default_rng(seed)
    inputs = jnp.asarray(np.sort(rng.uniform(-2, 2, NUM_SAMPLES)))
    problem = jg.Problem(network, inputs, jg.L2(jnp.asarray(rng.normal(size=NUM_SAMPLES))))
    w, b, v = rng.normal(size=3)
    params = {"w": jnp.full(NUM_UNITS, w), "b": jnp.full(NUM_UNITS, b), "v": jnp.full(NUM_UNITS, v / NUM_UNITS)}
    return problem, params


def stop_and_go(seed):
    problem, params = equal_units(seed)
    options = {"cost_tol": 1e-20, "rank_check": False, "max_steps": 20_000}
    stuck = jg.solve_flow(problem, FLOW, params, throw=False, **options)
    assert stuck.result == jg.RESULTS.cost_tol_not_reached
    assert stuck.final_cost > 1e-6
    assert jg.rank_report(problem, stuck.params).rank < NUM_SAMPLES
    free = jg.geometry.escape(problem, stuck.params)
    assert problem.cost(free) < stuck.final_cost
    return jg.solve_flow(problem, FLOW, params, restart=jg.geometry.escape, max_restarts=5, throw=False, **options)


def test_stalled_left_and_on_to_the_global_minimum():
    sol = stop_and_go(0)
    assert sol.result == jg.RESULTS.successful
    assert sol.final_cost <= 1.001e-20
    assert jnp.all(jnp.diff(sol.s) >= 0)


@pytest.mark.slow
def test_twenty_of_twenty_seeds():
    reached = [bool(stop_and_go(seed).result == jg.RESULTS.successful) for seed in range(20)]
    assert reached == [True] * 20


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
