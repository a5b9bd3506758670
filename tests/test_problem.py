"""Problems: outputs, counts, and trainable leaves, for parameters in any kind of pytree."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgeo as jg
from cases.problems import KINDS, Layer, cases
from jaxgeo._checks import is_trainable_leaf


@pytest.mark.parametrize("name", KINDS)
def test_outputs_are_the_network_sample_by_sample(name):
    case = cases()[name]
    block = case.problem.blocks[0]
    one_by_one = np.stack([block.apply(case.params, sample) for sample in block.inputs])
    np.testing.assert_allclose(case.problem.outputs(case.params), one_by_one, atol=1e-15)
    cost = ((one_by_one - np.asarray(case.problem.loss.targets)) ** 2).sum() / 6
    np.testing.assert_allclose(case.problem.cost(case.params), cost, rtol=1e-14)
    assert (case.problem.num_samples, case.num_rows) == (3, 6)


def test_number_of_parameters_of_a_network():
    """(1.5): the sum over layers of M_l M_{l-1} + M_l."""
    widths = [5, 7, 7, 3]
    model = eqx.nn.MLP(5, 3, 7, 2, key=jax.random.key(0))
    problem, params = jg.supervised(model, jnp.ones((2, 5)), jnp.zeros((2, 3)))
    assert problem.num_params(params) == sum(m * n + n for m, n in zip(widths, widths[1:], strict=False))
    assert problem.num_rows(params) == 6


@pytest.mark.parametrize(("name", "count"), [("dict", 20), ("flax", 22), ("frozen", 12), ("other leaves", 20)])
def test_only_trainable_numbers_count(name, count):
    assert cases()[name].num_params == count


@pytest.mark.parametrize("name", ["dict", "frozen", "other leaves", pytest.param("two blocks", marks=pytest.mark.slow)])
def test_a_restricted_problem_is_of_the_trainable_part_alone(name):
    case = cases()[name]
    problem, trainable = case.problem.restrict(case.params)
    assert all(is_trainable_leaf(leaf) for leaf in jax.tree.leaves(trainable))
    assert problem.num_params(trainable) == case.num_params
    np.testing.assert_array_equal(problem.outputs(trainable), case.problem.outputs(case.params))
    np.testing.assert_allclose(problem.jacobian(trainable).as_matrix(), case.dense(), atol=1e-12)
    again, params = problem.extend(trainable)
    assert eqx.tree_equal(params, case.params)
    assert jax.tree.structure(again) == jax.tree.structure(case.problem)
    assert again.restrict(params)[0].num_params(trainable) == case.num_params


def test_partition_and_combine_are_inverse():
    case = cases()["other leaves"]
    trainable, frozen = case.problem.partition(case.params)
    assert sorted(key for key, leaf in trainable.items() if leaf is not None) == ["W", "b", "v"]
    assert eqx.tree_equal(eqx.combine(trainable, frozen), case.params)


def test_trainable_may_be_a_function_of_the_leaf():
    plain = cases()["dict"]
    block = plain.problem.blocks[0]
    problem = jg.Problem(block.apply, block.inputs, plain.problem.loss, trainable=lambda leaf: leaf.ndim == 1)
    assert problem.num_params(plain.params) == 4


def test_supervised_freezes_what_is_not_trainable():
    model = eqx.nn.MLP(2, 1, 3, 1, key=jax.random.key(0))
    spec = jax.tree.map(lambda _: False, model)
    spec = eqx.tree_at(lambda spec: spec.layers[-1].weight, spec, True)
    problem, params = jg.supervised(model, jnp.ones((2, 2)), jnp.zeros((2, 1)), trainable=spec)
    assert problem.num_params(params) == 3
    moved = jax.tree.map(lambda leaf: leaf + 1, params)
    full = eqx.combine(moved, model)
    np.testing.assert_array_equal(full.layers[0].weight, model.layers[0].weight)
    np.testing.assert_array_equal(full.layers[1].weight, model.layers[1].weight + 1)
    np.testing.assert_allclose(problem.outputs(moved)[0], full(jnp.ones(2)), atol=1e-15)


def test_supervised_casts_to_the_dtype_of_the_parameters():
    model = eqx.nn.Linear(2, 1, key=jax.random.key(0))
    for inputs in (np.ones((2, 2), np.float32), np.ones((2, 2), np.float64)):
        problem, params = jg.supervised(model, inputs, jnp.zeros((2, 1), jnp.float32))
        assert problem.outputs(params).dtype == problem.cost(params).dtype == jnp.float64
    small = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), model)
    problem, params = jg.supervised(small, np.ones((2, 2)), np.zeros((2, 1)))
    assert problem.outputs(params).dtype == problem.cost(params).dtype == jnp.float32


def test_integer_inputs_stay_integers():
    model = eqx.nn.Embedding(4, 2, key=jax.random.key(0))
    problem, params = jg.supervised(model, np.array([0, 3]), np.zeros((2, 2)))
    np.testing.assert_array_equal(problem.outputs(params), model.weight[jnp.array([0, 3])])


def test_numpy_parameters_are_parameters():
    plain = cases()["dict"]
    as_numpy = jax.tree.map(np.asarray, plain.params)
    assert plain.problem.num_params(as_numpy) == 20
    np.testing.assert_allclose(plain.problem.cost(as_numpy), plain.problem.cost(plain.params), rtol=1e-15)


def test_inputs_may_be_a_pytree():
    inputs = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([[3.0], [4.0]])}
    problem = jg.Problem(lambda w, x: w * x["a"] + x["b"], inputs, jg.L2(jnp.zeros(2)))
    np.testing.assert_array_equal(problem.outputs(jnp.array(10.0)), [[13.0], [24.0]])


def test_blocks_are_weighted_means():
    case = cases()["two blocks"]
    inner, boundary = case.problem.blocks
    values = [
        jnp.mean(jax.vmap(lambda x, block=block: jnp.sum(block.apply(case.params, x) ** 2))(block.inputs)) / 2
        for block in (inner, boundary)
    ]
    np.testing.assert_allclose(case.problem.cost(case.params), values[0] + 4 * values[1], rtol=1e-14)
    assert (case.problem.num_samples, case.num_rows) == (6, 6)


def test_vmap_over_parameters():
    case = cases()["dict"]
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), case.params)
    costs = jax.vmap(case.problem.cost)(batch)
    twice = case.problem.cost(jax.tree.map(lambda leaf: 2 * leaf, case.params))
    np.testing.assert_allclose(costs, [case.problem.cost(case.params), twice], rtol=1e-14)


def test_counting_compiles_nothing_and_outputs_are_traced_once():
    traces = []

    def apply(params, sample):
        traces.append(None)
        return Layer()(params, sample)

    case = cases()["dict"]
    problem = jg.Problem(apply, case.problem.blocks[0].inputs, case.problem.loss)
    problem.cost(case.params)
    count = len(traces)
    problem.cost(jax.tree.map(lambda leaf: leaf + 1, case.params))
    jg.Problem(apply, case.problem.blocks[0].inputs + 1, case.problem.loss).cost(case.params)
    assert len(traces) == count
