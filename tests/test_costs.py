"""L2 and SumOfSquares: values, gradients and targets. The other costs have their own tests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgeo as jg

RNG = np.random.default_rng(0)
OUTPUTS = RNG.normal(size=(4, 3))
TARGETS = RNG.normal(size=(4, 3))


@pytest.mark.parametrize("cost", [jg.L2(jnp.asarray(TARGETS)), jg.SumOfSquares(4)], ids=["L2", "SumOfSquares"])
def test_value_and_gradient(cost):
    outputs = jnp.asarray(OUTPUTS)
    deviation = OUTPUTS - (TARGETS if isinstance(cost, jg.L2) else 0)
    np.testing.assert_allclose(cost(outputs), (deviation**2).sum() / 8, rtol=1e-14)
    np.testing.assert_allclose(cost.deviation(outputs), deviation, rtol=1e-15)
    np.testing.assert_allclose(cost.gradient(outputs), jax.grad(cost)(outputs), atol=1e-16)
    assert cost.num_samples == 4


def test_gradient_against_finite_differences():
    cost, step = jg.L2(jnp.asarray(TARGETS)), 1e-6
    direction = RNG.normal(size=OUTPUTS.shape)
    ahead, behind = (cost(jnp.asarray(OUTPUTS + sign * step * direction)) for sign in (1, -1))
    slope = np.sum(np.asarray(cost.gradient(jnp.asarray(OUTPUTS))) * direction)
    np.testing.assert_allclose((ahead - behind) / (2 * step), slope, rtol=1e-8)


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 2, 3)])
def test_targets_are_stored_as_rows(shape):
    targets = RNG.normal(size=shape)
    cost = jg.L2(jnp.asarray(targets))
    np.testing.assert_array_equal(cost.targets, targets.reshape(4, -1))
    np.testing.assert_array_equal(cost.arrange(jnp.asarray(targets.reshape(-1))), cost.targets)


def test_labels_choose_class_vectors():
    labels = np.array([2, 0, 2], np.uint8)
    vectors = RNG.normal(size=(3, 2))
    np.testing.assert_array_equal(jg.L2.from_labels(labels, vectors).targets, vectors[labels])
    np.testing.assert_array_equal(jg.L2.from_labels(labels).targets, np.eye(3)[labels])
    np.testing.assert_array_equal(jg.L2.from_labels(labels, num_classes=5).targets, np.eye(5)[labels])


def test_labels_may_be_traced_with_a_number_of_classes():
    labels = jnp.array([1, 0])
    traced = jax.jit(lambda labels: jg.L2.from_labels(labels, num_classes=2).targets)(labels)
    np.testing.assert_array_equal(traced, np.eye(2)[[1, 0]])
    with pytest.raises(ValueError, match="num_classes"):
        jax.jit(lambda labels: jg.L2.from_labels(labels).targets)(labels)


def test_dtype_follows_the_outputs():
    cost, outputs = jg.L2(jnp.asarray(TARGETS)), jnp.asarray(OUTPUTS, jnp.float32)
    for value in (cost(outputs), cost.gradient(outputs), cost.deviation(outputs)):
        assert value.dtype == jnp.float32


def test_residuals_of_any_number_become_rows():
    assert jg.SumOfSquares(2).arrange(jnp.ones(5)).shape == (5, 1)
