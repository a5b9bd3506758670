"""DDᵀ is checked against products with D while it is used: every wrong DDᵀ is noticed and answered."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import gram_matrix, jacobian_matrix
from jax.flatten_util import ravel_pytree
from reuses import FORMS, OTHERS

import jaxgeo as jg
from jaxgeo.linalg import vectors
from jaxgeo.linalg.gram import tracing, uses
from jaxgeo.linalg.solvers.base import CONTRADICTED, DECOMPOSED, FAILED, SOLVED

# What came out wrong before a bias had to be alone in reading its product, and literals were told apart.
MISREAD = [
    *FORMS,
    "transposed and shared",
    "outside and inside jit",
    "same product twice",
    "literals that compare equal",
]
FAST = ("inside a scan", "literals that compare equal")


@pytest.fixture
def misreading(monkeypatch):
    """A tracer that takes every bias for a column of the product, and literals that compare equal for one another."""
    jax.clear_caches()
    monkeypatch.setattr(uses.Recorder, "share", lambda self, leaf, sited: None)
    exact = tracing._same

    def by_value(eqn, values):
        key = exact(eqn, values)
        if key is None or not any(isinstance(var, tracing.Literal) for var in eqn.invars):
            return key
        numbers = tuple(
            float(var.val) if isinstance(var, tracing.Literal) and np.ndim(var.val) == 0 else id(value)
            for var, value in zip(eqn.invars, values, strict=True)
        )
        return (key[0], numbers, key[2])

    monkeypatch.setattr(tracing, "_same", by_value)
    yield
    jax.clear_caches()


@eqx.filter_jit
def lift(solver, problem, params, damping):
    jacobian = problem.jacobian(params)
    return solver.solve(jacobian, -problem.loss.gradient(jacobian.outputs), damping)


def expected_lift(problem, params, damping):
    dense = np.asarray(jacobian_matrix(problem, params), np.float64)
    velocity = -np.asarray(problem.loss.gradient(problem.outputs(params)), np.float64).reshape(-1)
    if damping is None:
        return np.linalg.pinv(dense, rcond=1e-7) @ velocity
    gram = dense @ dense.T
    shift = damping * np.trace(gram) / len(gram)
    return dense.T @ np.linalg.solve(gram + shift * np.eye(len(gram)), velocity)


def check_answered(solver, name, key, damping):
    problem, params = (FORMS | OTHERS)[name].problem(key)
    solution, info = lift(solver, problem, params, damping)
    # The default solver needs no DDᵀ for K < QN, and takes D itself where a wrong DDᵀ is not positive definite.
    if not isinstance(solver, jg.linalg.Auto) or info.outcome not in (SOLVED, DECOMPOSED):
        assert int(info.outcome) == CONTRADICTED
        assert float(info.mismatch) > 1e-4
    expected = expected_lift(problem, params, damping)
    np.testing.assert_allclose(ravel_pytree(solution)[0], expected, rtol=0, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in MISREAD]
)
def test_a_matrix_that_is_wrong_raises(name, key, misreading):
    problem, params = (FORMS | OTHERS)[name].problem(key)
    with pytest.raises(Exception, match="contradicts products with D"):
        gram_matrix(problem.gram(params))


@pytest.mark.parametrize(
    ("solver", "name", "damping"),
    [
        (jg.linalg.GramCholesky(), "skip", 1e-3),
        pytest.param(jg.linalg.GramCholesky(refinements=0), "residual", None, marks=pytest.mark.slow),
        pytest.param(jg.linalg.Auto(), "two biases", None, marks=pytest.mark.slow),
        pytest.param(jg.linalg.GramCholesky(), "literals that compare equal", 1e-3, marks=pytest.mark.slow),
    ],
    ids=["damped", "not refined", "by default", "literals"],
)
def test_a_lift_is_answered_without_the_factors(solver, name, damping, key, misreading):
    check_answered(solver, name, key, damping)


@pytest.mark.slow
@pytest.mark.parametrize("damping", [None, 1e-3, 1.0])
@pytest.mark.parametrize("solver", [jg.linalg.GramCholesky(), jg.linalg.Auto()], ids=["cholesky", "auto"])
@pytest.mark.parametrize("name", MISREAD)
def test_every_form_is_noticed_in_a_lift(name, solver, damping, key, misreading):
    check_answered(solver, name, key, damping)


@pytest.mark.slow
def test_eigenvalues_of_a_wrong_matrix_raise(key, misreading):
    problem, params = FORMS["residual"].problem(key)
    with pytest.raises(Exception, match="contradicts products with D"):
        lift(jg.linalg.GramEigh(), problem, params, None)


@pytest.mark.slow
def test_without_the_certificate_the_wrong_matrix_is_used(key, misreading):
    problem, params = FORMS["skip"].problem(key)
    solution, info = lift(jg.linalg.GramCholesky(certify=False, refinements=0), problem, params, 1e-3)
    expected = expected_lift(problem, params, 1e-3)
    assert int(info.outcome) == SOLVED
    assert np.abs(ravel_pytree(solution)[0] - expected).max() > 1e-2 * np.abs(expected).max()
    assert problem.gram(params).as_matrix(certify=False).shape == (8, 8)


@pytest.mark.slow
def test_without_room_for_rows_the_lift_fails(key, misreading, monkeypatch):
    problem, params = FORMS["skip"].problem(key)
    whole = jg.linalg.Gram.as_matrix

    def without_room(self, dtype=None, *, certify=True):
        if not self.structured:
            raise MemoryError
        return whole(self, dtype, certify=certify)

    monkeypatch.setattr(jg.linalg.Gram, "as_matrix", without_room)
    solution, info = lift(jg.linalg.GramCholesky(), problem, params, 1e-3)
    assert int(info.outcome) == FAILED
    assert not np.any(ravel_pytree(solution)[0])


@pytest.mark.slow
def test_a_step_shows_it_and_is_right(key, misreading, monkeypatch):
    # A small D is held, and DDᵀ is its product.
    monkeypatch.setattr(vectors, "MOST_ENTRIES", 0)
    form = FORMS["two biases"]
    problem, params = form.problem(key)
    tx = jg.optim.adapted_levenberg_marquardt(form.apply, solver=jg.linalg.GramCholesky(dense_fallback=False))
    step = jax.jit(lambda params, state: tx.update(params, state, params, problem=problem))
    state, costs = tx.init(params), []
    for _ in range(12):
        updates, state = step(params, state)
        params = jax.tree.map(jnp.add, params, updates)
        costs.append(float(state.info.new_cost))
    assert int(state.info.outcome) == CONTRADICTED
    assert float(state.info.mismatch) > 1e-4
    assert min(costs) < 1e-20


@pytest.mark.slow
def test_it_is_named_as_the_cause_of_a_defect(key, misreading):
    problem, params = FORMS["skip"].problem(key)
    flow = jg.AdaptedFlow(jg.linalg.GramCholesky(certify=False, refinements=0))
    with pytest.warns(UserWarning, match="gram: DDᵀ, assembled from the factors"):
        report = jg.integrate.explain_defect(problem, flow, params, 2.0, num_times=3)
    assert report.dominant == "gram"
    assert report.gram > 1e-3
    assert report.solve > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_a_right_matrix_leaves_round_off(dtype, key):
    problem, params = FORMS["relative attention"].problem(key)
    problem, params = jax.tree.map(
        lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf, (problem, params)
    )
    for damping in (None, 1e-3):
        _, info = lift(jg.linalg.GramCholesky(), problem, params, damping)
        assert int(info.outcome) != CONTRADICTED
        assert float(info.mismatch) < 30 * float(jnp.finfo(dtype).eps)


@pytest.mark.slow
@pytest.mark.parametrize("damping", [None, 1e-3])
def test_a_jacobian_that_is_round_off_is_no_contradiction(damping, key):
    """Terms of order one that cancel: D is 0 but for round-off, which differs from one way to compute it to another."""

    def apply(params, x):
        centred = params @ x - jnp.mean(params @ x)
        return jnp.mean(centred)[None] + jnp.sum(jnp.sin(params @ x) / 3 - jnp.sin(params @ x) * (1 / 3))[None]

    problem = jg.Problem(apply, jax.random.normal(key, (4, 3)), jg.L2(jnp.ones((4, 1))))
    params = jax.random.normal(key, (7, 3))
    size = float(jnp.max(jnp.abs(problem.jacobian(params).as_matrix())))
    assert 0 < size < 1e-15
    problem.gram(params).as_matrix()
    _, info = lift(jg.linalg.GramCholesky(), problem, params, damping)
    assert int(info.outcome) != CONTRADICTED
