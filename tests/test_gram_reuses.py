"""The structured G of networks that use products, leaves and biases in several ways."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from compiled import matrices
from reuses import FORMS, OTHERS

import jaxgeo as jg

SLOW = ("residual", "concatenated", *OTHERS)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in (*FORMS, *OTHERS)]
)
def test_structured_equals_dense(name, key):
    problem, params = (FORMS | OTHERS)[name].problem(key)
    found = matrices(problem, params)
    found.check_product()
    dense, gram, diagonal = found[:3]
    expected = np.asarray(dense) @ np.asarray(dense).T
    np.testing.assert_allclose(gram, expected, rtol=0, atol=1e-13 * np.abs(expected).max())
    np.testing.assert_allclose(diagonal.reshape(-1), np.diag(expected), rtol=0, atol=1e-13 * expected.max())


def routes(name, key):
    problem, params = (FORMS | OTHERS)[name].problem(key)
    return {leaf.name: leaf.route for leaf in problem.gram(params).plan().leaves}


def test_a_bias_is_a_column_only_where_it_alone_reads_the_product(key):
    assert routes("skip", key) == {"w": "factored", "v": "factored", "u": "factored", "b": "vjp"}
    assert routes("bias, then used", key) == {"w + b": "factored", "v": "factored"}
    assert routes("inside jit", key) == {"w + b": "factored", "v": "factored"}
    assert routes("second bias on a shared sum", key)["c"] == "vjp"


def test_blocks_without_a_leaf_in_common(key):
    keys = jr.split(key, 4)
    params = {"w": jr.normal(keys[0], (3, 8)), "v": jr.normal(keys[1], (2, 8)), "unused": jnp.ones((2, 2))}
    first = (lambda p, x: jnp.tanh(p["w"] @ x), jr.normal(keys[2], (3, 8)), 1.0)
    second = (lambda p, x: jnp.tanh(p["v"] @ x), jr.normal(keys[3], (2, 8)), 2.0)
    constant = (lambda p, x: jnp.sin(x[:1]), jnp.ones((2, 8)), 1.0)
    problem = jg.residual_problem([first, second, constant])
    found = matrices(problem, params)
    found.check_product()
    dense, gram, diagonal = found[:3]
    np.testing.assert_allclose(gram, dense @ dense.T, rtol=0, atol=1e-13)
    np.testing.assert_allclose(diagonal.reshape(-1), (np.asarray(dense) ** 2).sum(1), rtol=0, atol=1e-13)


@pytest.mark.slow
def test_a_flow_keeps_its_law_and_the_optimizer_its_speed(key):
    problem, params = FORMS["skip"].problem(key)
    solution = jg.solve_flow(problem, jg.AdaptedFlow(jg.linalg.GramCholesky()), params, cost_tol=1e-8, rtol=1e-9)
    assert float(jnp.max(jnp.abs(solution.defect))) < 1e-6
    count, separate = (
        updates_to(1e-24, apply, problem, params) for apply in (FORMS["skip"].apply, FORMS["skip"].separate)
    )
    assert count == separate <= 8


def updates_to(tolerance, apply, problem, params):
    tx = jg.optim.adapted_levenberg_marquardt(apply)
    batch = {"inputs": problem.blocks[0].inputs, "targets": problem.loss.targets}
    state, step = tx.init(params), jax.jit(tx.update)
    for count in range(60):
        if float(problem.cost(params)) < tolerance:
            return count
        updates, state = step(params, state, params, **batch)
        params = jax.tree.map(jnp.add, params, updates)
    raise AssertionError("not reached")
