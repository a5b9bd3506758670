"""Where an integration stops: thresholds of the gradient, of trapping and of the rank, alone and combined."""

import jax.numpy as jnp
import numpy as np
import pytest
from counting import Counting, lifts

import jaxgeo as jg

FLOW = jg.AdaptedFlow(jg.linalg.SVD())


def stretched(a, sample):
    return sample[1] * (jnp.sinh(a) @ sample[0])


def diagonal(*scales):
    """x_j = scale_j · sinh(a_j), whose D is diagonal with entries scale_j cosh(a_j)."""
    scale = jnp.asarray(scales)
    inputs = (jnp.eye(len(scales)), scale)
    return jg.Problem(stretched, inputs, jg.L2(jnp.zeros(len(scales))))


def solve(problem, params, events, flow=FLOW, **options):
    return jg.solve_flow(problem, flow, params, events=events, **{"s1": 40.0} | options)


@pytest.mark.slow
def test_several_events_and_which_one_fired():
    problem, start = diagonal(1.0, 2.0), jnp.array([1.0, 0.5])
    gradient, trapping, never = jg.GradientBelow(1e-3), jg.TrappingBelow(1.6), jg.GradientBelow(1e-9)
    sol = solve(problem, start, [gradient, never])
    assert sol.result == jg.RESULTS.event_occurred
    assert int(sol.event) == 0
    # x falls as e^{-s/2}, so near the end |Dᵀ∇ₓC| = |D x|/2 with D = diag(cosh a, 2cosh a).
    a = np.asarray(sol.params)
    scales = np.array([1.0, 2.0])
    np.testing.assert_allclose(np.linalg.norm(scales**2 * np.cosh(a) * np.sinh(a)) / 2, 1e-3, rtol=1e-9)
    sol = solve(problem, start, [gradient, trapping])
    assert int(sol.event) == 1
    a = np.asarray(sol.params)
    aim = scales * np.sinh(a)
    np.testing.assert_allclose(np.linalg.norm(scales * np.cosh(a) * aim) / np.linalg.norm(aim), 1.6, rtol=1e-9)
    sol = solve(problem, start, [never], s1=3.0)
    assert (int(sol.event), sol.result == jg.RESULTS.successful) == (-1, True)


@pytest.mark.slow
def test_rank_and_condition():
    problem = jg.Problem(lambda a, x: jnp.array([a[0], a[1] ** 3]) @ x, jnp.eye(2), jg.L2(jnp.array([0.0, 0.0])))
    start = jnp.array([1.0, 1.0])
    # D = diag(1, 3a₂²) with a₂³ = e^{-s/2}.
    sol = solve(problem, start, [jg.ConditionAbove(100.0), jg.RankBelow(2)])
    assert int(sol.event) == 0
    np.testing.assert_allclose(3 * sol.params[1] ** 2, 0.01, rtol=1e-8)
    np.testing.assert_allclose(sol.final_s, -6 * np.log(np.sqrt(0.01 / 3)), rtol=1e-4)
    never = jg.ConditionAbove(1e300)
    sol = solve(problem, jnp.array([1.0, 1e-6]), [never, jg.RankBelow(2)], rank_check=False, s1=400.0)
    assert int(sol.event) == 1
    assert 3 * sol.params[1] ** 2 < 1e-15


@pytest.mark.slow
def test_with_a_cost_to_reach():
    problem, start = diagonal(1.0, 1.0), jnp.array([1.0, 0.5])
    sol = solve(problem, start, [jg.GradientBelow(1e-9)], cost_tol=1e-4)
    assert sol.result == jg.RESULTS.successful
    assert int(sol.event) == -1
    np.testing.assert_allclose(sol.final_cost, 1e-4, rtol=1e-9)
    sol = solve(problem, start, [jg.GradientBelow(1e-1)], cost_tol=1e-8, s1=None)
    assert sol.result == jg.RESULTS.event_occurred
    assert sol.final_cost > 1e-4


def test_an_event_that_holds_at_the_start():
    problem, start = diagonal(1.0, 1.0), jnp.array([1.0, 0.5])
    sol = solve(problem, start, [jg.GradientBelow(1e-9), jg.GradientBelow(1e3)], flow=jg.StandardFlow(), s0=2.0)
    assert sol.result == jg.RESULTS.event_occurred
    assert (int(sol.event), float(sol.final_s)) == (1, 2.0)
    np.testing.assert_array_equal(sol.params, start)


def test_a_function_of_the_user():
    problem, start = diagonal(1.0, 1.0), jnp.array([1.0, 0.5])
    sol = solve(problem, start, [lambda s, params, problem: params[0] - 0.25], flow=jg.StandardFlow())
    np.testing.assert_allclose(sol.params[0], 0.25, rtol=1e-12)


@pytest.mark.slow
def test_the_gradient_event_takes_no_lift():
    problem, start = diagonal(1.0, 2.0), jnp.array([1.0, 0.5])
    flow = jg.AdaptedFlow(Counting(jg.linalg.SVD()))

    def count(events):
        return lifts(lambda: solve(problem, start, events, flow=flow, s1=4.0).costs)[0]

    assert count([]) == count([jg.GradientBelow(1e-9)]) > 10


def product(a, x):
    return a[0] * a[1] * x


@pytest.mark.slow
@pytest.mark.parametrize("start", [[0.0, 0.0], [0.5, 0.5]])
def test_a_cost_that_stalls_in_float32_under_x64(start):
    problem = jg.Problem(product, jnp.ones(1, jnp.float32), jg.L2(-jnp.ones(1, jnp.float32)))
    params = jnp.array(start, jnp.float32)
    sol = jg.solve_flow(problem, jg.StandardFlow(), params, cost_tol=1e-6, events=[jg.RankBelow(1)], throw=False)
    assert sol.params.dtype == jnp.float32
    assert float(sol.final_cost) == pytest.approx(0.5, rel=1e-3)
    if start[0] == 0:
        # D is zero there.
        assert (int(sol.event), float(sol.final_s)) == (0, 0.0)
    sol = jg.solve_flow(problem, jg.StandardFlow(), params, cost_tol=1e-6, throw=False)
    assert sol.result == jg.RESULTS.stalled
    assert (sol.final_s > 0) == (start[0] > 0)
