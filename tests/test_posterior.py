"""Error bars against dense float64 oracles: by rows and by columns, with and without a prior, for each cost."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from posteriors import (
    INPUTS,
    NEW,
    PRIORS,
    TARGETS,
    WIDTHS,
    close,
    flat,
    jacobian,
    of_columns,
    outputs,
    parameters,
    problem,
)

import jaxgeo as jg
from jaxgeo.linalg.covariance import cross
from jaxgeo.uncertainty import estimation
from jaxgeo.uncertainty.plan import plan_posterior


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("side", WIDTHS)
def test_rows_and_columns_equal_the_dense_formula(side, prior):
    params = parameters(WIDTHS[side])
    found = jg.posterior(problem(), params, prior_precision=PRIORS[prior], noise=0.3)
    assert found.plan.way == side
    d = jacobian(params, INPUTS).reshape(12, -1)
    alphas = of_columns(PRIORS[prior], params)
    sigma = np.linalg.inv(d.T @ d / 0.09 + np.diag(alphas))
    close(found.covariance(), sigma)
    errors = found.standard_errors()
    assert errors["scale"] is None
    close(flat(errors), np.sqrt(np.diag(sigma)))
    start = params["b"].size
    close(
        found.covariance(lambda leaves: leaves["v"]),
        sigma[start : start + params["v"].size][:, start : start + params["v"].size],
    )
    j = jacobian(params, NEW)
    prediction = found.predict(NEW)
    close(prediction.covariance, np.einsum("mqk,kl,mpl->mqp", j, sigma, j))
    close(prediction.mean, outputs(params, NEW), 1e-14)
    close(found.num_effective, np.sum(1 - alphas * np.diag(sigma)))
    residual = outputs(params, INPUTS).ravel() - TARGETS.ravel()
    theta = flat({name: params[name] for name in "bvw"})
    log = -0.5 * (residual @ residual / 0.09 + theta @ (alphas * theta)) + 0.5 * np.linalg.slogdet(sigma)[1]
    log += 0.5 * np.sum(np.log(alphas)) - 0.5 * 12 * np.log(2 * np.pi * 0.09)
    close(found.log_evidence, log)


@pytest.mark.parametrize("way", ["rows", "low rank"])
def test_all_ways_are_one(way, monkeypatch):
    """The ways that are not the shortest give the same numbers."""
    params = parameters(2)
    columns = jg.posterior(problem(), params, prior_precision=0.7)
    monkeypatch.setattr(
        estimation, "plan_posterior", lambda *args, **options: by(way, plan_posterior(*args, **options))
    )
    other = jg.posterior(problem(), params, prior_precision=0.7)
    assert columns.plan.way == "columns"
    assert other.plan.way == way
    for name in ("noise", "num_effective", "log_evidence"):
        close(getattr(other, name), getattr(columns, name), 1e-11)
    close(other.covariance(), columns.covariance(), 1e-11)
    close(flat(other.standard_errors()), flat(columns.standard_errors()), 1e-11)
    close(other.predict(NEW).covariance, np.asarray(columns.predict(NEW).covariance), 1e-11)


def by(way, plan):
    return dataclasses.replace(plan, way=way)


@pytest.mark.parametrize("side", WIDTHS)
def test_derivatives_by_the_inputs(side):
    params = parameters(WIDTHS[side])
    found = jg.posterior(problem(), params, prior_precision=0.7, noise=0.3)
    point, direction = jnp.asarray(NEW[:1]), jnp.asarray([[0.6, -0.8]])

    def spread(x):
        return jnp.sum(found.predict(x).standard_deviation)

    slope = jnp.sum(jax.grad(spread)(point) * direction)
    difference = (spread(point + 1e-5 * direction) - spread(point - 1e-5 * direction)) / 2e-5
    np.testing.assert_allclose(slope, difference, rtol=1e-7)


@pytest.mark.parametrize("chunk", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(5, marks=pytest.mark.slow)])
def test_chunks_change_nothing(chunk, monkeypatch):
    params = parameters(6)
    found = jg.posterior(problem(), params, prior_precision=0.7, noise=0.3)
    expected = found.predict(NEW).covariance
    monkeypatch.setattr(cross, "MOST_INPUTS", chunk)
    monkeypatch.setattr(cross.Cross.__init__, "__defaults__", (chunk,))
    monkeypatch.setattr(cross, "MOST_PRODUCTS", 4 * 2 * chunk)
    monkeypatch.setattr(cross, "MOST_BYTES", 0 if chunk == 2 else 2**28)
    jax.clear_caches()
    close(found.predict(NEW).covariance, np.asarray(expected), 1e-12)


class Words(eqx.Module):
    """Rows of a table for the words of a sentence, a convolution along them, and a readout: leaves of each kind."""

    def __call__(self, params, sentence):
        found = params["table"][sentence]
        wide = jax.lax.conv_general_dilated(found.T[None], params["kernel"], (1,), "SAME")[0]
        return (
            params["readout"] @ jnp.tanh(wide + params["bias"][:, None]).mean(axis=1) + params["gain"] * wide[0, 0] ** 2
        )


@pytest.mark.slow
@pytest.mark.parametrize("held", [True, False])
def test_any_kind_of_leaf_by_rows(held, monkeypatch):
    """Blocks of the Gram matrix with new inputs, held or computed again, against rows of D by differentiation."""
    monkeypatch.setattr(cross, "MOST_BYTES", 2**28 if held else 0)
    rng = np.random.default_rng(3)
    shapes = {"table": (7, 3), "kernel": (4, 3, 3), "bias": (4,), "readout": (2, 4), "gain": ()}
    params = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
    old, new = rng.integers(7, size=(5, 6)), rng.integers(7, size=(4, 6))
    model = jg.Problem(Words(), jnp.asarray(old), jg.L2(jnp.asarray(rng.normal(size=(5, 2)))))
    precisions = {"table": 0.5, "kernel": 2.0, "bias": 1.0, "readout": 1.0, "gain": 3.0}
    found = jg.posterior(model, params, prior_precision=precisions, noise=0.2)
    assert found.plan.way == "rows"
    theta, unravel = jax.flatten_util.ravel_pytree(params)

    def rows(sentences):
        derivative = jax.jacfwd(lambda theta, sentence: Words()(unravel(theta), sentence))
        return np.asarray(jax.vmap(derivative, in_axes=(None, 0))(theta, jnp.asarray(sentences)))

    d, j = rows(old).reshape(10, -1), rows(new)
    alphas = np.concatenate([np.full(params[name].size, precisions[name]) for name in sorted(params)])
    sigma = np.linalg.inv(d.T @ d / 0.04 + np.diag(alphas))
    close(found.predict(new).covariance, np.einsum("mqk,kl,mpl->mqp", j, sigma, j))
    close(flat(found.standard_errors()), np.sqrt(np.diag(sigma)))


def test_without_a_prior_many_parameters_are_fixed_where_the_data_are():
    """K > QN and the noise known: predictions at the samples have that much noise, and nothing is known elsewhere."""
    found = jg.posterior(problem(), parameters(6), noise=0.3)
    here, there = found.predict(INPUTS), found.predict(NEW)
    close(here.standard_deviation, np.full((6, 2), 0.3))
    assert np.isinf(there.standard_deviation).all()
    assert len(found.unfixed()) > 0
    assert len(found.unfixed_directions()) == 30 - 12
