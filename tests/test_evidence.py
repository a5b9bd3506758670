"""The evidence, and the precisions that maximise it, against closed forms and finite slopes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from posteriors import (
    INPUTS,
    NEW,
    TARGETS,
    TRAINABLE,
    WIDTHS,
    Network,
    Polynomial,
    close,
    design,
    flat,
    jacobian,
    of_columns,
    outputs,
    parameters,
    problem,
)

import jaxgeo as jg
from jaxgeo.linalg.covariance.normal import Factor
from jaxgeo.uncertainty import leaf_names


@pytest.mark.parametrize("num_samples", [2, 8], ids=["rows", "columns"])
def test_a_linear_model_is_bayesian_linear_regression(num_samples):
    """Mean, variance and evidence by the marginal distribution of the data, N(0, ΦΦᵀ/α + 1/β), without any θ."""
    alpha, noise = 0.5, 0.4
    x = np.linspace(-1, 1, num_samples)
    y = np.sin(2 * x)
    phi = design(x)
    theta = np.linalg.solve(phi.T @ phi / noise**2 + alpha * np.eye(3), phi.T @ y / noise**2)
    model = jg.Problem(Polynomial(), jnp.asarray(x), jg.L2(jnp.asarray(y)))
    found = jg.posterior(model, jnp.asarray(theta), prior_precision=alpha, noise=noise)
    assert (found.plan.way == "rows") == (num_samples == 2)
    marginal = phi @ phi.T / alpha + noise**2 * np.eye(num_samples)
    log = -0.5 * (y @ np.linalg.solve(marginal, y) + np.linalg.slogdet(2 * np.pi * marginal)[1])
    close(found.log_evidence, log, 1e-12)
    new = np.array([-2.0, 0.3])
    prediction = found.predict(new)
    cross = design(new) @ phi.T / alpha
    close(prediction.mean, cross @ np.linalg.solve(marginal, y), 1e-12)
    variance = np.sum(design(new) ** 2, axis=1) / alpha - np.sum(cross * np.linalg.solve(marginal, cross.T).T, axis=1)
    close(prediction.standard_deviation, np.sqrt(variance), 1e-12)
    close(prediction.observed_deviation, np.sqrt(variance + noise**2), 1e-12)
    low, high = prediction.interval(0.95)
    close(high - low, 2 * 1.959963984540054 * np.sqrt(variance + noise**2), 1e-9)


@pytest.mark.parametrize("grouped", [False, True], ids=["one", "each leaf"])
@pytest.mark.parametrize("side", WIDTHS)
def test_the_evidence_is_at_its_maximum(side, grouped):
    """Against the dense formula: no precision or noise nearby has more, and γ is the one of that point."""
    params = parameters(WIDTHS[side])
    groups = leaf_names(params) if grouped else None
    found = jg.posterior(problem(), params, prior_precision="evidence", groups=groups)
    assert found.converged
    d = jacobian(params, INPUTS).reshape(12, -1)
    theta = flat({name: params[name] for name in "bvw"})
    residual = outputs(params, INPUTS).ravel() - TARGETS.ravel()
    values = np.array([found.prior_precision[name] for name in "bvw"])
    sizes = [params[name].size for name in "bvw"]

    def log(values, noise):
        alphas = np.repeat(values, sizes)
        hessian = d.T @ d / noise**2 + np.diag(alphas)
        norm = 0.5 * np.sum(np.log(alphas)) - 0.5 * 12 * np.log(2 * np.pi * noise**2)
        fit = residual @ residual / noise**2 + theta @ (alphas * theta)
        return norm - 0.5 * fit - 0.5 * np.linalg.slogdet(hessian)[1]

    best = log(values, found.noise)
    close(found.log_evidence, best)
    assert grouped == (len(set(values)) == 3)
    moves = np.eye(3) if grouped else np.ones((1, 3))
    for factor in (0.99, 1.01):
        assert log(values, found.noise * factor) < best
        for move in moves:
            assert log(values * factor**move, found.noise) < best


def test_the_noise_beside_a_given_prior_is_the_residual_over_what_is_left():
    params = parameters(2)
    found = jg.posterior(problem(), params, prior_precision=0.7)
    residual = outputs(params, INPUTS).ravel() - TARGETS.ravel()
    close(found.noise**2, residual @ residual / (12 - found.num_effective))
    close(found.degrees_of_freedom, 12 - found.num_effective)


@pytest.mark.parametrize("side", WIDTHS)
def test_a_group_of_zeros_is_held_there(side):
    """Its precision would be infinite; the others are those without it."""
    params = parameters(WIDTHS[side])
    params["b"] = jnp.zeros_like(params["b"])
    found = jg.posterior(problem(), params, prior_precision="evidence", groups=leaf_names(params))
    assert found.converged
    assert (flat(found.standard_errors()["b"]) < 1e-6).all()
    frozen = eqx.tree_at(lambda problem: problem.trainable, problem(), TRAINABLE | {"b": False})
    without = jg.posterior(frozen, params, prior_precision="evidence", groups=leaf_names(params))
    for name in ("noise", "num_effective"):
        close(getattr(found, name), getattr(without, name), 1e-6)
    close(found.prior_precision["w"], without.prior_precision["w"], 1e-6)


def test_a_prior_on_some_leaves_only():
    params = parameters(6)
    prior = {"w": 0.5, "b": 0.5, "v": 0.0, "scale": 0.0}
    found = jg.posterior(problem(), params, prior_precision=prior, noise=0.3)
    d, alphas = jacobian(params, INPUTS).reshape(12, -1), of_columns(prior, params)
    # DᵀD would square the condition number.
    inverse = np.linalg.inv(np.linalg.qr(np.concatenate([d / 0.3, np.diag(np.sqrt(alphas))]), mode="r"))
    sigma = inverse @ inverse.T
    close(found.covariance(), sigma, 1e-7)
    close(found.num_effective, np.sum(1 - alphas * np.diag(sigma)), 1e-7)
    assert found.log_evidence is None
    with pytest.raises(ValueError, match="on only some parameters, `noise`"):
        jg.posterior(problem(), params, prior_precision=prior)


def test_a_network_that_couples_its_samples():
    def apply(params, inputs):
        rows = jax.vmap(Network(), in_axes=(None, 0))(params, inputs)
        return rows - jnp.mean(rows, axis=0, keepdims=True)

    def coupled(params):
        targets = jg.L2(jnp.asarray(TARGETS))
        return jg.Problem(apply, jnp.asarray(INPUTS), targets, trainable=TRAINABLE, per_sample=False), params

    found = jg.posterior(*coupled(parameters(2)), prior_precision=0.7, noise=0.3)
    d, j = (jacobian(parameters(2), inputs) for inputs in (INPUTS, NEW))
    d, j = ((each - each.mean(axis=0)) for each in (d, j))
    d = d.reshape(12, -1)
    sigma = np.linalg.inv(d.T @ d / 0.09 + 0.7 * np.eye(10))
    close(found.predict(NEW).covariance, np.einsum("mqk,kl,mpl->mqp", j, sigma, j))
    by_rows = jg.posterior(*coupled(parameters(6)), prior_precision=0.7, noise=0.3)
    d = jacobian(parameters(6), INPUTS)
    d = (d - d.mean(axis=0)).reshape(12, -1)
    close(by_rows.covariance(), np.linalg.inv(d.T @ d / 0.09 + 0.7 * np.eye(30)))
    with pytest.raises(ValueError, match="couples its samples"):
        by_rows.predict(NEW)


def test_a_matrix_that_no_shift_would_mend_is_refused_at_once():
    with pytest.raises(np.linalg.LinAlgError, match="not finite"):
        Factor(np.array([[1.0, np.nan], [np.nan, 1.0]]))
