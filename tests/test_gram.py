"""The structured G against the dense D Dᵀ, and its plan."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
import pytest
from architectures import ARCHITECTURES
from compiled import gram_matrix, jacobian_matrix, matrices

import jaxgeo as jg
from jaxgeo.linalg.gram import layout
from jaxgeo.linalg.gram.gram import Gram

# One for each way in which a product is read that no other test goes; all that are made of them are slow.
FAST = {
    "tied_autoencoder",
    "embedding_classifier",
    "pde_by_nested_jvp",
    "leaves_used_in_odd_ways",
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in ARCHITECTURES]
)
def test_structured_equals_dense(name, key):
    problem, params = ARCHITECTURES[name](key)
    found = matrices(problem, params)
    found.check_product()
    dense, gram, diagonal = found[:3]
    expected = np.asarray(dense) @ np.asarray(dense).T
    scale = np.abs(expected).max()
    np.testing.assert_allclose(gram, expected, rtol=0, atol=1e-12 * scale)
    np.testing.assert_allclose(diagonal.reshape(-1), np.diag(expected), rtol=0, atol=1e-12 * scale)


def wide_problem(key, num_samples=61, dtype=jnp.float64):
    model = eqx.nn.MLP(4, 10, 16, 2, activation=jnp.tanh, key=key, dtype=dtype)
    return jg.supervised(model, jr.normal(key, (num_samples, 4), dtype), jnp.zeros((num_samples, 10), dtype))


@pytest.mark.parametrize("memory", [None, 610**2 * 8 + 250_000], ids=["held", "computed again"])
def test_blocks_of_samples(memory, key):
    problem, params = wide_problem(key)
    gram = Gram(problem.jacobian(params), memory=memory)
    plan = gram.plan()
    assert plan.stored == (memory is None)
    assert plan.bytes <= plan.budget
    dense = np.asarray(jacobian_matrix(problem, params))
    expected = dense @ dense.T
    np.testing.assert_allclose(gram_matrix(gram), expected, rtol=0, atol=1e-12 * expected.max())
    assert plan.block_samples[0] < 61


def test_many_blocks_of_a_residual_problem(key):
    problem, params = ARCHITECTURES["blocks_that_share_some_leaves"](key)
    jacobian = problem.jacobian(params)
    dense = np.asarray(jacobian_matrix(problem, params))
    gram = Gram(jacobian, memory=Gram(jacobian).plan().bytes - 1)
    assert not gram.plan().stored
    assert max(gram.plan().block_samples) == 1
    np.testing.assert_allclose(gram_matrix(gram), dense @ dense.T, rtol=0, atol=1e-12 * np.abs(dense @ dense.T).max())


def test_rows_made_for_each_block(key, monkeypatch):
    """Rows that would be large are not held; the boundary conditions use no Laplacian, so have fewer positions."""
    equation = jg.equations.poisson_2d((8, 8))
    params = equation.init(key)
    problem = equation.problem(equation.points(jr.key(1), (35**2, 200)))
    held = problem.gram(params).plan()
    monkeypatch.setattr(layout, "LEAST_LATE_BYTES", 0)
    found = matrices(problem, params)
    found.check_product()
    plan = problem.gram(params).plan()
    assert max(leaf.bytes for leaf in plan.leaves) < max(leaf.bytes for leaf in held.leaves)
    assert len(plan.block_samples) == 2
    assert plan.block_samples[0] < 35**2 / 3
    expected = np.asarray(found.jacobian @ found.jacobian.T)
    np.testing.assert_allclose(found.gram, expected, rtol=0, atol=1e-13 * expected.max())
    np.testing.assert_allclose(found.diagonal.reshape(-1), np.diag(expected), rtol=0, atol=1e-13 * expected.max())


def test_what_cannot_fit_is_refused(key):
    problem, params = wide_problem(key)
    gram = Gram(problem.jacobian(params), memory=10**6)
    with pytest.raises(MemoryError, match="610 rows in float64 needs 2.839 MiB.*`memory`"):
        gram.as_matrix()
    with pytest.raises(MemoryError, match="fewer samples"):
        gram.plan()


@pytest.mark.slow
def test_float64_products_of_float32_factors(key):
    problem, params = wide_problem(key, 40, jnp.float32)
    in_float64 = eqx.filter_jit(lambda gram: gram.as_matrix(jnp.dtype("float64")))
    matrix = np.asarray(in_float64(Gram(problem.jacobian(params))))
    assert matrix.dtype == np.float64
    values = np.linalg.eigvalsh(matrix)
    # A Gram matrix of float32 numbers, up to the round-off of float64: float32 products would give about −1e-6.
    assert values[0] > -1e-12 * values[-1]
    dense = np.asarray(jacobian_matrix(problem, params), np.float64)
    np.testing.assert_allclose(matrix, dense @ dense.T, rtol=0, atol=1e-5 * values[-1])


def test_a_lift_in_float32_is_not_rounded_before_it_is_multiplied(key):
    """In float64 products with Dᵀ come from the factors, and leave round-off; a VJP in float32 leaves cond(D)²·eps."""
    model = eqx.nn.MLP(8, 1, 128, 2, activation=jnp.tanh, key=key, dtype=jnp.float32)
    inputs = jr.normal(key, (100, 8), jnp.float32)
    problem, params = jg.supervised(model, inputs, jr.normal(jr.key(1), (100, 1), jnp.float32))
    plan = problem.gram(params).plan(jnp.dtype("float64"))
    assert plan.kept >= 3 * sum(leaf.bytes for leaf in plan.leaves)
    once = jg.linalg.GramCholesky(refinements=0)
    velocity = problem.loss.targets

    @eqx.filter_jit
    def residuals(problem, params):
        jacobian = problem.jacobian(params)
        found = once.factorise(jacobian)
        return found.lift(velocity)[1].residual, eqx.tree_at(
            lambda found: found.factors, found, None, is_leaf=lambda leaf: leaf is found.factors
        ).lift(velocity)[1].residual

    by_factors, by_vjp = residuals(problem, params)
    assert by_factors < 2e-6
    assert by_vjp > 20 * by_factors


def test_factors_are_not_multiplied_in_a_lower_precision(key):
    model = eqx.nn.MLP(8, 1, 128, 2, activation=jnp.tanh, key=key)
    problem, params = jg.supervised(model, jr.normal(key, (100, 8)), jnp.zeros((100, 1)))
    gram = problem.gram(params)
    assert gram.plan(jnp.dtype("float64")).kept > 0
    assert gram.plan(jnp.dtype("float32")).kept == 0


@pytest.mark.slow
def test_a_convolution_traced_at_a_precision_of_the_users(key):
    problem, params = ARCHITECTURES["convolution"](key)
    with jax.default_matmul_precision("highest"):
        ours = gram_matrix(problem.gram(params))
    np.testing.assert_allclose(ours, gram_matrix(problem.gram(params)), rtol=1e-12)


def test_plan_says_what_is_done(key):
    problem, params = ARCHITECTURES["convolution"](key)
    plan = problem.gram(params).plan()
    assert [leaf.route for leaf in plan.leaves] == ["materialised", "materialised", "factored"]
    assert plan.leaves[2].name == "layers[4].weight + layers[4].bias"
    problem, params = ARCHITECTURES["leaves_used_in_odd_ways"](key)
    routes = {leaf.name: (leaf.route, leaf.uses) for leaf in problem.gram(params).plan().leaves}
    assert routes["w"] == ("vjp", 0)
    assert routes["split[4:8, 0:4]"][1] == 1
    text = str(problem.gram(params).plan())
    assert "\nscale  " in text
    assert "MiB at the peak" in text


def test_no_array_as_large_as_the_jacobian(key):
    model = eqx.nn.MLP(8, 2, 64, 3, activation=jnp.tanh, key=key)
    problem, params = jg.supervised(model, jr.normal(key, (16, 8)), jnp.zeros((16, 2)))
    traced = jax.make_jaxpr(lambda params: problem.gram(params).as_matrix())(eqx.filter(params, eqx.is_array))
    num_entries = problem.num_params(params) * 32
    sizes = [int(np.prod(aval.shape)) for aval in all_avals(traced.jaxpr)]
    assert len(sizes) > 50
    assert max(sizes) < num_entries / 20


def all_avals(jaxpr):
    for eqn in jaxpr.eqns:
        yield from (var.aval for var in eqn.outvars)
        for value in eqn.params.values():
            if hasattr(value, "jaxpr"):
                yield from all_avals(value.jaxpr)
            elif hasattr(value, "eqns"):
                yield from all_avals(value)


def test_second_call_does_not_trace_again(key):
    traces = []

    def apply(params, x):
        traces.append(1)
        return jnp.tanh(params @ x)

    problem = jg.Problem(apply, jr.normal(key, (5, 3)), jg.L2(jnp.zeros((5, 2))))
    lift = eqx.filter_jit(lambda params, velocity: jg.lift(problem, params, velocity, damping=1e-3))
    params, velocity = jr.normal(key, (2, 3)), jnp.ones((5, 2))
    lift(params, velocity)
    count = len(traces)
    assert count > 0
    lift(params + 1, velocity)
    assert len(traces) == count


def test_gram_is_a_linear_operator(key):
    problem, params = ARCHITECTURES["mlp"](key)
    vector = jr.normal(key, (7, 3))

    @eqx.filter_jit
    def uses(params):
        gram = problem.gram(params)
        assert lx.is_positive_semidefinite(gram)
        assert lx.is_symmetric(gram.T)
        return gram.as_matrix(), gram.mv(vector), gram.trace(), lx.materialise(gram).mv(vector)

    matrix, product, trace, materialised = map(np.asarray, uses(params))
    np.testing.assert_allclose(product.reshape(-1), matrix @ np.ravel(vector), rtol=1e-11)
    np.testing.assert_allclose(trace, np.trace(matrix), rtol=1e-12)
    np.testing.assert_allclose(materialised, product, rtol=1e-11)


@pytest.mark.slow
def test_batch_coupled_network(key):
    def normalised(params, inputs):
        hidden = inputs @ params["w"]
        hidden = (hidden - hidden.mean(0, keepdims=True)) / jnp.sqrt(hidden.var(0, keepdims=True) + 1e-5)
        return jnp.tanh(hidden) @ params["v"]

    params = {"w": jr.normal(key, (3, 6)), "v": jr.normal(key, (6, 2))}
    inputs = jr.normal(key, (7, 3))
    problem = jg.Problem(normalised, inputs, jg.L2(jnp.zeros((7, 2))), per_sample=False)
    outputs = jax.jit(normalised)(params, inputs)
    np.testing.assert_allclose(problem.outputs(params), outputs, rtol=1e-12)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    dense = np.asarray(jax.jit(jax.jacrev(lambda flat: normalised(unravel(flat), inputs)))(flat)).reshape(14, -1)
    found = matrices(problem, params)
    found.check_product()
    np.testing.assert_allclose(found.jacobian, dense, atol=1e-12)
    np.testing.assert_allclose(found.gram, dense @ dense.T, atol=1e-11)
    velocity = -problem.loss.gradient(outputs)

    @eqx.filter_jit
    def moved(problem, params):
        return problem.jacobian(params).mv(jg.lift(problem, params, velocity))

    np.testing.assert_allclose(moved(problem, params), velocity, atol=1e-8)


def test_a_collective_over_the_batch_is_noticed(key):
    def apply(params, x):
        y = params @ x
        return y - jax.lax.pmean(y, "batch")

    problem = jg.Problem(apply, jr.normal(key, (5, 3)), jg.L2(jnp.zeros((5, 2))))
    with pytest.raises(ValueError, match="couples its samples.*per_sample=False"):
        problem.check(jnp.ones((2, 3)))
