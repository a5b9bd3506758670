"""Error bars by leading directions of D, where neither DDᵀ nor DᵀD fits, against the exact ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from posteriors import close

import jaxgeo as jg
from jaxgeo.uncertainty import plan

# Beside a chunk of D neither 300 × 300 nor 301 × 301 numbers fit, as often as they are held.
MEMORY = 2**26 + 3_000_000
X = np.linspace(-1, 1, 300)[:, None]
NEW = jnp.linspace(-1.2, 1.2, 9)[:, None]


@pytest.fixture(autouse=True)
def few_directions(monkeypatch):
    monkeypatch.setattr(plan, "LEAST_RANK", 16)


def fitted(cost=None, dtype=jnp.float64):
    network = jg.equations.Network((1, 100, 1), dtype, key=jax.random.key(0))
    y = np.sin(3 * X) + 0.1 * np.random.default_rng(0).normal(size=X.shape)
    problem, params = jg.supervised(network, jnp.asarray(X, dtype), jnp.asarray(y, dtype) if cost is None else cost)
    return problem, params


@pytest.mark.parametrize("precision", [0.5, pytest.param("groups", marks=pytest.mark.slow)])
def test_it_is_exact_where_the_spectrum_falls_fast(precision):
    problem, params = fitted()
    alphas = precision if precision != "groups" else jg.uncertainty.leaf_names(params)
    if precision == "groups":
        alphas = jax.tree.map(lambda leaf: 0.5 if leaf.ndim == 1 else 2.0, params)
    exact = jg.posterior(problem, params, prior_precision=alphas, noise=0.1)
    found = jg.posterior(problem, params, prior_precision=alphas, noise=0.1, memory=MEMORY)
    assert (exact.plan.way, found.plan.way) == ("rows", "low rank")
    assert exact.missed == 0
    assert found.missed < 1e-6 * found.num_effective
    for name in ("num_effective", "log_evidence"):
        close(getattr(found, name), getattr(exact, name))
    close(found.predict(NEW).standard_deviation, np.asarray(exact.predict(NEW).standard_deviation), 1e-7)
    for one, other in zip(
        jax.tree.leaves(found.standard_errors()), jax.tree.leaves(exact.standard_errors()), strict=True
    ):
        close(one, other)
    index = slice(3, 7)
    first = found.covariance(lambda net: net.layers[0].weight)[index, index]
    close(first, exact.covariance(lambda net: net.layers[0].weight)[index, index])


def test_precisions_from_the_evidence():
    problem, params = fitted()
    exact = jg.posterior(problem, params, prior_precision="evidence")
    found = jg.posterior(problem, params, prior_precision="evidence", memory=MEMORY)
    assert found.converged
    for name in ("noise", "num_effective", "log_evidence"):
        close(getattr(found, name), getattr(exact, name), 1e-6)


def test_too_few_directions_are_counted_and_never_narrow():
    """What is missing of γ is estimated, and each error bar is at least the exact one."""
    rng = np.random.default_rng(1)
    features = jnp.asarray(rng.normal(size=(400, 420)))
    problem = jg.Problem(lambda w, x: w @ x, features, jg.L2(jnp.asarray(rng.normal(size=400))))
    params = jnp.asarray(0.1 * rng.normal(size=420))
    exact = jg.posterior(problem, params, prior_precision=1.0, noise=1.0)
    with pytest.warns(UserWarning, match="64 leading directions, as many as were tried"):
        found = jg.posterior(problem, params, prior_precision=1.0, noise=1.0, memory=MEMORY)
    assert found.plan.way == "low rank"
    lacking = exact.num_effective - found.num_effective
    assert 0 < lacking <= found.missed
    assert (np.asarray(found.standard_errors()) >= np.asarray(exact.standard_errors()) * (1 - 1e-12)).all()
    new = jnp.asarray(rng.normal(size=(5, 420)))
    assert (found.predict(new).standard_deviation >= exact.predict(new).standard_deviation * (1 - 1e-12)).all()


def test_classes():
    labels = jnp.asarray((np.sin(3 * X[:, 0]) > 0).astype(int))
    network = jg.equations.Network((1, 100, 2), jnp.float64, key=jax.random.key(0))
    problem, params = jg.supervised(network, jnp.asarray(X), jg.SoftmaxCrossEntropy.from_labels(labels, num_classes=2))
    exact = jg.posterior(problem, params, prior_precision=1.0)
    found = jg.posterior(problem, params, prior_precision=1.0, memory=MEMORY)
    assert (exact.plan.way, found.plan.way) == ("columns", "low rank")
    close(found.predict(NEW).probabilities, np.asarray(exact.predict(NEW).probabilities), 1e-7)


def test_a_slope_by_the_inputs():
    problem, params = fitted()
    found = jg.posterior(problem, params, prior_precision=0.5, noise=0.1, memory=MEMORY)

    def deviation(x):
        return found.predict(x[None, None]).standard_deviation[0, 0]

    slope = float(jax.grad(deviation)(jnp.array(0.3)))
    assert slope == pytest.approx(float(deviation(jnp.array(0.3001)) - deviation(jnp.array(0.2999))) / 2e-4, rel=1e-5)


def test_what_does_not_fit_is_refused():
    problem, params = fitted()
    with pytest.raises(MemoryError, match="by 16 leading directions; only 1 MiB may be used"):
        jg.posterior(problem, params, prior_precision=0.5, memory=2**20)
    with pytest.raises(ValueError, match="the data fix about"):
        jg.posterior(problem, params, prior_precision=0.5, noise=0.1, memory=MEMORY).unfixed_directions()
