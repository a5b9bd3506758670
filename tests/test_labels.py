"""Samples without a label, and labels outside the classes, compared with the same call without these rows."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxgeo as jg

RNG = np.random.default_rng(3)
LABELS = np.array([2, -1, 0, 1, -1])
KEPT = np.array([0, 2, 3])
# What lies in the padding counts for nothing, however large it is, and a repeated sample takes no rank.
INPUTS = RNG.normal(size=(5, 2))
INPUTS[1], INPUTS[4] = 40.0, INPUTS[0]
OUTPUTS, STEP = RNG.normal(size=(5, 3)), RNG.normal(size=(5, 3)) / 10
PARAMS = {name: jnp.asarray(RNG.normal(size=shape)) / 2 for name, shape in (("w", (6, 2)), ("v", (3, 6)))}

COSTS = {
    "L2": lambda labels, **options: jg.L2.from_labels(labels, num_classes=3, **options),
    "vectors": lambda labels, **options: jg.L2.from_labels(labels, OUTPUTS[:3] ** 2, **options),
    "softmax": lambda labels, **options: jg.SoftmaxCrossEntropy.from_labels(labels, num_classes=3, **options),
    "smoothed": lambda labels, **options: jg.SoftmaxCrossEntropy.from_labels(
        labels, num_classes=3, smoothing=0.1, **options
    ),
}


def network(params, x):
    return params["v"] @ jnp.tanh(params["w"] @ x)


def ignoring(name):
    return lambda labels: COSTS[name](labels, ignore_label=-1)


def close(one, other, rtol=1e-12):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-13), one, other)


def parts(labels, outputs, step, make):
    """What a cost says of all samples, and what of each."""
    cost = make(labels)
    factor = cost.curvature(outputs)
    rows = step if factor is None else jax.vmap(lambda factor, row: factor(row))(factor, step)
    # The curvature of the mean, whatever root of it the factor is.
    lengths = jnp.sum(rows**2, axis=1) / cost.total_weight
    moved = outputs + step
    return (
        (cost(outputs), cost.decrease(outputs, moved)),
        (cost.gradient(outputs), cost.values(outputs), cost.decreases(outputs, moved), lengths),
    )


traced_parts = jax.jit(parts, static_argnums=3)


@eqx.filter_jit
def value_and_gradient(cost, outputs):
    return cost(outputs), cost.gradient(outputs)


@pytest.mark.parametrize(
    ("name", "traced"),
    [
        *((name, True) for name in COSTS),
        *(pytest.param(name, False, marks=[pytest.mark.slow] * (name != "softmax")) for name in COSTS),
    ],
)
def test_a_cost_without_some_labels_is_that_without_their_rows(name, traced):
    padded, alone = ignoring(name), COSTS[name]
    outputs = OUTPUTS.copy()
    outputs[1] = np.inf
    call = traced_parts if traced else parts
    totals, each = call(jnp.asarray(LABELS), jnp.asarray(OUTPUTS), jnp.asarray(STEP), padded)
    expected, rows = traced_parts(LABELS[KEPT], OUTPUTS[KEPT], STEP[KEPT], alone)
    close(totals, expected)
    for found, wanted in zip(each, rows, strict=True):
        close(np.asarray(found)[KEPT], wanted)
        assert not np.asarray(found)[[1, 4]].any()
    # An output that overflows at a sample without a label is no part of it.
    cost = padded(LABELS)
    value, gradient = value_and_gradient(cost, jnp.asarray(outputs))
    assert np.isfinite(value)
    close(gradient, value_and_gradient(cost, jnp.asarray(OUTPUTS))[1])


@pytest.mark.parametrize("name", COSTS)
def test_labels_outside_the_classes_make_a_traced_cost_nan(name):
    call = jax.jit(lambda labels: COSTS[name](labels).targets)
    targets = np.asarray(call(jnp.array([-1, 7, 2])))
    assert np.isnan(targets).all(axis=1).tolist() == [True, True, False]
    np.testing.assert_array_equal(targets[2], COSTS[name](np.array([2])).targets[0])
    outputs = jnp.asarray(OUTPUTS[:3])
    assert np.isnan(jax.jit(lambda labels: COSTS[name](labels)(outputs))(jnp.array([0, 3, 2])))
    # With `ignore_label` every other label outside the classes still does.
    cost = jax.jit(lambda labels: ignoring(name)(labels)(outputs))
    assert np.isnan(cost(jnp.array([0, 3, -1])))
    assert np.isfinite(cost(jnp.array([0, 2, -1])))
    # No sample at all has a label: there is no mean.
    assert np.isnan(cost(jnp.array([-1, -1, -1])))


def test_one_hot_rows_of_no_class_make_a_traced_cross_entropy_nan():
    def cost(labels):
        return jg.SoftmaxCrossEntropy(jax.nn.one_hot(labels, 3))(jnp.asarray(OUTPUTS[:2]))

    assert np.isnan(jax.jit(cost)(jnp.array([0, -1])))
    assert np.isfinite(jax.jit(cost)(jnp.array([0, 1])))


@pytest.mark.parametrize("make", [jg.L2.from_labels, jg.SoftmaxCrossEntropy.from_labels])
@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (np.array([0, -1]), {}, r"`labels\[1\]` is -1, outside the 3 classes.*\[0, 3\).*Pass `ignore_label=-1`"),
        (np.array([0, 5, -1]), {"ignore_label": -1}, r"`labels\[1\]` is 5, outside the 3 classes; .*\[0, 3\)\.$"),
        (np.array([-1, -1]), {"ignore_label": -1}, "all `ignore_label`=-1"),
        (np.array([0, 255], np.uint8), {"ignore_label": -1}, "uint8 cannot hold `ignore_label`=-1"),
        (np.array([0, 1]), {"ignore_label": True}, "`ignore_label` must be an integer"),
    ],
)
def test_labels_that_are_known_are_refused_by_name(make, labels, options, message):
    with pytest.raises(ValueError, match=message):
        make(labels, num_classes=3, **options)


def test_the_number_of_classes_is_that_of_the_labels_that_count():
    assert jg.L2.from_labels(np.array([0, 99, 1]), ignore_label=99).cost.targets.shape == (3, 2)
    # A narrow dtype holds neither the number of classes nor, where it is traced, more than its own labels.
    narrow = jax.jit(lambda labels: jg.L2.from_labels(labels, num_classes=300).targets)(jnp.array([1, -1], jnp.int8))
    assert np.isnan(narrow).any(axis=1).tolist() == [False, True]


def test_weights_of_samples_and_of_labels_are_multiplied():
    weights = np.array([1.0, 5.0, 2.0, 0.0, 1.0])
    cost = jg.SampleWeighted(ignoring("softmax")(LABELS), weights)
    alone = jg.SampleWeighted(COSTS["softmax"](LABELS[[0, 2]]), np.array([1.0, 2.0]))
    assert isinstance(cost.cost, jg.SoftmaxCrossEntropy)
    close(cost(jnp.asarray(OUTPUTS)), alone(jnp.asarray(OUTPUTS[[0, 2]])))
    with pytest.raises(ValueError, match="`weights` must be ≥ 0 and not all 0"):
        jg.SampleWeighted(ignoring("softmax")(LABELS), np.array([0.0, 1.0, 0.0, 0.0, 1.0]))


OPTIMIZERS = {
    "metric": lambda **options: optax.chain(jg.optim.scale_by_adapted_metric(**options), optax.scale(-0.5)),
    "descent": lambda **options: jg.optim.adapted_gradient_descent(learning_rate=0.5, **options),
    "marquardt": jg.optim.adapted_levenberg_marquardt,
    "momentum": lambda **options: jg.optim.adapted_momentum(learning_rate=0.5, **options),
    "interpolation": lambda **options: jg.optim.linear_interpolation(num_steps=3, **options),
}


def trained(tx, make, inputs, labels, weights=None):
    """Parameters after three updates in a scan, and the state."""

    def step(carry, _):
        params, state = carry
        cost = jg.Problem(network, inputs, make(labels)).cost
        if weights is not None:
            cost = jg.Problem(network, inputs, jg.SampleWeighted(make(labels), weights)).cost
        updates, state = tx.update(
            jax.grad(cost)(params), state, params, inputs=inputs, targets=labels, weights=weights
        )
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (PARAMS, tx.init(PARAMS)), None, length=3)[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["L2", "softmax"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_optimizer_steps_as_without_the_rows(optimizer, name):
    tx = OPTIMIZERS[optimizer](apply=network, cost=ignoring(name))
    # Two batches of one shape, whose labels are missing elsewhere.
    inputs = jnp.stack([jnp.asarray(INPUTS), jnp.asarray(INPUTS)])
    labels = jnp.stack([jnp.asarray(LABELS), jnp.array([-1, 1, 0, -1, 2])])
    found, _ = jax.jit(jax.vmap(lambda inputs, labels: trained(tx, ignoring(name), inputs, labels)))(inputs, labels)
    alone = OPTIMIZERS[optimizer](apply=network, cost=COSTS[name])
    together = jax.jit(jax.vmap(lambda inputs, labels: trained(alone, COSTS[name], inputs, labels)))
    kept = np.stack([KEPT, [1, 2, 4]])
    rows = np.arange(2)[:, None]
    expected, _ = together(inputs[rows, kept], labels[rows, kept])
    close(found, expected, rtol=1e-7)


@pytest.mark.parametrize(
    "optimizer", [pytest.param(name, marks=[pytest.mark.slow] * (name != "marquardt")) for name in OPTIMIZERS]
)
def test_no_step_is_made_on_a_label_outside_the_classes(optimizer):
    tx = OPTIMIZERS[optimizer](apply=network, cost=COSTS["L2"])

    @jax.jit
    def step(labels):
        grads = jax.grad(jg.Problem(network, INPUTS, COSTS["L2"](labels)).cost)(PARAMS)
        return tx.update(grads, tx.init(PARAMS), PARAMS, inputs=INPUTS, targets=labels)[0]

    for labels, moves in (([2, 1, 0, 1, 0], True), ([2, 1, 0, 1, -1], False), ([2, 1, 3, 1, 0], False)):
        updates = step(jnp.array(labels))
        assert all(bool(jnp.any(leaf != 0)) == moves for leaf in jax.tree.leaves(updates))
        assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(updates))


def padded(name):
    return jg.Problem(network, INPUTS, ignoring(name)(LABELS)), jg.Problem(
        network, INPUTS[KEPT], COSTS[name](LABELS[KEPT])
    )


FLOWS = {
    "adapted": jg.AdaptedFlow(),
    "natural": jg.AdaptedFlow(metric=jg.metrics.CostHessian()),
    "weighted": jg.AdaptedFlow(metric=jg.metrics.Weighted(jnp.array([1.0, 2.0, 0.5]))),
    "interpolation": jg.InterpolationFlow(),
    "homotopy": jg.HomotopyFlow(0.5),
    "standard": jg.StandardFlow(),
}


SLOW_FLOWS = ("natural", "weighted", "interpolation", "homotopy", "standard")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW_FLOWS)) for name in FLOWS]
)
def test_a_flow_has_the_velocity_without_the_rows(name):
    problem, alone = padded("softmax" if name == "natural" else "L2")
    close(FLOWS[name](0.3, PARAMS, problem), FLOWS[name](0.3, PARAMS, alone), rtol=1e-9)


@pytest.mark.slow
def test_the_law_counts_the_samples_that_have_a_label():
    problem, alone = padded("L2")
    cost = float(problem.cost(PARAMS))
    assert cost == pytest.approx(float(alone.cost(PARAMS)), rel=1e-14)
    sol = jg.solve_flow(problem, jg.AdaptedFlow(), PARAMS, cost_tol=cost / 100)
    assert sol.num_samples == 3
    assert float(sol.s[-1]) == pytest.approx(3 * np.log(100) / 2, rel=1e-4)
    assert abs(sol.defect).max() < 1e-4


@pytest.mark.slow
def test_the_law_holds_where_the_labels_are_traced():
    problem, _ = padded("L2")
    cost = float(problem.cost(PARAMS))
    assert jg.solve_interpolation(problem, PARAMS).final_cost < 1e-20
    after = jax.jit(
        lambda labels: (
            jg.solve_flow(
                jg.Problem(network, INPUTS, ignoring("L2")(labels)), jg.AdaptedFlow(), PARAMS, s1=3.0
            ).final_cost
        )
    )(jnp.asarray(LABELS))
    assert float(after) == pytest.approx(cost * np.exp(-2), rel=1e-4)


@pytest.mark.slow
def test_fit_trains_as_without_the_rows():
    options = {"apply": network, "max_steps": 5, "tol": 1e-3}
    found = jg.fit(PARAMS, INPUTS, LABELS, cost=ignoring("L2"), **options)
    assert found.stopping_time == pytest.approx(3 * np.log(1000) / 2, rel=1e-12)
    options |= {"method": optax.sgd(0.1), "batch_size": 2, "tol": 0.0}
    found = jg.fit(PARAMS, INPUTS, LABELS, cost=ignoring("softmax"), **options)
    alone = jg.fit(PARAMS, INPUTS[KEPT], LABELS[KEPT], cost=COSTS["softmax"], **options)
    close(found.model, alone.model)
    assert found.cost == pytest.approx(alone.cost, rel=1e-12)
