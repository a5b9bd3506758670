"""A Gaussian prior in the objective, against dense algebra and closed forms, for K below and above QN."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from posteriors import INPUTS, TARGETS, WIDTHS, close, flat, parameters, problem

import jaxgeo as jg
from jaxgeo.fitting.batches import Batches
from jaxgeo.linalg.linearisation import Linearisation
from jaxgeo.linalg.solvers import PriorLift
from jaxgeo.uncertainty import leaf_names

RNG = np.random.default_rng(2)
DAMPINGS = (None, 0.01)
PRIORS = {"one": 0.3, "each leaf": {"w": 0.3, "b": 2.0, "v": 0.7, "scale": 1.0}}
COSTS = {
    "squares": None,
    "weights": jg.SampleWeighted(jg.L2(jnp.asarray(TARGETS)), jnp.arange(1.0, 7.0)),
    "classes": jg.SoftmaxCrossEntropy.from_labels(np.arange(6) % 2),
}


@eqx.filter_jit
def lifts(whole, params):
    """For each damping the lift, with its report and that of once through the factorisation; and what they are of."""
    linear = Linearisation(whole, params, jg.metrics.CostHessian())
    found = []
    for damping in DAMPINGS:
        factorised = PriorLift().factorise(linear.jacobian, damping)
        lifted, info = factorised.lift(-linear.residual)
        found.append((ravel_pytree(lifted)[0], info, ravel_pytree(factorised.correct(-linear.residual))[0]))
    slope = whole.partition(jax.grad(whole.cost)(params))[0]
    return (
        found,
        linear.residual,
        linear.jacobian.as_matrix(),
        (linear.cost, linear.gradient),
        (whole.cost(params), slope),
    )


@pytest.mark.parametrize(
    ("cost", "prior"),
    [
        ("classes", "each leaf"),
        pytest.param("squares", "one", marks=pytest.mark.slow),
        pytest.param("weights", "each leaf", marks=pytest.mark.slow),
    ],
)
def test_the_lift_is_that_of_appended_rows(cost, prior):
    """(DᵀD + P + λ)⁻¹Dᵀ(v, u), without a matrix of size K."""
    params = parameters(WIDTHS["rows"])
    whole = problem(COSTS[cost]).with_prior(params, PRIORS[prior])
    every, residual, matrix, (cost, gradient), (expected_cost, slope) = lifts(whole, params)
    assert matrix.shape == (residual.size, 30)
    matrix, residual = np.asarray(matrix), np.ravel(residual)
    for damping, (found, info, rough) in zip(DAMPINGS, every, strict=True):
        own = 0.0 if damping is None else damping * np.sum(matrix**2) / len(matrix)
        exact = np.linalg.solve(matrix.T @ matrix + own * np.eye(30), matrix.T @ -residual)
        for each in (found, rough):
            close(each, exact, 1e-10)
        assert int(info.outcome) == 0
    close(cost, expected_cost, 1e-13)
    close(flat(gradient), flat(slope), 1e-12)


def test_the_default_solver_knows_the_prior():
    params = parameters(WIDTHS["rows"])
    whole = problem().with_prior(params, 0.3)
    assert "DDᵀ of the data, 12 × 12" in str(jg.linalg.Auto().choose(whole.jacobian(params)))
    plan = whole.plan(params)
    assert (plan.rows, plan.columns) == (12, 30)


def line(params, x):
    return x @ params["a"] + params["b"]


def regression(rows, columns, weights=None):
    x, y = RNG.normal(size=(rows, columns)), RNG.normal(size=rows)
    weights = np.ones(rows) if weights is None else weights
    design = np.column_stack([x, np.ones(rows)])
    precisions = np.append(np.full(columns, 0.7), 0.2)
    normal = design.T @ (weights[:, None] * design) + np.diag(precisions)
    theta = np.linalg.solve(normal, design.T @ (weights * y))
    missed = design @ theta - y
    cost = 0.5 * (weights @ missed**2 + precisions @ theta**2) / weights.sum()
    return x, y, {"a": jnp.zeros(columns), "b": jnp.zeros(())}, theta, cost


PRECISION = {"a": 0.7, "b": 0.2}


@pytest.mark.parametrize(
    ("method", "rows", "columns"),
    [
        ("levenberg-marquardt", 9, 5),
        pytest.param("adapted-momentum", 5, 9, marks=pytest.mark.slow),
        pytest.param("levenberg-marquardt", 5, 9, marks=pytest.mark.slow),
        pytest.param("adapted", 5, 9, marks=pytest.mark.slow),
        pytest.param("adapted-momentum", 9, 5, marks=pytest.mark.slow),
        pytest.param("adapted", 9, 5, marks=pytest.mark.slow),
    ],
)
def test_a_linear_model_ends_at_the_ridge_regression(method, rows, columns):
    """With sample weights, by every method; the cost that is told has the prior in it."""
    weights = 1.0 + np.arange(rows) % 3
    x, y, start, theta, cost = regression(rows, columns, weights)
    chosen = jg.optim.adapted_momentum(learning_rate=1.0, damping=1e-9) if method == "adapted-momentum" else method
    options = {"tol": 1e-9} if method == "adapted" else {}
    found = jg.fit(start, x, y, apply=line, method=chosen, prior=PRECISION, weights=weights, max_steps=60, **options)
    exact = 1e-5 if method == "adapted" else 1e-9
    close(flat(found.model), theta, exact)
    close(found.cost, cost, exact)


def test_the_velocity_of_a_linear_model_lets_the_gradient_decay():
    """∇²C θ̇ = −∇C/N, the law of an adapted flow with a prior at one point."""
    x, y, start, _, _ = regression(5, 9)
    whole = jg.Problem(line, jnp.asarray(x), jg.L2(jnp.asarray(y))).with_prior(start, PRECISION)
    gradient, change = jax.jvp(jax.grad(whole.cost), (start,), (jg.AdaptedFlow()(0.0, start, whole),))
    close(flat(change), -flat(gradient) / 5, 1e-9)


@pytest.mark.slow
def test_the_gradient_of_a_linear_model_decays_along_the_flow():
    """∇C goes as e^{−s/N}, the law of an adapted flow with a prior where the model is linear."""
    x, y, start, _, _ = regression(5, 9)
    whole = jg.Problem(line, jnp.asarray(x), jg.L2(jnp.asarray(y))).with_prior(start, PRECISION)
    slope = jax.grad(whole.cost)
    solution = jg.solve_flow(whole, jg.AdaptedFlow(), start, s1=5.0, rtol=1e-9, rank_check=False, throw=False)
    close(flat(slope(solution.params)), np.exp(-1.0) * flat(slope(start)), 1e-6)


def test_batches_have_their_part_of_the_prior():
    """The mean of the costs of all batches of an epoch is the cost."""
    x, y, start, theta, cost = regression(6, 3, np.array([1.0, 2.0, 1.0, 1.0, 2.0, 1.0]))
    weights = jnp.array([1.0, 2.0, 1.0, 1.0, 2.0, 1.0])
    whole = jg.Problem(line, jnp.asarray(x), jg.SampleWeighted(jg.L2(jnp.asarray(y)), weights))
    params = {"a": jnp.asarray(theta[:-1]), "b": jnp.asarray(theta[-1])}
    batches = Batches(whole.with_prior(start, PRECISION), jnp.asarray(y), jg.L2, 3, 0, weights)
    total = 0.0
    for index in batches.order(0, 2):
        batch = batches.take(jnp.asarray(index), params)
        total += float(batch.cost(params) * batch.loss.total_weight) / 8
    close(total, cost, 1e-12)
    tx = jg.optim.adapted_momentum(line, prior=jg.optim.Prior(PRECISION, num_samples=6), damping=0.0)
    part = {"inputs": jnp.asarray(x[:3]), "targets": jnp.asarray(y[:3])}
    state = tx.init(params)
    _, state = tx.update(params, state, params, **part)
    expected = jg.Problem(line, part["inputs"], jg.L2(part["targets"])).with_prior(
        params, {name: value / 2 for name, value in PRECISION.items()}
    )
    close(state.info.cost, expected.cost(params), 1e-12)


@functools.partial(jax.jit, static_argnums=0)
def after(tx, params, inputs, targets, weights):
    def update(_, carry):
        params, state = carry
        updates, state = tx.update(params, state, params, inputs=inputs, targets=targets, weights=weights)
        return optax.apply_updates(params, updates), state

    return jax.lax.fori_loop(0, 3, update, (params, tx.init(params)))[0]


@pytest.mark.slow
@pytest.mark.parametrize(("width", "prior"), [(2, 0.3), (12, 0.3), (2, None), (12, None)])
def test_a_weight_of_two_is_a_row_twice(width, prior):
    """Update by update, to round-off: damping counts weights, as it would rows."""
    params = {"w": parameters(width)["w"], "v": parameters(width)["v"]}
    twice = np.array([0, 0, 1, 2, 3, 3, 4, 5])
    weights = jnp.array([2.0, 1.0, 1.0, 2.0, 1.0, 1.0])

    def network(params, x):
        return params["v"] @ jnp.tanh(params["w"] @ x)

    tx = jg.optim.adapted_levenberg_marquardt(network, prior=prior)
    inputs, targets = jnp.asarray(INPUTS), jnp.asarray(TARGETS)
    weighted = after(tx, params, inputs, targets, weights)
    repeated = after(tx, params, inputs[twice], targets[twice], jnp.ones(8))
    close(flat(weighted), flat(repeated), 1e-7)


@pytest.mark.parametrize(
    ("width", "grouped"),
    [
        (2, True),
        pytest.param(12, False, marks=pytest.mark.slow),
        pytest.param(2, False, marks=pytest.mark.slow),
        pytest.param(12, True, marks=pytest.mark.slow),
    ],
)
def test_training_by_evidence_ends_where_the_posterior_says(width, grouped):
    """Noise and γ are those of the evidence at the end, and the gradient of the objective is 0 where it converged."""
    rng = np.random.default_rng(3)
    x = np.linspace(-1, 1, 20)[:, None]
    y = np.sin(3 * x + 1) + 0.1 * rng.normal(size=(20, 1))
    model = eqx.nn.MLP(1, 1, width, 1, activation=jnp.tanh, key=jax.random.key(0))
    labels = leaf_names(eqx.filter(model, eqx.is_inexact_array)) if grouped else None
    groups = None if labels is None else jax.tree.map(lambda name: "bias" if "bias" in name else name, labels)
    trained = jg.fit(model, x, y, prior=jg.optim.Prior(groups=groups), max_steps=600, record_every=50)
    assert trained.outcome in (jg.optim.Outcome.CONVERGED, jg.optim.Outcome.MAX_STEPS)
    whole, params = jg.supervised(trained.model, x, y)
    found = jg.posterior(whole, params, prior_precision="evidence", groups=groups)
    close(trained.rows[-1]["noise"], found.noise, 1e-2)
    close(trained.rows[-1]["num_effective"], found.num_effective, 1e-2)
    assert 0.05 < found.noise < 0.2
    if trained.outcome is jg.optim.Outcome.MAX_STEPS:
        return
    ratio = jax.tree.map(lambda alpha: alpha * found.noise**2, found.prior_precision)
    objective = whole.with_prior(params, jax.tree.unflatten(jax.tree.structure(params), jax.tree.leaves(ratio)))
    slope = flat(jax.grad(objective.cost)(params))
    assert np.linalg.norm(slope) < 1e-2 * np.linalg.norm(flat(jax.grad(whole.cost)(params)))


def test_what_cannot_be_is_refused():
    params = parameters(2)
    with pytest.raises(ValueError, match="`precision` must be a number, at least 0"):
        problem().with_prior(params, -1.0)
    with pytest.raises(ValueError, match="`precision` must be a pytree prefix of `params`"):
        problem().with_prior(params, {"w": 1.0})
    with pytest.raises(ValueError, match="already has a prior"):
        problem().with_prior(params, 1.0).with_prior(params, 1.0)
    with pytest.raises(ValueError, match='pass "evidence"'):
        jg.optim.Prior(1.0, groups={"w": 1})
    with pytest.raises(ValueError, match="needs all data at every update"):
        jg.optim.adapted_momentum(line, prior="evidence")
    with pytest.raises(ValueError, match="needs the metric of the likelihood"):
        jg.optim.adapted_levenberg_marquardt(line, prior="evidence", metric=jg.metrics.Euclidean())
    x, y, start, _, _ = regression(4, 2)
    with pytest.raises(ValueError, match="needs Levenberg–Marquardt"):
        jg.fit(start, x, y, apply=line, method="adam", prior="evidence")
    with pytest.raises(ValueError, match="`weights` must hold one number per sample"):
        jg.fit(start, x, y, apply=line, weights=np.ones(3))


@eqx.filter_jit
def damped_report(linear, solver):
    return solver.factorise(linear.jacobian, 1e10).lift(-linear.residual)[1]


@pytest.mark.parametrize(
    "solver",
    [
        pytest.param(PriorLift(), id="prior"),
        pytest.param(jg.linalg.GramCholesky(), id="gram", marks=pytest.mark.slow),
    ],
)
def test_much_damping_is_no_contradiction(solver):
    """Round-off of λψ is no fault of DDᵀ, however much larger than DDᵀ the damping is."""
    params = parameters(WIDTHS["rows"])
    whole = problem() if isinstance(solver, jg.linalg.GramCholesky) else problem().with_prior(params, 0.3)
    report = damped_report(Linearisation(whole, params, jg.metrics.Euclidean()), solver)
    assert int(report.outcome) == 0
    assert float(report.mismatch) < 1e-12
