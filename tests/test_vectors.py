"""Small problems as functions of one vector: the same steps as with pytrees, by a shorter program."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import jaxgeo as jg
from jaxgeo.equations import Network
from jaxgeo.linalg import QR, vectors
from jaxgeo.linalg.linearisation import Linearisation
from jaxgeo.metrics import Euclidean

INPUTS = jr.normal(jr.key(1), (20, 3))
CHOICE = {"network": True, "shift": False, "slope": True}


def parameters():
    return {"network": Network((3, 8, 2), jnp.float64, key=jr.key(0)), "shift": jnp.ones(2), "slope": jnp.array(0.5)}


def apply(params, x):
    return params["slope"] * params["network"](x) + params["shift"]


def problem(cost=None):
    cost = jg.L2(jr.normal(jr.key(2), (20, 2))) if cost is None else cost
    return jg.Problem(apply, INPUTS, cost, trainable=CHOICE)


def test_steps_are_vectors_that_are_told_as_pytrees():
    params = parameters()
    linear = Linearisation(problem(), params, Euclidean())
    size = problem().num_params(params)
    assert linear.trainable.shape == (size,)
    assert linear.jacobian.is_matrix
    np.testing.assert_allclose(linear.jacobian.held, problem().jacobian(params).as_matrix(), atol=1e-14)
    step = jr.normal(jr.key(3), (size,))
    told = linear.embed(step)
    assert jax.tree.structure(told) == jax.tree.structure(eqx.filter(params, eqx.is_array))
    assert told["shift"].tolist() == [0, 0]
    assert linear.restrict(told).tolist() == step.tolist()
    moved = eqx.apply_updates(params, told)
    np.testing.assert_allclose(linear.outputs_at(step), problem().outputs(moved), atol=1e-14)


def test_a_large_problem_stays_a_pytree(monkeypatch):
    monkeypatch.setattr(vectors, "MOST_ENTRIES", 40)
    linear = Linearisation(problem(), parameters(), Euclidean())
    assert linear.network is None
    assert linear.jacobian.held is None
    assert linear.embed(linear.restrict(parameters()))["slope"] == 0.5


COSTS = {"squares": None, "softmax": jg.SoftmaxCrossEntropy(np.eye(2)[np.arange(20) % 2])}
OPTIMIZERS = {
    "marquardt": jg.optim.adapted_levenberg_marquardt,
    "accelerated": lambda **options: jg.optim.adapted_levenberg_marquardt(
        acceleration=0.75, linesearch=optax.scale_by_backtracking_linesearch(5), **options
    ),
    "momentum": lambda **options: jg.optim.adapted_momentum(learning_rate=0.5, **options),
    "descent": lambda **options: jg.optim.adapted_gradient_descent(learning_rate=0.5, damping=1e-3, **options),
}


@pytest.mark.parametrize(
    ("optimizer", "cost", "solver"),
    [
        # Each way to a step once, and both kinds of cost, with the solver that compiles fastest.
        ("accelerated", "softmax", QR()),
        ("momentum", "squares", QR()),
        ("descent", "squares", QR()),
        *(pytest.param(name, cost, None, marks=pytest.mark.slow) for name in OPTIMIZERS for cost in COSTS),
    ],
)
def test_the_steps_are_the_same(optimizer, cost, solver, monkeypatch):
    def trained():
        tx, params, own = OPTIMIZERS[optimizer](solver=solver), parameters(), problem(COSTS[cost])
        state = tx.init(params)
        for _ in range(3):
            updates, state = tx.update(None, state, params, problem=own)
            params = eqx.apply_updates(params, updates)
        return eqx.filter(params, eqx.is_array), state.info

    found = trained()
    monkeypatch.setattr(vectors, "MOST_ENTRIES", 0)
    jax.clear_caches()
    expected = trained()
    jax.clear_caches()
    for one, other in zip(jax.tree.leaves(found[0]), jax.tree.leaves(expected[0]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-9)
    assert found[1].accepted == expected[1].accepted
    np.testing.assert_allclose(found[1].new_cost, expected[1].new_cost, rtol=1e-9)


def test_the_program_is_short(monkeypatch):
    def lines():
        tx, params = jg.optim.adapted_levenberg_marquardt(), parameters()
        step = eqx.filter_jit(lambda params, state, own: tx.update(params, state, params, problem=own))
        return step.lower(params, tx.init(params), problem()).as_text().count("\n")

    short = lines()
    monkeypatch.setattr(vectors, "MOST_ENTRIES", 0)
    jax.clear_caches()
    assert short < 0.75 * lines()
    jax.clear_caches()
