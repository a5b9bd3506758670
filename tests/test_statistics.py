"""Batch normalisation: running statistics are not parameters, and training mode needs all samples at once."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree
from normalised import INPUTS, KINDS, LABELS, NUM_PARAMS, NUM_STATISTICS, RNG, TARGETS, Equinox, Nnx, X, Y, linen

import jaxgeo as jg

# Compiles faster than the default solver.
SOLVER = jg.linalg.QR()


def frozen_and_told():
    return pytest.warns(UserWarning, match=f"running statistics.*, {NUM_STATISTICS} numbers.*They are frozen")


def is_statistic(path):
    return any(word in jax.tree_util.keystr(path) for word in ("batch_stats", "mean", "var", "[1]"))


def divided(params):
    leaves = jax.tree_util.tree_leaves_with_path(params)
    leaves = [(path, leaf) for path, leaf in leaves if eqx.is_inexact_array(leaf)]
    return [leaf for path, leaf in leaves if is_statistic(path)], [
        leaf for path, leaf in leaves if not is_statistic(path)
    ]


def data(kind):
    return (INPUTS, TARGETS) if kind == "equinox" else (X, Y)


@pytest.mark.parametrize("kind", KINDS)
def test_running_statistics_are_no_parameters(kind):
    apply, params = KINDS[kind](train=False)
    inputs, targets = data(kind)
    problem = jg.Problem(apply, inputs, jg.L2(targets))
    assert problem.num_params(params) == NUM_PARAMS
    assert sum(leaf.size for leaf in divided(params)[0]) == NUM_STATISTICS
    with frozen_and_told():
        problem.check(params)
    velocity = jg.StandardFlow()(0.0, params, problem)
    assert [leaf.any() for leaf in divided(velocity)[0]] == [False, False]
    assert all(leaf.any() for leaf in divided(velocity)[1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_an_optimizer_leaves_running_statistics_as_they_are(kind):
    apply, params = KINDS[kind](train=False)
    inputs, targets = data(kind)
    tx = jg.optim.adapted_gradient_descent(apply, learning_rate=0.5, damping=1e-3, solver=SOLVER)
    with frozen_and_told():
        state = tx.init(params)
    updates, state = tx.update(params, state, params, inputs=inputs, targets=targets)
    before, moved = divided(params), divided(eqx.apply_updates(params, updates))
    jax.tree.map(np.testing.assert_array_equal, moved[0], before[0])
    assert all((one != other).any() for one, other in zip(moved[1], before[1], strict=True))
    assert state.info.accepted


@pytest.mark.parametrize("method", ["adapted-gradient-descent", pytest.param("rank-adaptive", marks=pytest.mark.slow)])
def test_fit_trains_parameters_only(method):
    apply, variables = linen(train=False)
    with frozen_and_told():
        found = jg.fit(variables, X, Y, apply=apply, method=method, tol=0.5)
    assert found.cost < 0.51 * found.initial_cost
    jax.tree.map(np.testing.assert_array_equal, found.model["batch_stats"], variables["batch_stats"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_what_the_user_says_is_trained_is_trained(kind, recwarn):
    apply, params = KINDS[kind](train=False)
    problem = jg.Problem(apply, X, jg.L2(Y), trainable=eqx.is_inexact_array)
    problem.check(params)
    assert problem.num_params(params) == NUM_PARAMS + NUM_STATISTICS
    tx = jg.optim.adapted_gradient_descent(
        apply, learning_rate=0.5, damping=1e-3, solver=SOLVER, trainable=eqx.is_inexact_array
    )
    updates, _ = tx.update(params, tx.init(params), params, inputs=X, targets=Y)
    assert all(leaf.any() for leaf in divided(updates)[0])
    assert not recwarn.list


def test_parameters_alone_are_trained_without_a_word(recwarn):
    apply, variables = linen(train=False)
    statistics = {"batch_stats": variables["batch_stats"]}
    problem = jg.Problem(lambda params, x: apply(params | statistics, x), X, jg.L2(Y))
    params = {"params": variables["params"]}
    problem.check(params)
    graph, weights, rest = nnx.split(Nnx(train=False), nnx.Param, ...)
    jg.Problem(lambda weights, x: nnx.merge(graph, weights, rest)(x), X, jg.L2(Y)).check(weights)
    # Under another name, or in a pytree of one's own, a mean is a parameter like any other.
    assert jg.Problem(lambda p, x: p["mean"] * x, X, jg.L2(X)).num_params({"mean": jnp.ones(3, jnp.float32)}) == 3
    assert not recwarn.list


@pytest.mark.slow
def test_leaves_that_are_masked_stay_beside_frozen_statistics():
    apply, variables = linen(train=False)
    mask = jax.tree_util.tree_map_with_path(lambda path, _: "Dense_0" not in jax.tree_util.keystr(path), variables)
    tx = optax.masked(jg.optim.adapted_gradient_descent(apply, learning_rate=0.5, damping=1e-3, solver=SOLVER), mask)
    with frozen_and_told():
        state = tx.init(variables)
    batch = {"inputs": X, "targets": Y, "full_params": variables}
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, variables), state, variables, **batch)
    assert not any(leaf.any() for leaf in jax.tree.leaves(updates["batch_stats"]))
    assert updates["params"]["Dense_1"]["kernel"].any()
    assert not updates["params"]["Dense_0"]["kernel"].any()


def closed(kind):
    """The network in training mode as a function of its parameters alone."""
    if kind == "by hand":
        return by_hand, jax.tree.map(lambda leaf: leaf.astype(jnp.float32), HAND)
    apply, params = KINDS[kind](train=True)
    if kind == "nnx":
        graph, weights, rest = nnx.split(Nnx(train=True), nnx.Param, ...)
        return lambda weights, x: nnx.merge(graph, weights, rest, copy=True)(x), weights
    statistics = {"batch_stats": params["batch_stats"]}
    return lambda weights, x: apply({"params": weights} | statistics, x), params["params"]


def by_hand(params, x):
    """Written for a batch, and given batches of one sample."""
    hidden = x[None] @ params["w"]
    hidden = (hidden - hidden.mean(0, keepdims=True)) / jnp.sqrt(hidden.var(0, keepdims=True) + 1e-5)
    return (jnp.tanh(hidden) @ params["v"])[0]


HAND = {"w": jnp.asarray(RNG.normal(size=(3, 4))), "v": jnp.asarray(RNG.normal(size=(4, 2)))}
SAME = (
    r"outputs are the same for every sample.*Batch normalisation in training mode.*`per_sample=False`.*use_running_av"
)


@pytest.mark.parametrize("kind", ["linen", pytest.param("nnx", marks=pytest.mark.slow), "by hand"])
def test_training_mode_sample_by_sample_is_refused_by_name(kind):
    apply, params = closed(kind)
    problem = jg.Problem(apply, X, jg.L2(Y))
    with pytest.raises(ValueError, match=SAME):
        problem.check(params)
    with pytest.raises(ValueError, match=SAME):
        jg.solve_flow(problem, jg.AdaptedFlow(), params, s1=1.0)
    with pytest.raises(ValueError, match=SAME):
        jg.fit(params, X, Y, apply=apply)
    tx = jg.optim.adapted_gradient_descent(jax.jit(apply), learning_rate=0.5)

    @jax.jit
    def step(params, inputs):
        return tx.update(params, tx.init(params), params, inputs=inputs, targets=Y)

    with pytest.raises(ValueError, match=SAME):
        step(params, X)


@pytest.mark.filterwarnings("ignore:the parameters hold running statistics")
def test_statistics_that_are_given_and_not_read_mean_training_mode():
    class Image(nn.Module):
        @nn.compact
        def __call__(self, x):
            hidden = nn.BatchNorm(use_running_average=False)(nn.Conv(2, (3, 3))(x))
            return hidden.mean((-3, -2))

    images = jnp.asarray(RNG.normal(size=(4, 5, 5, 1)), jnp.float32)
    variables = Image().init(jax.random.key(0), images)

    def apply(variables, x):
        return Image().apply(variables, x, mutable=["batch_stats"])[0]

    cost = jg.L2(jnp.ones((4, 2), jnp.float32))
    # The mean of a sample over its own pixels is not 0, so that outputs differ, and are wrong.
    with pytest.raises(ValueError, match=r"running statistics \(`batch_stats`.*does not read them.*`per_sample=False`"):
        jg.Problem(apply, images, cost).check(variables)
    jg.Problem(apply, images, cost, per_sample=False).check(variables)


def test_a_mean_over_the_batch_by_its_name_is_refused_in_optimizers_too():
    model, state = eqx.nn.make_with_state(Equinox)()
    params, static = eqx.partition(model, eqx.is_inexact_array)
    tx = jg.optim.adapted_gradient_descent(
        lambda params, x: eqx.combine(params, static)(x, state)[0], learning_rate=0.5
    )
    with pytest.raises(ValueError, match="couples its samples.*`per_sample=False`.*inference_mode"):
        tx.update(params, tx.init(params), params, inputs=INPUTS, targets=TARGETS)


def layer_norm(params, x):
    hidden = x @ params["w"]
    return (hidden - hidden.mean()) / jnp.sqrt(hidden.var() + 1e-5) @ params["v"]


# Outputs that are equal for all samples at these parameters, or for every one, without any normalisation.
SOUND = {
    "a last layer of zeros": (lambda p, x: jnp.tanh(x @ p["w"]) @ p["v"], HAND | {"v": jnp.zeros((4, 2))}),
    "dead units": (lambda p, x: jax.nn.relu(x @ p["w"] - 100) @ p["v"], HAND),
    "zeros everywhere": (lambda p, x: jnp.tanh(x @ p["w"]) @ p["v"], jax.tree.map(jnp.zeros_like, HAND)),
    "one number for all": (lambda p, x: p["v"][0], HAND),
    "a softmax over one entry": (lambda p, x: jax.nn.softmax(x[:1]) * p["v"][0], HAND),
    "layer normalisation": (layer_norm, HAND),
    "a path beside the normalisation": (lambda p, x: by_hand(p, x) + x[:2], HAND),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_network_is_let_through(name):
    apply, params = SOUND[name]
    jg.Problem(apply, INPUTS, jg.L2(TARGETS)).check(params)


def test_one_sample_alone_is_let_through():
    jg.Problem(by_hand, INPUTS[:1], jg.L2(TARGETS[:1])).check(HAND)


def at_once(params, inputs):
    hidden = inputs @ params["w"]
    hidden = (hidden - hidden.mean(0, keepdims=True)) / jnp.sqrt(hidden.var(0, keepdims=True) + 1e-5)
    return jnp.tanh(hidden) @ params["v"]


COSTS = {
    "cross-entropy": jg.SoftmaxCrossEntropy.from_labels(LABELS, smoothing=0.1),
    "Huber": jg.Huber(TARGETS, 0.5),
    "weights": jg.WeightedL2(TARGETS, jnp.linspace(0.5, 2.0, 12).reshape(6, 2)),
    "sample weights": jg.SampleWeighted(jg.L2(TARGETS), jnp.array([1.0, 2.0, 0.0, 1.0, 0.5, 1.0])),
    "labels": jg.SoftmaxCrossEntropy.from_labels(np.array([0, 1, -1, 0, 0, 1]), smoothing=0.1, ignore_label=-1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COSTS)
def test_samples_at_once_with_any_cost(name):
    cost = COSTS[name]
    problem = jg.Problem(at_once, INPUTS, cost, per_sample=False)
    flat, unravel = ravel_pytree(HAND)
    outputs = jax.jit(at_once)(HAND, INPUTS)
    dense = np.asarray(jax.jit(jax.jacfwd(lambda flat: at_once(unravel(flat), INPUTS).reshape(-1)))(flat))
    gradient = np.asarray(jax.jit(jax.grad(cost))(outputs)).reshape(-1)
    if name == "Huber":
        # A majorant of the second derivative, which vanishes beyond the threshold.
        deviation = np.abs(np.asarray(outputs - TARGETS)).reshape(-1)
        hessian = np.diag(np.minimum(1, 0.5 / deviation)) / 6
    else:
        hessian = np.asarray(jax.jit(jax.hessian(cost))(outputs)).reshape(12, 12)
    scale = float(cost.total_weight)
    # (LD)⁺(Lᵀ)⁺∇ₓC by the pseudo-inverse of DᵀLᵀLD.
    wanted = -np.linalg.pinv(scale * dense.T @ hessian @ dense, rcond=1e-10, hermitian=True) @ dense.T @ gradient
    found = jg.RankAdaptiveFlow(metric=jg.metrics.CostHessian())(0.0, HAND, problem)
    np.testing.assert_allclose(ravel_pytree(found)[0], wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["descent", "marquardt"])
def test_optimizers_take_samples_at_once(name):
    def cost(labels):
        return jg.SoftmaxCrossEntropy.from_labels(labels, num_classes=2, smoothing=0.1)

    def make(*args, **options):
        if name == "marquardt":
            return jg.optim.adapted_levenberg_marquardt(*args, **options)
        return jg.optim.adapted_gradient_descent(*args, learning_rate=0.5, damping=1e-3, solver=SOLVER, **options)

    tx = make(at_once, cost=cost, per_sample=False)
    state = tx.init(HAND)
    updates, state = tx.update(jax.tree.map(jnp.zeros_like, HAND), state, HAND, inputs=INPUTS, targets=LABELS)
    problem = jg.Problem(at_once, INPUTS, cost(LABELS), per_sample=False)
    expected, _ = make().update(jax.tree.map(jnp.zeros_like, HAND), make().init(HAND), HAND, problem=problem)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), updates, expected)
    assert state.info.accepted
    with pytest.raises(ValueError, match="same for every sample"):
        make(by_hand, cost=cost).update(HAND, state, HAND, inputs=INPUTS, targets=LABELS)


def test_supervised_and_fit_take_samples_at_once():
    model, state = eqx.nn.make_with_state(Equinox)()

    class Whole(eqx.Module):
        model: Equinox
        state: eqx.nn.State

        def __call__(self, inputs):
            return jax.vmap(self.model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(inputs, self.state)[0]

    whole = Whole(model, state)
    with frozen_and_told():
        problem, params = jg.supervised(whole, INPUTS, COSTS["cross-entropy"], per_sample=False)
    assert problem.num_params(params) == NUM_PARAMS
    np.testing.assert_allclose(problem.outputs(params), whole(INPUTS), rtol=1e-12)

    # Batches couple their own samples alone.
    options = {"method": optax.sgd(0.1), "tol": 0.0, "max_steps": 4, "batch_size": 3, "per_sample": False}
    found = jg.fit(HAND, INPUTS, TARGETS, apply=at_once, **options)
    params = HAND

    @jax.jit
    def update(params, order):
        x, y = INPUTS[order], TARGETS[order]
        grads = jax.grad(lambda params: jnp.sum((at_once(params, x) - y) ** 2) / 6)(params)
        return jax.tree.map(lambda leaf, grad: leaf - 0.1 * grad, params, grads)

    for step in range(4):
        params = update(params, np.random.default_rng([0, step // 2]).permutation(6).reshape(2, 3)[step % 2])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found.model, params)


def test_a_python_number_among_the_parameters_is_told():
    problem = jg.Problem(lambda p, x: p["a"] * x + p["b"], jnp.ones((2, 1)), jg.L2(jnp.ones((2, 1))))
    with pytest.warns(UserWarning, match=r"`b` of the parameters is a Python number, which is not trained"):
        problem.check({"a": jnp.ones(1), "b": 0.2})


def test_options_of_a_module_and_a_choice_are_no_python_numbers(recwarn):
    problem = jg.Problem(lambda p, x: p["net"](x), jnp.ones((2, 1)), jg.L2(jnp.ones((2, 1))))
    problem.check({"net": eqx.nn.Sequential([eqx.nn.Linear(1, 1, key=jax.random.key(0)), eqx.nn.Dropout(0.5, True)])})
    chosen = jg.Problem(
        lambda p, x: p["a"] * x + p["b"], jnp.ones((2, 1)), jg.L2(jnp.ones((2, 1))), trainable={"a": True, "b": False}
    )
    chosen.check({"a": jnp.ones(1), "b": 0.2})
    assert not recwarn.list
