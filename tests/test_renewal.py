"""`jaxgeo.fit` carries running statistics from update to update."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from normalised import INPUTS, TARGETS, Equinox, Linen, X, Y, linen

import jaxgeo as jg


def together(pair, inputs):
    """Outputs and the new state of an Equinox model in training mode, for all samples."""
    with jax.numpy_dtype_promotion("standard"):
        return jax.vmap(pair[0], axis_name="batch", in_axes=(0, None), out_axes=(0, None))(inputs, pair[1])


def outputs_of(pair, inputs):
    return together(pair, inputs)[0]


def renewed(pair, inputs):
    return pair[0], together(pair, inputs)[1]


def test_fit_carries_the_state_of_equinox_as_a_loop_with_optax_does():
    start, tx = eqx.nn.make_with_state(Equinox)(), optax.sgd(0.1)
    found = jg.fit(
        start, INPUTS, TARGETS,
        apply=outputs_of, per_sample=False, statistics=renewed, method=tx, max_steps=3, record_every=2, tol=0.0,
    )  # fmt: skip
    params, static = eqx.partition(start[0], eqx.is_inexact_array)

    @eqx.filter_jit
    def step(params, state):
        def loss(params):
            outputs, new = together((eqx.combine(params, static), state), INPUTS)
            return 0.5 * jnp.mean(jnp.sum((outputs - TARGETS) ** 2, axis=1)), new

        gradient, new = jax.grad(loss, has_aux=True)(params)
        updates, _ = tx.update(gradient, tx.init(params), params)
        return eqx.apply_updates(params, updates), new

    state = start[1]
    for _ in range(3):
        params, state = step(params, state)
    expected = eqx.filter((eqx.combine(params, static), state), eqx.is_array)
    for ours, theirs in zip(*map(jax.tree.leaves, (eqx.filter(found.model, eqx.is_array), expected)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)
    moved = zip(*map(jax.tree.leaves, (found.model[1], start[1])), strict=True)
    assert all(float(abs(jnp.asarray(new, float) - jnp.asarray(old, float)).max()) > 0 for new, old in moved)


@pytest.mark.slow
def test_fit_carries_the_mutable_collection_of_flax():
    """On minibatches: each update moves the running mean by a hundredth of the way to that of its batch."""
    apply, variables = linen(train=True)

    def statistics(variables, inputs):
        return {**variables, **Linen().apply(variables, inputs, True, mutable=["batch_stats"])[1]}

    found = jg.fit(
        variables, X, Y,
        apply=apply, per_sample=False, statistics=statistics, method="adapted-momentum", batch_size=3, max_steps=1,
        record_every=1, tol=0.0,
    )  # fmt: skip
    batch = X[np.random.default_rng([0, 0]).permutation(6)[:3]]
    mean = jnp.mean(batch @ variables["params"]["Dense_0"]["kernel"], axis=0)
    ours = found.model["batch_stats"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(ours, 0.01 * mean, rtol=1e-4, atol=1e-7)
    assert found.cost < found.initial_cost


def test_statistics_that_cannot_be_are_refused():
    start = eqx.nn.make_with_state(Equinox)()
    for options, message in (
        ({"method": "adapted", "statistics": renewed}, "need an optimizer"),
        ({"method": optax.sgd(0.1), "statistics": lambda pair, _: pair[0]}, "must return a model like the one"),
    ):
        with pytest.raises(ValueError, match=message):
            jg.fit(start, INPUTS, TARGETS, apply=outputs_of, per_sample=False, **options)
    with pytest.raises(ValueError, match="`statistics` only applies to samples"):
        jg.fit(jnp.ones(()), jg.Problem(lambda a, x: a * x, X[:, 0], jg.L2(Y[:, 0])), statistics=renewed)


@pytest.mark.parametrize(
    ("method", "batch_size"),
    [
        (optax.sgd(0.1, momentum=0.9), 3),
        pytest.param("adapted-momentum", 3, marks=pytest.mark.slow),
        pytest.param("levenberg-marquardt", None, marks=pytest.mark.slow),
    ],
)
def test_statistics_resume_bit_for_bit(tmp_path, method, batch_size):
    options = {
        "apply": outputs_of, "per_sample": False, "statistics": renewed, "method": method, "batch_size": batch_size,
        "record_every": 2, "tol": 0.0,
    }  # fmt: skip

    def fit(folder, **more):
        start = eqx.nn.make_with_state(Equinox)()
        return jg.fit(start, INPUTS, TARGETS, folder=tmp_path / folder, **options, **more)

    whole = fit("whole", max_steps=7)
    # The first end is within a part, and with minibatches within an epoch.
    fit("resumed", max_steps=3)
    found = fit("resumed", max_steps=7, resume=True)
    for ours, theirs in zip(
        *(jax.tree.leaves(eqx.filter(each.model, eqx.is_array)) for each in (found, whole)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert found.rows[-1] == whole.rows[-1]
