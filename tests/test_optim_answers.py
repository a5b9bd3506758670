"""The purpose of each transformation, on problems with known answers."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from regression import SOLVER, batch, dense, flat, gradient, linear_network, network, parameters

import jaxgeo as jg
from jaxgeo.linalg import QR


@pytest.mark.parametrize("size", [3, pytest.param(9, marks=pytest.mark.slow)], ids=["over", "under"])
def test_a_full_step_solves_a_linear_problem(size):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(size, 4)))
    y = jnp.asarray(np.random.default_rng(1).normal(size=(size, 1)))
    params = {"a": jnp.ones((1, 4)), "b": jnp.zeros(1)}
    problem = jg.Problem(linear_network, x, jg.L2(y))
    tx = jg.optim.adapted_gradient_descent(learning_rate=1.0, solver=SOLVER)
    updates, state = tx.update(jax.grad(problem.cost)(params), tx.init(params), params, problem=problem)
    new = optax.apply_updates(params, updates)
    matrix = np.concatenate([x, np.ones((size, 1))], axis=1)
    start = np.concatenate([params["a"].ravel(), params["b"]])
    expected = start + np.linalg.pinv(matrix) @ (np.asarray(y)[:, 0] - matrix @ start)
    np.testing.assert_allclose(np.concatenate([new["a"].ravel(), new["b"]]), expected, atol=1e-12)
    np.testing.assert_allclose(state.info.gain_ratio, 1, rtol=1e-10)


@pytest.mark.slow
def test_small_steps_follow_the_flow_to_first_order():
    params, data = parameters(), batch(size=4)
    problem = jg.Problem(network, data["inputs"], jg.L2(data["targets"]))
    start = problem.outputs(params)
    expected = jg.theory.outputs_at(0.5 * 4, start, data["targets"], 4)
    errors = []
    for count in (8, 16, 32):
        tx = jg.optim.adapted_gradient_descent(learning_rate=0.5 / count, solver=SOLVER)
        theta, state = params, tx.init(params)
        for _ in range(count):
            updates, state = tx.update(jax.grad(problem.cost)(theta), state, theta, problem=problem)
            theta = optax.apply_updates(theta, updates)
        errors.append(float(jnp.linalg.norm(problem.outputs(theta) - expected)))
    ratios = np.array(errors[:-1]) / np.array(errors[1:])
    assert (np.abs(ratios - 2) < 0.25).all(), (errors, ratios)


@pytest.mark.slow
@pytest.mark.parametrize("size", [4, 40], ids=["over", "under"])
def test_any_gradient_gets_the_metric_form(size):
    params, data = parameters(), batch(size=size)
    # Scale and v together would leave D without full rank.
    keep = {"w": True, "b": True, "v": True, "scale": False, "none": False}
    problem = jg.Problem(network, data["inputs"], jg.L2(data["targets"]), trainable=keep)
    own = jax.grad(problem.cost)(params)
    changed = jax.tree.map(lambda g, p: 0.3 * g + 0.01 * p, own, params)
    tx = jg.optim.scale_by_adapted_metric(damping=1e-2, solver=SOLVER)
    d = dense(problem, params)
    shift = 1e-2 * np.sum(d**2) / len(d)
    for grads in (own, changed):
        direction, state = tx.update(grads, tx.init(params), params, problem=problem)
        expected = size * np.linalg.solve(d.T @ d + shift * np.eye(d.shape[1]), flat(eqx.filter(grads, keep)))
        np.testing.assert_allclose(flat(eqx.filter(direction, keep)), expected, rtol=1e-7, atol=1e-8)
        assert state.info.damping == 1e-2


@pytest.mark.slow
def test_descent_is_the_chain_of_direction_and_rate():
    params, data = parameters(), batch()
    grads = gradient(params, **data)
    schedule = optax.exponential_decay(0.2, 1, 0.5)
    one = jg.optim.adapted_gradient_descent(network, learning_rate=schedule, solver=SOLVER)
    two = optax.chain(jg.optim.scale_by_adapted_metric(network, solver=SOLVER), optax.scale_by_learning_rate(schedule))
    s1, s2 = one.init(params), two.init(params)
    for _ in range(2):
        u1, s1 = one.update(grads, s1, params, **data)
        u2, s2 = two.update(grads, s2, params, **data)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), u1, u2)


@pytest.mark.slow
def test_a_huge_learning_rate_is_cut_down():
    params, data = parameters(), batch()
    tx = jg.optim.adapted_gradient_descent(network, learning_rate=1e6, damping=1e-6)
    updates, state = tx.update(gradient(params, **data), tx.init(params), params, **data)
    assert 0 < state.info.fraction < 1
    assert state.info.new_cost <= 2 * state.info.cost
    assert jnp.isfinite(optax.tree.norm(updates))


@pytest.mark.slow
def test_the_number_of_steps_is_known_beforehand():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)))
    params = {"a": jnp.zeros((1, 4)), "b": jnp.zeros(1)}
    problem = jg.Problem(linear_network, x, jg.L2(jnp.ones((3, 1))))
    count = jg.theory.num_steps(problem.cost(params), 1e-6, 0.3)
    tx = jg.optim.adapted_gradient_descent(learning_rate=0.3)
    state, costs = tx.init(params), []
    for _ in range(int(count)):
        updates, state = tx.update(jax.grad(problem.cost)(params), state, params, problem=problem)
        params = optax.apply_updates(params, updates)
        costs.append(float(problem.cost(params)))
    assert costs[-1] <= 1e-6 < costs[-2]


def test_momentum_is_the_nearest_velocity_that_moves_the_outputs():
    params, data = parameters(), batch(size=4)
    problem = jg.Problem(network, data["inputs"], jg.L2(data["targets"]))
    tx = jg.optim.adapted_momentum(learning_rate=0.1, momentum=0.8, damping=0.0, solver=QR())
    state = tx.init(params)
    velocity = np.zeros(flat(params).size)
    for _ in range(3):
        updates, state = tx.update(params, state, params, problem=problem)
        d = dense(problem, params)
        residual = flat(problem.outputs(params) - data["targets"])
        kept = 0.8 * velocity
        velocity = kept + np.linalg.pinv(d) @ (-residual - d @ kept)
        np.testing.assert_allclose(flat(updates), 0.1 * velocity, atol=1e-10)
        params = optax.apply_updates(params, updates)


@pytest.mark.slow
def test_momentum_stands_still_where_the_flow_does():
    params, data = parameters(), batch(size=4)
    problem = jg.Problem(network, data["inputs"], jg.L2(data["targets"]))
    tx = jg.optim.adapted_momentum(learning_rate=0.7, momentum=0.9, damping=1e-3)
    state = tx.init(params)
    for _ in range(150):
        updates, state = tx.update(params, state, params, problem=problem)
        params = optax.apply_updates(params, updates)
    assert problem.cost(params) < 1e-20
    assert optax.tree.norm(updates) < 1e-4


@pytest.mark.slow
def test_momentum_is_bounded():
    with pytest.raises(ValueError, match="momentum"):
        jg.optim.adapted_momentum(learning_rate=0.1, momentum=1.0)
    params, data = parameters(), batch()
    tx = jg.optim.adapted_momentum(network, learning_rate=1.0, max_change=1e-3)
    updates, state = tx.update(params, tx.init(params), params, **data)
    change = dense(jg.Problem(network, data["inputs"], jg.L2(data["targets"])), params) @ flat(updates)
    np.testing.assert_allclose(np.sqrt(np.sum(change**2) / len(data["inputs"])), 1e-3, rtol=1e-9)
    assert state.info.fraction < 1


def test_interpolation_walks_the_line_and_ends_in_round_off():
    params, data = parameters(), batch(size=4)
    problem = jg.Problem(network, data["inputs"], jg.L2(data["targets"]))
    tx = jg.optim.linear_interpolation(num_steps=8, solver=SOLVER)
    state, start, costs = tx.init(params), problem.cost(params), []
    for _ in range(13):
        updates, state = tx.update(params, state, params, problem=problem)
        params = optax.apply_updates(params, updates)
        costs.append(float(problem.cost(params) / start))
    line = (1 - np.arange(1, 8) / 8) ** 2
    np.testing.assert_allclose(np.sqrt(costs[:7]), np.sqrt(line), atol=0.07)
    assert costs[-1] < 1e-28


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1e-5, 1e5])
def test_a_change_of_units_of_the_outputs_changes_nothing(factor):
    """Scaling outputs, targets and the metric alike gives the same update."""
    params, data = parameters(), batch(size=4)
    cost = jg.Problem(network, data["inputs"], jg.L2(data["targets"]))
    scaled = jg.Problem(lambda params, x: factor * network(params, x), data["inputs"], jg.L2(factor * data["targets"]))
    tx = jg.optim.adapted_levenberg_marquardt(solver=SOLVER)
    one, _ = tx.update(params, tx.init(params), params, problem=cost)
    two, _ = tx.update(params, tx.init(params), params, problem=scaled)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12), one, two)
