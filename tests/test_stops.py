"""How an integration starts and ends: by time, cost, number of steps, or because it cannot continue."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgeo as jg
from cases.problems import cases

# Compiles fastest; how an orbit ends is no matter of the lift.
FLOW = jg.AdaptedFlow(jg.linalg.SVD())


def times(a, x):
    return a * x


def halving():
    """x = a with y = 0 and N = 1: Euler's step of 1/2 halves it exactly, a step of 1 ends in zero."""
    return jg.Problem(times, jnp.ones(1), jg.L2(jnp.zeros(1))), jnp.array(1.0)


@pytest.mark.slow
def test_both_ends_given():
    case = cases()["mlp over"]
    tol = 0.5 * float(case.problem.cost(case.params))
    by_cost = jg.solve_flow(case.problem, FLOW, case.params, s1=100.0, cost_tol=tol)
    assert by_cost.result == jg.RESULTS.successful
    by_time = jg.solve_flow(case.problem, FLOW, case.params, s1=0.1, cost_tol=tol)
    assert by_time.result == jg.RESULTS.cost_tol_not_reached
    assert by_time.final_s == pytest.approx(0.1)


def test_cost_that_is_low_enough_already():
    problem, start = halving()
    cost = problem.cost(start)
    for tol in (cost, 2 * cost):
        sol = jg.solve_flow(problem, FLOW, start, cost_tol=tol)
        assert sol.result == jg.RESULTS.successful
        assert float(sol.final_s) == float(sol.stopping_time) == 0.0
        assert eqx.tree_equal(sol.params, start)
        np.testing.assert_array_equal(sol.costs, cost[None])


@pytest.mark.slow
@pytest.mark.parametrize(("dt0", "cost_tol"), [(0.5, 0.125), (0.5, 0.0078125), (1.0, 1e-3)])
def test_event_at_the_end_of_a_step(dt0, cost_tol):
    """Costs that a step meets exactly, and a step that ends in a cost of exactly zero."""
    problem, start = halving()
    sol = jg.solve_flow(
        problem,
        FLOW,
        start,
        s1=10.0,
        cost_tol=cost_tol,
        solver=dfx.Euler(),
        stepsize_controller=dfx.ConstantStepSize(),
        dt0=dt0,
    )
    assert sol.result == jg.RESULTS.successful
    np.testing.assert_allclose(sol.final_cost, cost_tol, rtol=1e-12)
    assert jnp.all(jnp.diff(sol.s) > 0)


@pytest.mark.slow
def test_starting_at_zero_cost():
    problem, _ = halving()
    sol = jg.solve_flow(problem, FLOW, jnp.array(0.0), s1=1.0)
    np.testing.assert_array_equal(sol.costs, 0.0)
    assert float(sol.params) == 0.0


@pytest.mark.slow
def test_save_at_with_constant_steps():
    problem, start = halving()
    sol = jg.solve_flow(
        problem,
        FLOW,
        start,
        s1=1.0,
        save_at=np.array([0.25, 1.0]),
        stepsize_controller=dfx.ConstantStepSize(),
        dt0=0.1,
    )
    np.testing.assert_allclose(sol.defect, 0, atol=1e-5)


def test_too_few_steps():
    problem, start = halving()
    with pytest.raises(RuntimeError, match="maximum number of solver steps.*`max_steps`.*`throw=False`"):
        jg.solve_flow(problem, FLOW, start, s1=100.0, max_steps=3)
    sol = jg.solve_flow(problem, FLOW, start, s1=100.0, max_steps=3, throw=False)
    assert sol.result == jg.RESULTS.max_steps_reached
    assert 0 < sol.final_s < 100
    assert sol.final_s == sol.s[-1]
    np.testing.assert_allclose(sol.final_cost, sol.costs[-1], rtol=1e-12)
    assert sol.final_cost < sol.initial_cost


class NaNBeyond(jg.AbstractFlow):
    """−∇θC until s = 1, and then not a number."""

    def velocity(self, s, jacobian):
        velocity = jg.StandardFlow().velocity(s, jacobian)
        return jax.tree.map(lambda leaf: jnp.where(s > 1.0, jnp.nan, leaf), velocity)

    def required_rank(self, num_rows, num_params):
        return None

    def follows_law(self, num_rows, num_params):
        return False


@pytest.mark.slow
def test_a_velocity_that_is_not_a_number():
    """Steps shrink before it and the integration ends; no NaN gets into the parameters."""
    case = cases()["mlp over"]
    with pytest.raises(RuntimeError, match="the velocity is not finite"):
        jg.solve_flow(case.problem, NaNBeyond(), case.params, s1=3.0)
    sol = jg.solve_flow(case.problem, NaNBeyond(), case.params, s1=3.0, throw=False)
    assert sol.result == jg.RESULTS.step_size_vanished
    assert abs(sol.final_s - 1) < 1e-6
    assert all(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(sol.params))


def test_no_stopping_time_is_told_without_a_law():
    problem = jg.Problem(lambda a, x: a * x, jnp.array([1.0, 2.0]), jg.L2(jnp.array([1.0, 2.0])))
    start = jnp.array(0.0)
    for flow in (jg.HomotopyFlow(0.5, jg.linalg.SVD()), FLOW, jg.StandardFlow()):
        found = jg.solve_flow(problem, flow, start, cost_tol=1e-2)
        assert found.stopping_time is None
        assert not found.lawful
        assert "The cost reached `cost_tol`" in str(found)
        assert float(found.cost_tol) == 1e-2


def test_rank_that_was_missing_from_the_start_is_told():
    """The excess cost over its floor falls by the law, the cost itself cannot."""

    def solved(inputs):
        problem = jg.Problem(jnp.dot, inputs, jg.L2(jnp.array([0.0, 1.0])))
        return jg.solve_flow(problem, jg.RankAdaptiveFlow(), jnp.zeros(3), s1=4.0)

    found = solved(jnp.ones((2, 3)))
    assert "D lacked rank from the start" in str(found)
    assert float(found.final_cost) == pytest.approx(1 / 8 + (1 / 4 - 1 / 8) * np.exp(-4.0), rel=1e-5)
    assert "largest defect" in str(solved(jnp.eye(3)[:2]))
