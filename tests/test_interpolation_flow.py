"""Straight lines in output space: the field, the path, and its end point."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counting import Counting, lifts

import jaxgeo as jg
from cases.problems import cases, digits, to_float32


def test_field_is_the_lift_of_the_remaining_way():
    case = cases()["dict"]
    deviation = np.ravel(case.problem.loss.deviation(case.problem.outputs(case.params)))
    svd = jg.linalg.SVD()
    for flow in (jg.InterpolationFlow(None, svd), jg.InterpolationFlow(jnp.asarray(deviation).reshape(3, 2) * 4, svd)):
        velocity = jax.flatten_util.ravel_pytree(flow(0.75, case.params, case.problem))[0]
        np.testing.assert_allclose(velocity, -4 * np.linalg.pinv(case.dense()) @ deviation, rtol=1e-8)


@pytest.mark.slow
def test_cost_falls_as_the_square_of_the_time_left():
    """C = (1 − t)²C₀, by an adaptive integration that stops short of the end."""
    case = cases()["dict"]
    times = jnp.linspace(0.0, 0.9, 4)
    flow = jg.InterpolationFlow(solver=jg.linalg.SVD())
    sol = jg.solve_flow(case.problem, flow, case.params, s1=0.9, dt0=0.01, save_at=times, rtol=1e-8)
    np.testing.assert_allclose(sol.costs, (1 - times) ** 2 * sol.initial_cost, rtol=1e-6)


@pytest.mark.parametrize("name", [pytest.param("dict", marks=pytest.mark.slow), "linear borderline"])
def test_walk_to_the_end_point(name):
    case = cases()[name]
    solver = jg.linalg.SVD() if name == "linear borderline" else None
    sol = jg.solve_interpolation(case.problem, case.params, num_steps=16, lift_solver=solver)
    assert sol.final_cost <= 1e-28
    np.testing.assert_allclose(sol.final_cost, case.problem.cost(sol.params), atol=1e-30)
    np.testing.assert_allclose(sol.t, [*np.arange(16) / 16, 1, 1, 1, 1], rtol=1e-15)
    if name == "linear borderline":
        np.testing.assert_allclose(sol.costs[:16], (1 - sol.t[:16]) ** 2 * sol.costs[0], rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "order", "counts"),
    [(dfx.Euler(), 1, (32, 64)), (dfx.Heun(), 2, (16, 32))],
)
def test_open_loop_converges_with_the_order_of_the_solver(solver, order, counts):
    inputs = jnp.array([[1.0, 0.5, -0.3], [0.2, -1.0, 0.7]])
    problem = jg.Problem(lambda a, x: jnp.sinh(a) @ x, inputs, jg.L2(jnp.array([1.0, -0.5])))
    start = jnp.array([0.1, 0.4, -0.8])
    errors = [
        jnp.sqrt(
            jg.solve_interpolation(
                problem, start, num_steps=count, open_loop=True, solver=solver, lift_solver=jg.linalg.SVD()
            ).final_cost
        )
        for count in counts
    ]
    assert abs(np.log2(errors[0] / errors[1]) - order) < 0.3


@pytest.mark.slow
def test_bad_input_and_a_walk_that_goes_astray():
    case = cases()["linear deficient"]
    with pytest.raises(ValueError, match="rank"):
        jg.solve_interpolation(case.problem, case.params)
    with pytest.raises(ValueError, match="`num_steps` must be an integer of at least 1; got 0"):
        jg.solve_interpolation(case.problem, case.params, num_steps=0)
    problem = jg.Problem(lambda a, x: jnp.tanh(a * x), jnp.ones(1), jg.L2(jnp.array([0.0])))
    with pytest.raises(RuntimeError, match="ended with a higher cost"):
        jg.solve_interpolation(problem, jnp.array(2.0), num_steps=1, end_steps=1, open_loop=True)


@pytest.mark.slow
def test_float32():
    case = cases()["dict"]
    sol = jg.solve_interpolation(to_float32(case.problem), to_float32(case.params))
    assert sol.t.dtype == sol.costs.dtype == sol.params["W"].dtype == jnp.float32
    assert sol.final_cost <= 1e-12


@pytest.mark.slow
def test_digits_to_the_end_in_few_lifts():
    case = digits()
    count, cost = lifts(
        lambda: jg.solve_interpolation(case.problem, case.params, lift_solver=Counting(jg.linalg.Auto())).final_cost
    )
    assert cost <= 1e-24
    assert 0 < count <= 60
