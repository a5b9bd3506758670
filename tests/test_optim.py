"""Optax's requirements on a transformation, for each of jaxgeo's."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from regression import KEY, SOLVER, batch, gradient, network, parameters

import jaxgeo as jg
from jaxgeo.linalg import QR, SVD, Auto


def metric(apply=network, solver=SOLVER, **options):
    options = {"damping": 1e-6} | options
    return optax.chain(jg.optim.scale_by_adapted_metric(apply, solver=solver, **options), optax.scale(-0.5))


def descent(apply=network, solver=SOLVER, **options):
    return jg.optim.adapted_gradient_descent(apply, learning_rate=0.5, damping=1e-6, solver=solver, **options)


def marquardt(apply=network, solver=SOLVER, **options):
    return jg.optim.adapted_levenberg_marquardt(apply, solver=solver, **options)


def momentum(apply=network, solver=SOLVER, **options):
    return jg.optim.adapted_momentum(apply, learning_rate=0.5, momentum=0.5, solver=solver, **options)


def interpolation(apply=network, solver=SOLVER, **options):
    return jg.optim.linear_interpolation(apply, num_steps=3, solver=solver, **options)


MAKERS = [metric, descent, marquardt, momentum, interpolation]


def those(*fast):
    return pytest.mark.parametrize(
        "make", [pytest.param(make, marks=[pytest.mark.slow] * (make not in fast)) for make in MAKERS]
    )


# All read their arguments by one piece of code: the fast tests ask one that steps at once, and one that tries.
each = those(metric, marquardt)
# Weights, masks and batching are read by one piece of code for all.
either = those(interpolation)
# What a step costs and where it may lead, of one that tries.
one = those(marquardt)


def types(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), tree)


@pytest.mark.parametrize(
    ("dtype", "make"),
    [
        (jnp.float32, marquardt),
        *(pytest.param(jnp.float32, make, marks=pytest.mark.slow) for make in MAKERS if make is not marquardt),
        *(pytest.param(jnp.float64, make, marks=pytest.mark.slow) for make in MAKERS),
    ],
)
def test_a_scanned_loop_keeps_types_and_lowers_the_cost(make, dtype):
    params, data = parameters(dtype), batch(dtype)
    tx = make(solver=Auto())
    state = tx.init(params)

    @jax.jit
    def train(params, state):
        def body(carry, _):
            params, state = carry
            updates, state = tx.update(gradient(params, **data), state, params, unknown=1, **data)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(body, (params, state), None, length=12)[0]

    after, last = train(params, state)
    assert types(after) == types(params)
    assert types(last) == types(state)
    cost = jg.Problem(network, data["inputs"], jg.L2(data["targets"])).cost
    assert cost(after) < 1e-2 * cost(params)


@pytest.mark.slow
@one
def test_the_second_call_compiles_nothing(make):
    traces = []

    def counted(params, x):
        traces.append(1)
        return network(params, x)

    params, tx = parameters(), make(counted)
    state = tx.init(params)
    for size in range(3):
        data = batch()
        data["targets"] = data["targets"] + size
        _, state = tx.update(params, state, params, **data)
        if size == 0:
            first = len(traces)
    assert len(traces) == first


@pytest.mark.slow
@either
def test_vmap_over_an_ensemble_is_a_loop_over_it(make):
    members = [jax.tree.map(lambda leaf, s=s: s * leaf, parameters()) for s in (1.0, 0.7)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    tx, data = make(), batch()

    def one(params):
        updates, state = tx.update(gradient(params, **data), tx.init(params), params, **data)
        return updates, state

    together, _ = jax.jit(jax.vmap(one))(stacked)
    for index, member in enumerate(members):
        alone, _ = one(member)
        part = jax.tree.map(lambda leaf, index=index: leaf[index], together)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9), part, alone)


@each
def test_missing_arguments_are_named(make):
    params, tx = parameters(), make()
    state = tx.init(params)
    with pytest.raises(ValueError, match="`params` is missing"):
        tx.update(params, state, **batch())
    with pytest.raises(ValueError, match="`inputs=` and `targets=` missing"):
        tx.update(params, state, params)
    with pytest.raises(ValueError, match="`targets=` missing"):
        tx.update(params, state, params, inputs=batch()["inputs"])
    problem = jg.Problem(network, batch()["inputs"], jg.L2(batch()["targets"]))
    with pytest.raises(ValueError, match="not both"):
        tx.update(params, state, params, problem=problem, **batch())
    with pytest.raises(ValueError, match="`apply`"):
        make(None).update(params, state, params, **batch())
    with pytest.raises(ValueError, match="trainable"):
        tx.init({"n": jnp.arange(3)})


@one
def test_a_problem_and_its_batch_give_the_same_update(make):
    params, data = parameters(), batch()
    tx = make()
    problem = jg.Problem(network, data["inputs"], jg.L2(data["targets"]))
    grads = gradient(params, **data)
    direct, _ = tx.update(grads, tx.init(params), params, problem=problem)
    batched, _ = tx.update(grads, tx.init(params), params, **data)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), direct, batched)


@pytest.mark.slow
@either
def test_padding_with_weight_zero_changes_nothing(make):
    params, data = parameters(), batch()
    tx = make(solver=SVD())
    alone, state = tx.update(gradient(params, **data), tx.init(params), params, **data)
    padded = {name: jnp.concatenate([value, jnp.full((2, 2), 7.0)]) for name, value in data.items()}
    weights = jnp.array([1.0] * 5 + [0.0] * 2)
    grads = gradient(params, **data)
    update, padded_state = tx.update(grads, tx.init(params), params, weights=weights, **padded)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), update, alone)
    np.testing.assert_allclose(_info(padded_state).cost, _info(state).cost, rtol=1e-12)


def _info(state):
    return state[0].info if type(state) is tuple else state.info


@either
def test_frozen_and_masked_leaves_stay(make):
    params, data = parameters(), batch()
    keep = {"w": True, "b": True, "v": True, "scale": False, "none": True}
    grads = gradient(params, **data)
    frozen = make(trainable=keep)
    expected, _ = frozen.update(grads, frozen.init(params), params, **data)
    assert expected["scale"] == 0
    masked = optax.masked(make(), keep)
    state = masked.init(params)
    with pytest.raises(ValueError, match="full_params"):
        masked.update(grads, state, params, **data)
    updates, _ = masked.update(grads, state, params, full_params=params, **data)
    for name in ("w", "b", "v"):
        np.testing.assert_allclose(updates[name], expected[name], rtol=1e-10)
    assert updates["scale"] == grads["scale"]


@pytest.mark.slow
def test_equinox_gradients_without_arrays_at_frozen_leaves():
    model = eqx.nn.MLP(2, 2, 4, 1, key=KEY)
    params, static = eqx.partition(model, eqx.is_inexact_array)
    data = batch()
    tx = jg.optim.adapted_levenberg_marquardt(lambda params, x: eqx.combine(params, static)(x))
    updates, _ = tx.update(params, tx.init(params), params, **data)
    assert jax.tree.structure(updates) == jax.tree.structure(params)


@one
def test_a_hopeless_step_leaves_parameters_finite(make):
    def exploding(params, x):
        return jnp.exp(jnp.exp(params * x))

    params = jnp.array([1.0])
    tx = make(exploding)
    state = tx.init(params)
    data = {"inputs": jnp.array([1.0, 1.1]), "targets": jnp.array([1e80, 1e9])}
    for _ in range(4):
        updates, state = tx.update(jax.grad(lambda p: exploding(p, 1.0)[0])(params) * 0, state, params, **data)
        params = optax.apply_updates(params, updates)
    if _info(state)._fields == jg.optim.StepInfo._fields:
        assert jnp.isfinite(params).all()
        assert jnp.isfinite(_info(state).new_cost)


# --- the direction and the Euler step --------------------------------------------------------------------------


@pytest.mark.slow
def test_composes_with_the_rest_of_optax():
    params, data = parameters(), batch()
    grads = gradient(params, **data)
    tx = optax.chain(
        optax.clip_by_global_norm(0.1), metric(damping=1e-3), optax.add_decayed_weights(1e-4), optax.scale(0.1)
    )
    updates, _ = tx.update(grads, tx.init(params), params, **data)
    assert optax.tree.norm(updates) > 0
    cost = jg.Problem(network, data["inputs"], jg.L2(data["targets"])).cost

    # optax passes on what the function names.
    def value_fn(params, inputs, targets):
        return jg.Problem(network, inputs, jg.L2(targets)).cost(params)

    # The line search expects a descent direction, so the sign comes first.
    tx = optax.chain(
        jg.optim.scale_by_adapted_metric(network, damping=1e-3, solver=QR()),
        optax.scale(-1.0),
        optax.scale_by_backtracking_linesearch(10),
    )
    updates, _ = tx.update(grads, tx.init(params), params, value=cost(params), grad=grads, value_fn=value_fn, **data)
    assert cost(optax.apply_updates(params, updates)) < cost(params)

    injected = optax.inject_hyperparams(jg.optim.adapted_gradient_descent, static_args="apply")
    tx = injected(learning_rate=0.25, apply=network, damping=1e-3, solver=QR())
    updates, state = tx.update(grads, tx.init(params), params, **data)
    state.hyperparams["learning_rate"] = jnp.array(0.5)
    twice, _ = tx.update(grads, state, params, **data)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(2 * a, b, rtol=1e-9, atol=1e-14), updates, twice)

    several = optax.MultiSteps(
        jg.optim.adapted_gradient_descent(network, learning_rate=0.5, damping=1e-3, solver=QR()), 2
    )
    state = several.init(params)
    # MultiSteps itself adds integers to floating-point numbers.
    with jax.numpy_dtype_promotion("standard"):
        first, state = several.update(grads, state, params, **data)
        second, state = several.update(grads, state, params, **data)
    assert optax.tree.norm(first) == 0
    assert optax.tree.norm(second) > 0

    safe = optax.apply_if_finite(jg.optim.scale_by_adapted_metric(network, damping=1e-3, solver=QR()), 3)
    updates, state = safe.update(grads, safe.init(params), params, **data)
    assert optax.tree.norm(updates) > 0


def test_a_model_without_its_functions_is_named_as_the_cause():
    model = eqx.nn.MLP(1, 1, 4, 1, activation=jnp.tanh, key=jax.random.key(0))
    tx = jg.optim.adapted_levenberg_marquardt(lambda model, x: model(x))
    arrays = eqx.filter(model, eqx.is_inexact_array)
    with pytest.raises(ValueError, match="could not be evaluated") as raised:
        tx.update(arrays, tx.init(arrays), arrays, inputs=jnp.ones((3, 1)), targets=jnp.ones((3, 1)))
    assert any("pass the model itself" in note for note in raised.value.__notes__)
