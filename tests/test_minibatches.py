"""Training on minibatches: Cauchy steps, damping by the next batch, and optax combinations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from regression import batch, dense, flat, network, parameters

import jaxgeo as jg
from jaxgeo.linalg.cauchy import cauchy_step, sampled_trace
from jaxgeo.optim import momentum
from jaxgeo.optim.agreement import Agreement, NextBatchDamping, SmallBatchDamping


def problem_and_weights():
    params, data = parameters(), batch(size=4)
    problem = jg.Problem(network, data["inputs"], jg.L2(data["targets"]))
    weights = jax.tree.map(lambda leaf: 0.5 + jnp.cos(leaf) ** 2, params)
    return problem, params, weights


def test_a_cauchy_step_minimises_along_the_steepest_direction_and_strongly_damped_it_is_the_lift():
    problem, params, weights = problem_and_weights()
    jacobian = problem.jacobian(params)
    rows = jnp.arange(8.0).reshape(4, 2) / 8
    d, w, v = dense(problem, params), np.diag(flat(weights)), flat(rows)

    def close_to(expected, damping, rtol):
        found, moved = cauchy_step(jacobian, weights, jnp.asarray(damping), jacobian.T.mv(rows))
        np.testing.assert_allclose(flat(found), expected, rtol=rtol)
        np.testing.assert_allclose(flat(moved), d @ expected, rtol=rtol)

    steepest = np.linalg.solve(w, d.T @ v)
    squares, target = np.concatenate([d @ steepest, np.sqrt(0.3 * w) @ steepest]), np.concatenate([v, np.zeros(len(w))])
    close_to(np.linalg.lstsq(squares[:, None], target)[0][0] * steepest, 0.3, 1e-10)
    inverse = np.linalg.inv(w)
    close_to(inverse @ d.T @ np.linalg.solve(d @ inverse @ d.T + 1e12 * np.eye(8), v), 1e12, 1e-9)


def test_the_trace_is_the_mean_over_signs():
    problem, params, weights = problem_and_weights()
    signs = np.stack(np.meshgrid(*[[-1.0, 1.0]] * 8), axis=-1).reshape(-1, 4, 2)
    found = jax.vmap(lambda each: sampled_trace(problem.jacobian(params), weights, each))(jnp.asarray(signs))
    d = dense(problem, params)
    np.testing.assert_allclose(np.mean(found), np.sum(d**2 / flat(weights)), rtol=1e-12)


def trained(tx, feed, params, steps, cost=jg.L2):
    """Parameters after some updates by the batches of a feed in turn, and the dampings."""

    @jax.jit
    def update(params, state, inputs, targets):
        updates, state = tx.update(params, state, params, inputs=inputs, targets=targets)
        return optax.apply_updates(params, updates), state

    state, dampings = tx.init(params), []
    for step in range(steps):
        params, state = update(params, state, *feed[step % len(feed)])
        dampings.append(float(state.info.damping))
    return params, dampings


@pytest.mark.slow
def test_damping_falls_on_full_batches_and_rises_where_batches_are_samples_of_noise():
    data, random = batch(size=4), np.random.default_rng(0)
    tx = jg.optim.adapted_momentum(network, learning_rate=0.7)
    params, dampings = trained(tx, [(data["inputs"], data["targets"])], parameters(), 150)
    assert jg.Problem(network, data["inputs"], jg.L2(data["targets"])).cost(params) < 1e-20
    assert min(dampings) < 1e-2 * NextBatchDamping().initial
    noise = [(random.uniform(-1, 1, (4, 2)), random.normal(size=(4, 2))) for _ in range(40)]
    feed = [(jnp.asarray(inputs), jnp.asarray(targets)) for inputs, targets in noise]
    damping = NextBatchDamping(initial=1e-3)
    _, dampings = trained(jg.optim.adapted_momentum(network, damping=damping), feed, parameters(), 40)
    assert np.median(dampings[20:]) == damping.most


def test_damping_by_the_next_batch_follows_its_formula():
    damping = NextBatchDamping(error=0.5, decrease=3.0)
    values = {"damping": 0.1, "own": 0.1, "slope": -2.0, "promised": -1.0, "rate": 1.0, "cost": 3.0}
    state = Agreement(**{name: jnp.asarray(value) for name, value in values.items()})
    np.testing.assert_allclose(damping.learn(state, jnp.asarray(-0.5)), 0.1 * 0.5 / (0.5 * 2))
    np.testing.assert_allclose(damping.learn(state, jnp.asarray(-1.0)), 0.1 / damping.decrease)
    np.testing.assert_allclose(damping.learn(state, jnp.asarray(np.nan)), 0.1 * damping.increase)
    np.testing.assert_allclose(damping.learn(state._replace(rate=jnp.zeros(())), jnp.asarray(9.0)), 0.1)
    before_the_first = Agreement(*(jnp.zeros(()) for _ in Agreement._fields))
    np.testing.assert_allclose(damping.learn(before_the_first, jnp.asarray(9.0)), damping.initial)


@pytest.mark.parametrize("damping", [pytest.param(0.1, marks=pytest.mark.slow), 5.0])
def test_the_cap_bounds_the_change_of_log_probabilities(damping):
    params, data = parameters(), batch(size=5)
    labels = jnp.asarray([0, 1, 0, 1, 0])
    cost = functools.partial(jg.SoftmaxCrossEntropy.from_labels, num_classes=2)
    tx = jg.optim.adapted_momentum(network, cost=cost, damping=damping, max_change=1e-3)

    @jax.jit
    def moved(params):
        updates, state = tx.update(params, tx.init(params), params, inputs=data["inputs"], targets=labels)
        outputs, change = jax.jvp(lambda p: jax.vmap(lambda x: network(p, x))(data["inputs"]), (params,), (updates,))
        p = jax.nn.softmax(outputs)
        return jnp.sum(p * change**2, axis=1) - jnp.sum(p * change, axis=1) ** 2, state.info.fraction

    squares, fraction = moved(params)
    np.testing.assert_allclose(np.sqrt(np.mean(squares)), 1e-3, rtol=1e-9)
    assert fraction < 1


@pytest.mark.slow
@pytest.mark.parametrize("damping", [0.1, 5.0])
def test_without_a_cap_the_whole_step_is_taken(damping):
    params, data = parameters(), batch(size=5)
    free = jg.optim.adapted_momentum(network, damping=damping)
    _, state = free.update(params, free.init(params), params, **data)
    assert state.info.fraction == 1


@pytest.mark.slow
@pytest.mark.parametrize("classes", [False, True])
def test_padding_changes_nothing_where_the_step_is_a_cauchy_step(classes):
    params, data = parameters(), batch(size=5)
    targets = jnp.asarray([0, 1, 0, 1, 0]) if classes else data["targets"]
    cost = functools.partial(jg.SoftmaxCrossEntropy.from_labels, num_classes=2) if classes else jg.L2
    tx = jg.optim.adapted_momentum(network, cost=cost, damping=5.0)
    some = jnp.asarray([0, 2, 4])
    few, _ = tx.update(params, tx.init(params), params, inputs=data["inputs"][some], targets=targets[some])
    weights = jnp.asarray([1.0, 0.0, 1.0, 0.0, 1.0])
    all_, _ = tx.update(params, tx.init(params), params, inputs=data["inputs"], targets=targets, weights=weights)
    np.testing.assert_allclose(flat(all_), flat(few), rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_schedules_decay_clipping_accumulation_and_averages_compose():
    params, data = parameters(jnp.float32), batch(jnp.float32, size=6)
    # optax's own schedules, averages and accumulation mix dtypes, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        ours = jg.optim.adapted_momentum(network, learning_rate=optax.cosine_decay_schedule(1.0, 12))
        plain, _ = ours.update(params, ours.init(params), params, **data)
        chained = optax.chain(ours, optax.clip_by_global_norm(1e-2), optax.add_decayed_weights(-1e-3))
        decayed, _ = chained.update(params, chained.init(params), params, **data)
        averaged = optax.chain(ours, optax.ema(0.9))
        mean, _ = averaged.update(params, averaged.init(params), params, **data)
        steps = optax.MultiSteps(ours, 2)
        state = steps.init(params)
        first, state = steps.update(params, state, params, **data)
        second, state = steps.update(params, state, params, **data)
    shrunk = 1e-2 / optax.tree.norm(plain)
    np.testing.assert_allclose(flat(decayed), shrunk * flat(plain) - 1e-3 * flat(params), atol=1e-7)
    np.testing.assert_allclose(flat(mean), flat(plain), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(flat(first), 0)
    np.testing.assert_allclose(flat(second), flat(plain), rtol=1e-5, atol=1e-7)


def test_a_class_of_damping_is_refused():
    with pytest.raises(ValueError, match=r"`damping` must be a number, a schedule or `NextBatchDamping\(\)`"):
        jg.optim.adapted_momentum(network, damping=NextBatchDamping)


def narrow(params, x):
    return jnp.tanh(params["in"] @ x) @ params["out"]


def table(rows):
    """A noiseless table, and a start near the network that made it, of 15 parameters."""
    keys = jax.random.split(jax.random.key(0), 3)
    teacher = {"in": jax.random.normal(keys[0], (3, 4)), "out": jnp.array([[1.0], [-0.7], [0.4]])}
    start = jax.tree.map(lambda leaf: leaf + 0.5 * jax.random.normal(keys[1], leaf.shape), teacher)
    inputs = jax.random.normal(keys[2], (rows, 4))
    return inputs, jax.vmap(narrow, (None, 0))(teacher, inputs), start


def test_batches_that_determine_all_parameters_train_a_noiseless_table_to_round_off():
    inputs, targets, start = table(320)
    feed = [(inputs[first : first + 32], targets[first : first + 32]) for first in range(0, 320, 32)]
    tx = jg.optim.adapted_momentum(narrow)
    params, dampings = trained(tx, feed, start, 40)
    assert jg.Problem(narrow, inputs, jg.L2(targets)).cost(params) < 1e-26
    assert dampings[0] == 1e-3
    assert dampings[-1] < 1e-8


def test_smaller_batches_of_least_squares_are_damped_by_at_most_a_tenth_and_lower_the_cost_of_all():
    inputs, targets, start = table(320)
    feed = [(inputs[first : first + 8], targets[first : first + 8]) for first in range(0, 320, 8)]
    params, dampings = trained(jg.optim.adapted_momentum(narrow), feed, start, 80)
    whole = jg.Problem(narrow, inputs, jg.L2(targets))
    assert max(dampings) == 0.1
    assert whole.cost(params) < 1e-2 * whole.cost(start)


def test_a_small_batch_judges_its_own_updates_if_each_update_gets_it():
    inputs, targets, start = table(10)
    tx = jg.optim.adapted_momentum(narrow)
    params, dampings = trained(tx, [(inputs, targets)], start, 12)
    assert jg.Problem(narrow, inputs, jg.L2(targets)).cost(params) < 1e-26
    assert dampings[0] == 0.1
    assert min(np.divide(dampings[1:], dampings[:-1])) < 0.5 / SmallBatchDamping.by_next.decrease
    # If something else moves the parameters too, the cost of the same batch differs, and the next batch judges.
    tx = optax.chain(tx, optax.scale(0.9))
    state, dampings = tx.init(start), []
    update = jax.jit(lambda params, state: tx.update(params, state, params, inputs=inputs, targets=targets))
    params = start
    for _ in range(12):
        updates, state = update(params, state)
        params = optax.apply_updates(params, updates)
        dampings.append(float(state[0].info.damping))
    assert min(np.divide(dampings[1:], dampings[:-1])) >= 0.999 / SmallBatchDamping.by_next.decrease


def classes():
    """Parameters of `narrow`, a batch, and its cross-entropy."""
    inputs, labels = jax.random.normal(jax.random.key(0), (12, 4)), jnp.arange(12) % 3
    cost = functools.partial(jg.SoftmaxCrossEntropy.from_labels, num_classes=3)
    # With equal columns in "out" the gradient of "in" would be 0, and its updates round-off.
    params = {"in": jax.random.normal(jax.random.key(1), (5, 4)), "out": jax.random.normal(jax.random.key(2), (5, 3))}
    return params, inputs, labels, cost


def test_by_default_no_exact_lift_is_compiled_for_cross_entropy():
    params, inputs, labels, cost = classes()

    def program(**options):
        tx = jg.optim.adapted_momentum(narrow, cost=cost, **options)
        return str(jax.make_jaxpr(tx.update)(params, tx.init(params), params, inputs=inputs, targets=labels))

    assert "cholesky" not in program()
    assert "cholesky" in program(damping=NextBatchDamping())


class NoMemory:
    """A solver whose plan exceeds the memory."""

    def factorise(self, *arguments):
        raise MemoryError


def test_without_the_memory_for_a_lift_cauchy_steps_are_taken_at_any_damping(monkeypatch):
    monkeypatch.setattr(momentum, "check_solver", lambda solver: NoMemory() if solver is None else solver)
    params, inputs, labels, cost = classes()

    def optimizer(damping):
        return jg.optim.adapted_momentum(narrow, cost=cost, damping=damping)

    def update(tx, state):
        return tx.update(params, state, params, inputs=inputs, targets=labels)[0]

    fixed = optimizer(0.1)
    with pytest.raises(MemoryError):
        update(fixed, fixed.init(params))
    tx, fixed = optimizer(NextBatchDamping()), optimizer(NextBatchDamping().initial)
    found, strongly_damped = update(tx, tx.init(params)), update(fixed, fixed.init(params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, strongly_damped)
    # Of the damping that the state begins with, so by the same program.
    assert np.all(np.isfinite(flat(update(tx, optimizer(NextBatchDamping(initial=0.1)).init(params)))))
