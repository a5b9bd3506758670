"""D: three ways to compute it agree, and its transpose is the transpose."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxgeo as jg
from cases.problems import CASES, cases, random_like

FAST = ("mlp under", "two blocks", "frozen")


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in CASES])
def case(request):
    return cases()[request.param]


def test_dense_forms_and_products_agree(case):
    @eqx.filter_jit
    def ways(params):
        jacobian = case.problem.jacobian(params)
        dense = [
            jacobian.as_matrix(mode=mode, chunk_size=size)
            for mode in ("auto", "forward", "reverse")
            for size in (None, 2)
        ]
        columns = jax.vmap(lambda column: jacobian.mv(jacobian.unravel(column)).reshape(-1))(jnp.eye(case.num_params))
        return [*dense, columns.T]

    expected = case.dense()
    scale = np.abs(expected).max()
    for matrix in ways(case.params):
        np.testing.assert_allclose(matrix, expected, rtol=0, atol=1e-12 * scale)


def test_transpose_is_the_adjoint(case):
    jacobian = case.problem.jacobian(case.params)
    right, left = random_like(jacobian.trainable, 1), random_like(jacobian.outputs, 2)
    forward, backward = eqx.filter_jit(lambda jacobian: (jacobian.mv(right), jacobian.T.mv(left)))(jacobian)
    there = np.vdot(left, forward)
    back = np.vdot(ravel_pytree(backward)[0], ravel_pytree(right)[0])
    size = np.linalg.norm(left) * np.linalg.norm(forward)
    assert abs(there - back) <= 1e-12 * size


def test_gradient_of_the_cost_is_the_transposed_output_gradient(case):
    """(1.18), against `jax.grad` of the cost."""

    @eqx.filter_jit
    def both(params):
        jacobian = case.problem.jacobian(params)
        flat, unravel = ravel_pytree(jacobian.trainable)

        def cost(theta):
            return case.problem.cost(eqx.combine(unravel(theta), jacobian.frozen))

        return ravel_pytree(jacobian.T.mv(case.problem.loss.gradient(jacobian.outputs)))[0], jax.grad(cost)(flat)

    found, expected = map(np.asarray, both(case.params))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_outputs_are_those_of_the_problem(case):
    jacobian = case.problem.jacobian(case.params)
    np.testing.assert_array_equal(jacobian.outputs, case.problem.outputs(case.params))
    assert (jacobian.out_size(), jacobian.in_size()) == (case.num_rows, case.num_params)
    assert jacobian.out_structure().shape == jacobian.outputs.shape


def test_kronecker_structure_of_a_linear_network():
    """x_j = W a_j has D = A ⊗ 1, up to the order of the columns."""
    case = cases()["linear over"]
    inputs = np.asarray(case.problem.blocks[0].inputs)
    matrix = case.problem.jacobian(case.params).as_matrix().reshape(3, 2, 2, 5)
    expected = np.einsum("ni,qp->nqpi", inputs, np.eye(2))
    np.testing.assert_allclose(matrix, expected, atol=1e-15)


def test_embed_leaves_frozen_leaves_still():
    case = cases()["other leaves"]
    velocity = jg.lift(case.problem, case.params, jnp.ones((3, 2)), jg.linalg.SVD())
    assert set(velocity) == set(case.params)
    assert velocity["name"] is None
    assert velocity["steps"].tolist() == [0, 0, 0]
    assert float(jnp.abs(velocity["W"]).max()) > 0


@pytest.mark.parametrize("name", [pytest.param("mlp over", marks=pytest.mark.slow), "dict"])
def test_lineax_takes_it_as_an_operator(name):
    """The least-squares solvers of lineax on the operator give the pseudo-inverse of the dense D."""
    case = cases()[name]
    jacobian = case.problem.jacobian(case.params)
    velocity = random_like(jacobian.outputs)
    expected = np.linalg.pinv(case.dense()) @ np.ravel(velocity)
    solution = lx.linear_solve(jacobian, velocity, lx.LSMR(rtol=1e-12, atol=1e-12)).value
    np.testing.assert_allclose(ravel_pytree(solution)[0], expected, atol=1e-8 * np.abs(expected).max())
    materialised = lx.materialise(jacobian)
    np.testing.assert_allclose(materialised.mv(solution), jacobian.mv(solution), atol=1e-13)
    np.testing.assert_allclose(materialised.as_matrix(), case.dense(), atol=1e-13)
    assert lx.linearise(jacobian) is jacobian
    assert not lx.is_symmetric(jacobian)


def test_works_under_jit_and_vmap():
    case = cases()["dict"]

    def product(params):
        jacobian = case.problem.jacobian(params)
        return jacobian.T.mv(jacobian.mv(jacobian.trainable))

    batch = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), case.params)
    together = jax.jit(jax.vmap(product))(batch)
    second = product(jax.tree.map(lambda leaf: 2 * leaf, case.params))
    np.testing.assert_allclose(together["W"][1], second["W"], atol=1e-13)


def test_float32_stays_float32():
    case = cases()["dict"]
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), case.params)
    problem = jg.Problem(
        case.problem.blocks[0].apply, case.problem.blocks[0].inputs.astype(jnp.float32), case.problem.loss
    )

    @jax.eval_shape
    def products():
        jacobian = problem.jacobian(params)
        return jacobian.as_matrix(), jacobian.outputs, jacobian.T.mv(jacobian.outputs)

    assert {leaf.dtype for leaf in jax.tree.leaves(products)} == {jnp.dtype(jnp.float32)}
