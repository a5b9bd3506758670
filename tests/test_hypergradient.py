"""Derivatives of the result of training with respect to everything that enters it."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgeo as jg

INPUTS = jnp.array([[1.0, 0.5], [0.2, -1.0], [-0.7, 0.3]])
TEST_INPUT = jnp.array([0.3, -0.2])


def network(params, x):
    return params["v"] @ jnp.tanh(params["W"] @ x)


def start():
    rng = np.random.default_rng(0)
    return {"W": jnp.asarray(rng.normal(size=(4, 2))), "v": jnp.asarray(rng.normal(size=(1, 4)))}


def trained(knobs, num_steps=8):
    """The output on another sample after training, as a function of everything."""
    cost = jg.SampleWeighted(jg.L2(knobs["targets"]), knobs["weights"])
    problem = jg.Problem(network, INPUTS, cost)
    flow = jg.AdaptedFlow(jg.linalg.QR(), damping=knobs["damping"])
    sol = jg.solve_flow(
        problem,
        flow,
        knobs["params"],
        s1=2.0,
        stepsize_controller=dfx.ConstantStepSize(),
        dt0=2.0 / num_steps,
        max_steps=num_steps,
        rank_check=False,
    )
    return jnp.sum(network(sol.params, TEST_INPUT) ** 2)


@pytest.mark.slow
def test_against_finite_differences():
    knobs = {
        "params": start(),
        "targets": jnp.array([1.0, -0.5, 0.25]),
        "weights": jnp.array([1.0, 2.0, 0.5]),
        "damping": jnp.array(0.1),
    }
    slopes = jax.jit(jax.grad(trained))(knobs)
    value = jax.jit(trained)
    rng = np.random.default_rng(1)
    for name, slope in slopes.items():
        direction = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), knobs[name])

        def moved(step, name=name, direction=direction):
            return knobs | {name: jax.tree.map(lambda leaf, way: leaf + step * way, knobs[name], direction)}

        expected = (value(moved(1e-5)) - value(moved(-1e-5))) / 2e-5
        found = sum(jnp.sum(one * two) for one, two in zip(*map(jax.tree.leaves, (slope, direction)), strict=True))
        assert abs(expected) > 1e-3
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def auc(scores, positive):
    """The probability that a positive one has the higher score."""
    return np.mean(scores[positive][:, None] > scores[~positive][None, :])


@pytest.mark.slow
def test_planted_wrong_labels_have_the_highest_hypergradients():
    """Data cleaning: the slope of the validation cost in each sample's weight tells which labels are wrong."""
    rng = np.random.default_rng(0)
    labels = np.where(rng.random(120) < 0.5, -1.0, 1.0)
    features = rng.normal(size=(120, 4)) + labels[:, None] * np.array([3.0, -2.0, 1.0, 0.0])
    train, valid = slice(0, 60), slice(60, 120)
    wrong = np.zeros(60, bool)
    wrong[rng.choice(60, 9, replace=False)] = True
    targets = np.where(wrong, -labels[train], labels[train])

    def linear(params, x):
        return params["slope"] @ x + params["offset"]

    params = {"slope": jnp.zeros(4), "offset": jnp.array(0.0)}

    def validation_cost(weights):
        cost = jg.SampleWeighted(jg.L2(jnp.asarray(targets)), weights)
        problem = jg.Problem(linear, jnp.asarray(features[train]), cost)
        sol = jg.solve_flow(problem, jg.AdaptedFlow(jg.linalg.QR()), params, s1=60.0, max_steps=64, rank_check=False)
        outputs = jax.vmap(linear, in_axes=(None, 0))(sol.params, jnp.asarray(features[valid]))
        return jnp.mean((outputs - labels[valid]) ** 2)

    slopes = np.asarray(jax.grad(validation_cost)(jnp.ones(60)))
    assert auc(slopes, wrong) >= 0.95
    cleaned = jnp.asarray(np.where(slopes > np.quantile(slopes, 0.85), 0.0, 1.0))
    assert validation_cost(cleaned) < validation_cost(jnp.ones(60))


@pytest.mark.slow
def test_memory_of_the_adjoint_is_bounded():
    """16 times as many steps take less than 8 times the temporary memory of the compiled gradient."""
    knobs = {
        "params": start(),
        "targets": jnp.array([1.0, -0.5, 0.25]),
        "weights": jnp.ones(3),
        "damping": jnp.array(0.1),
    }

    def memory(num_steps):
        gradient = jax.grad(lambda knobs: trained(knobs, num_steps))
        return jax.jit(gradient).lower(knobs).compile().memory_analysis().temp_size_in_bytes

    assert memory(256) < 8 * memory(16)
