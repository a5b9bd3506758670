"""Error bars against dense float64 oracles: by rows and by columns, with and without a prior, in each kind of cost."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgeo as jg
from jaxgeo.linalg.covariance import cross
from jaxgeo.uncertainty import estimation, leaf_names
from jaxgeo.uncertainty.plan import plan_posterior

RNG = np.random.default_rng(0)
INPUTS, NEW = RNG.normal(size=(6, 2)), RNG.normal(size=(5, 2))
TARGETS = RNG.normal(size=(6, 2))


class Network(eqx.Module):
    """tanh network with biases; `scale` is there to be frozen."""

    def __call__(self, params, x):
        hidden = jnp.tanh(params["w"] @ x + params["b"])
        return params["v"] @ hidden * params["scale"]


def parameters(width):
    rng = np.random.default_rng(1)
    shapes = {"w": (width, 2), "b": (width,), "v": (2, width), "scale": ()}
    return {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}


TRAINABLE = {"w": True, "b": True, "v": True, "scale": False}
# K = 10 below QN = 12, and 30 above.
WIDTHS = {"columns": 2, "rows": 6}


def problem(cost=None, inputs=INPUTS):
    return jg.Problem(
        Network(), jnp.asarray(inputs), jg.L2(jnp.asarray(TARGETS)) if cost is None else cost, trainable=TRAINABLE
    )


def jacobian(params, inputs):
    """(N, Q, K) of the trainable leaves, in the order b, v, w."""
    _, unravel = jax.flatten_util.ravel_pytree({name: params[name] for name in "bvw"})
    flat, _ = jax.flatten_util.ravel_pytree({name: params[name] for name in "bvw"})

    def outputs(flat, x):
        return Network()(unravel(flat) | {"scale": params["scale"]}, x)

    return np.asarray(jax.vmap(jax.jacfwd(outputs), in_axes=(None, 0))(flat, jnp.asarray(inputs)))


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def outputs(params, inputs):
    return np.asarray(jax.vmap(Network(), in_axes=(None, 0))(params, jnp.asarray(inputs)))


def close(found, expected, tolerance=1e-8):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


PRIORS = {"one": 0.7, "leaves": {"w": 0.3, "b": 2.0, "v": 0.7, "scale": 0.0}}


def of_columns(prior, params):
    values = prior if isinstance(prior, dict) else dict.fromkeys("bvw", prior)
    return np.concatenate([np.full(params[name].size, values[name]) for name in "bvw"])


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("side", WIDTHS)
def test_rows_and_columns_equal_the_dense_formula(side, prior):
    params = parameters(WIDTHS[side])
    found = jg.posterior(problem(), params, prior_precision=PRIORS[prior], noise=0.3)
    assert found.plan.takes_rows == (side == "rows")
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


def test_both_ways_are_one(monkeypatch):
    """The way that is not the shorter one gives the same numbers."""
    params = parameters(2)
    columns = jg.posterior(problem(), params, prior_precision=0.7)
    monkeypatch.setattr(
        estimation, "plan_posterior", lambda *args, **options: by_rows(plan_posterior(*args, **options))
    )
    rows = jg.posterior(problem(), params, prior_precision=0.7)
    assert not columns.plan.takes_rows
    assert rows.plan.takes_rows
    for name in ("noise", "num_effective", "log_evidence"):
        close(getattr(rows, name), getattr(columns, name), 1e-11)
    close(rows.covariance(), columns.covariance(), 1e-11)
    close(rows.predict(NEW).covariance, np.asarray(columns.predict(NEW).covariance), 1e-11)


def by_rows(plan):
    return dataclasses.replace(plan, takes_rows=True)


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


@pytest.mark.parametrize("chunk", [1, 2, 5])
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
    assert found.plan.takes_rows
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


def design(x):
    return np.stack([np.ones_like(x), x, x**2], axis=1)


class Polynomial(eqx.Module):
    def __call__(self, params, x):
        return params @ jnp.stack([jnp.ones_like(x), x, x**2])


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
    assert found.plan.takes_rows == (num_samples == 2)
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
    sigma = np.linalg.inv(d.T @ d / 0.09 + np.diag(alphas))
    close(found.covariance(), sigma, 1e-7)
    close(found.num_effective, np.sum(1 - alphas * np.diag(sigma)), 1e-7)
    assert found.log_evidence is None
    with pytest.raises(ValueError, match="on some parameters only, `noise`"):
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


WEIGHTS = np.array([1, 2, 1, 3, 0, 1])
REPEATED = np.repeat(np.arange(6), WEIGHTS)


@pytest.mark.parametrize(("side", "prior"), [("columns", None), ("columns", 0.7), ("rows", 0.7)])
def test_a_weight_of_two_is_the_row_twice(side, prior):
    """To round-off, for K below and above QN: also in the degrees of freedom, the noise and the evidence."""
    params = parameters(WIDTHS[side])
    weighted = jg.SampleWeighted(jg.L2(jnp.asarray(TARGETS)), jnp.asarray(WEIGHTS, float))
    one = jg.posterior(problem(weighted), params, prior_precision=prior)
    twice = jg.posterior(
        problem(jg.L2(jnp.asarray(TARGETS[REPEATED])), INPUTS[REPEATED]), params, prior_precision=prior
    )
    for name in ("num_observations", "num_effective", "degrees_of_freedom", "noise"):
        close(getattr(one, name), getattr(twice, name), 1e-11)
    if prior is not None:
        close(one.log_evidence, twice.log_evidence, 1e-11)
    close(flat(one.standard_errors()), flat(twice.standard_errors()), 1e-9)
    close(one.predict(NEW).covariance, np.asarray(twice.predict(NEW).covariance), 1e-9)


def test_weights_of_squares_are_precisions_of_targets():
    """n counts targets, and the noise is that of a target of weight 1: sigma of SciPy, without `absolute_sigma`."""
    params, deviations = parameters(2), np.linspace(0.5, 2, 12).reshape(6, 2)
    found = jg.posterior(problem(jg.WeightedL2(jnp.asarray(TARGETS), jnp.asarray(deviations**-2))), params)
    d = jacobian(params, INPUTS).reshape(12, -1) / deviations.reshape(-1, 1)
    residual = (outputs(params, INPUTS) - TARGETS).ravel() / deviations.ravel()
    rank = np.linalg.matrix_rank(d)
    assert rank == 10
    close(found.noise**2, residual @ residual / 2)
    close(found.covariance(), found.noise**2 * np.linalg.inv(d.T @ d), 1e-7)


def test_what_the_data_do_not_fix_is_infinite_and_named():
    """a and b only as their sum, c not at all, d alone."""

    def apply(params, x):
        return (params["a"] + params["b"]) * x + 0 * params["c"][1] + params["c"][0] + params["d"]

    x = np.linspace(0, 1, 8)
    params = {"a": jnp.array(1.0), "b": jnp.array(2.0), "c": jnp.zeros(2), "d": jnp.array(0.5)}
    model = jg.Problem(apply, jnp.asarray(x), jg.L2(jnp.asarray(3 * x + 0.5 + 0.1 * np.cos(9 * x))))
    keep = {"a": True, "b": True, "c": True, "d": False}
    model = eqx.tree_at(lambda problem: problem.trainable, model, keep)
    found = jg.posterior(model, params)
    assert found.unfixed() == ["['a']", "['b']", "['c'][1]"]
    errors = found.standard_errors()
    assert np.isinf([errors["a"], errors["b"], errors["c"][1]]).all()
    phi = np.stack([x, np.ones(8)], axis=1)
    residual = phi @ [3.0, 0.0] - np.asarray(3 * x + 0.5 + 0.1 * np.cos(9 * x)) + 0.5
    sigma = residual @ residual / 6 * np.linalg.inv(phi.T @ phi)
    close(errors["c"][0] ** 2, sigma[1, 1])
    assert found.num_effective == 2
    directions = {frozenset(direction) for direction in found.unfixed_directions()}
    assert len(directions) == 2
    assert frozenset.union(*directions) == {"['a']", "['b']", "['c'][1]"}
    # The sum is fixed, so that predictions are finite.
    new = np.stack([np.array([0.2, 2.0]), np.ones(2)], axis=1)
    close(found.predict(jnp.array([0.2, 2.0])).standard_deviation ** 2, np.sum(new @ sigma * new, axis=1))
    lost = found.predict(jnp.array([0.2, 2.0]), lambda params, x: params["a"] * x).standard_deviation
    assert np.isinf(lost).all()
    # With a prior they are as wide as that, and still named.
    vague = jg.posterior(model, params, prior_precision=1e-4, noise=0.1)
    assert vague.unfixed() == ["['c'][1]"]
    (first, second) = vague.unfixed_directions()
    close(vague.standard_errors()["c"][1], 100.0)
    assert {*first, *second} == {"['a']", "['b']", "['c'][1]"}


def test_blocks_with_a_noise_of_their_own():
    """Residuals and data: an unknown coefficient of −k u″ = 1 with u(0) = u(1) = 0, seen through u at some points."""

    def field(params, x):
        basis = jnp.sin(jnp.pi * jnp.arange(1.0, 4.0) * x)
        return params["u"] @ basis

    def residual(params, x):
        return -params["k"] * jax.grad(jax.grad(field, 1), 1)(params, x) - 1

    def miss(params, point):
        return field(params, point[0]) - point[1]

    inside, seen = np.linspace(0.1, 0.9, 7), np.linspace(0.2, 0.8, 4)
    data = np.stack([seen, seen * (1 - seen) / 2 + 0.01 * np.cos(50 * seen)], axis=1)
    model = jg.residual_problem([(residual, jnp.asarray(inside), 1.0), (miss, jnp.asarray(data), 100.0)])
    params = {"k": jnp.array(1.1), "u": jnp.array([0.12, 0.01, 0.005])}
    found = jg.posterior(model, params, noise=(0.2, 0.01))

    def rows(function, points, noise):
        tree = jax.vmap(jax.jacfwd(function), in_axes=(None, 0))(params, jnp.asarray(points))
        return np.concatenate([np.asarray(tree["k"])[:, None], np.asarray(tree["u"])], axis=1) / noise

    d = np.concatenate([rows(residual, inside, 0.2), rows(miss, data, 0.01)])
    sigma = np.linalg.inv(d.T @ d)
    close(found.standard_errors()["k"], np.sqrt(sigma[0, 0]))
    close(found.covariance(), sigma)
    prediction = found.predict(jnp.array([0.25, 0.5]), field)
    j = rows(field, np.array([0.25, 0.5]), 1.0)
    close(prediction.standard_deviation**2, np.sum(j @ sigma * j, axis=1))
    with pytest.raises(ValueError, match="a noise of its own"):
        prediction.interval()
    with pytest.raises(ValueError, match="2 blocks.*`apply`"):
        found.predict(jnp.array([0.25]))
    # By rows, too, of a prior on more parameters than rows: one more block of the same kind.
    wide = params | {"u": jnp.asarray(np.random.default_rng(2).normal(size=12) / np.arange(1, 13) ** 3)}

    def wide_field(params, x):
        return params["u"] @ jnp.sin(jnp.pi * jnp.arange(1.0, 13.0) * x)

    def sloped(params, x):
        return params["k"] * wide_field(params, x) - x

    def wide_miss(params, point):
        return wide_field(params, point[0]) - point[1]

    few = jg.residual_problem([(sloped, jnp.asarray(inside), 1.0), (wide_miss, jnp.asarray(data), 9.0)])
    by_rows = jg.posterior(few, wide, prior_precision=2.0, noise=(0.2, 0.05))
    assert by_rows.plan.takes_rows

    def gradients(function, points, noise):
        tree = jax.vmap(jax.jacfwd(function), in_axes=(None, 0))(wide, jnp.asarray(points))
        return np.concatenate([np.asarray(tree["k"])[:, None], np.asarray(tree["u"])], axis=1) / noise

    d = np.concatenate(
        [gradients(block.apply, block.inputs, noise) for block, noise in zip(few.blocks, (0.2, 0.05), strict=True)]
    )
    sigma = np.linalg.inv(d.T @ d + 2 * np.eye(13))
    close(by_rows.covariance(), sigma)
    j = gradients(wide_field, np.array([0.25, 0.5]), 1.0)
    close(by_rows.predict(jnp.array([0.25, 0.5]), wide_field).standard_deviation ** 2, np.sum(j @ sigma * j, axis=1))


@pytest.mark.parametrize("side", WIDTHS)
def test_classes(side):
    """Curvature diag(p) − ppᵀ, and what a softmax sees of the logits; for two classes MacKay's formula."""
    params = parameters(WIDTHS[side])
    labels, weights = np.array([0, 1, 1, 0, 1, 0]), np.array([1.0, 2.0, 1.0, 0.5, 0.0, 1.0])
    cost = jg.SampleWeighted(jg.SoftmaxCrossEntropy.from_labels(labels), jnp.asarray(weights))
    found = jg.posterior(problem(cost), params, prior_precision=0.7)
    logits = outputs(params, INPUTS)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    d = jacobian(params, INPUTS)
    curvature = np.einsum("n,nq,qr->nqr", weights, p, np.eye(2)) - np.einsum("n,nq,nr->nqr", weights, p, p)
    alphas = of_columns(0.7, params)
    hessian = np.einsum("nqk,nqr,nrl->kl", d, curvature, d) + np.diag(alphas)
    close(found.covariance(), np.linalg.inv(hessian))
    theta = flat({name: params[name] for name in "bvw"})
    log = np.sum(weights * np.log(p[np.arange(6), labels])) - 0.5 * 0.7 * theta @ theta
    log += 0.5 * np.sum(np.log(alphas)) - 0.5 * np.linalg.slogdet(hessian)[1]
    close(found.log_evidence, log)
    assert found.noise is None
    prediction = found.predict(NEW)
    j = jacobian(params, NEW)
    difference = j[:, 1] - j[:, 0]
    variance = np.einsum("mk,kl,ml->m", difference, np.linalg.inv(hessian), difference)
    mean = np.diff(outputs(params, NEW), axis=1)[:, 0]
    expected = 1 / (1 + np.exp(-mean / np.sqrt(1 + np.pi / 8 * variance)))
    close(prediction.probabilities[:, 1], expected)
    close(prediction.plain_probabilities[:, 1], 1 / (1 + np.exp(-mean)), 1e-13)


def test_intervals_of_an_estimated_noise_are_those_of_student():
    """Of three degrees of freedom: P(|t| ≤ 2.3534) = 0.9, by the tables."""
    x = np.linspace(0, 1, 6)
    model = jg.Problem(Polynomial(), jnp.asarray(x), jg.L2(jnp.asarray(np.cos(5 * x))))
    theta = np.linalg.lstsq(design(x), np.cos(5 * x), rcond=None)[0]
    prediction = jg.posterior(model, jnp.asarray(theta)).predict(jnp.asarray(x))
    low, high = prediction.interval(0.9, observed=False)
    close((high - low) / (2 * prediction.standard_deviation), np.full(6, 2.35336343), 1e-8)


def test_float32_parameters_with_x64_off():
    """Sums in float64: as accurate as D in float32, also by rows, whose formula cancels; with derivatives."""
    params = parameters(6)
    d, j = jacobian(params, INPUTS).reshape(12, -1), jacobian(params, NEW)
    expected = np.einsum("mqk,kl,mpl->mqp", j, np.linalg.inv(d.T @ d / 1e-4 + 0.7 * np.eye(d.shape[1])), j)
    single = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params)
    with jax.enable_x64(False):
        model = jg.Problem(
            Network(), jnp.asarray(INPUTS, jnp.float32), jg.L2(jnp.asarray(TARGETS, jnp.float32)), trainable=TRAINABLE
        )
        found = jg.posterior(model, jax.tree.map(jnp.asarray, single), prior_precision=0.7, noise=0.01)
        new = jnp.asarray(NEW, jnp.float32)
        prediction = found.predict(new)
        assert prediction.covariance.dtype == jnp.float32
        close(np.asarray(prediction.covariance, float), expected, 1e-4)
        slope = jax.grad(lambda x: jnp.sum(found.predict(x).standard_deviation))(new)
        assert np.isfinite(np.asarray(slope)).all()


def test_too_little_memory_is_said_beforehand():
    with pytest.raises(MemoryError, match="30 parameters from 12 rows.*by columns.*`prior_precision`"):
        jg.posterior(problem(), parameters(6), noise=0.1, memory=1000)
    with pytest.raises(MemoryError, match="by columns and .* by rows"):
        jg.posterior(problem(), parameters(6), noise=0.1, prior_precision=1.0, memory=1000)


def test_a_table_of_parameters():
    found = jg.posterior(problem(), parameters(2), prior_precision=0.7, noise=0.3)
    text = str(found)
    assert "of K = 10; noise 0.3 (given)" in text
    assert "['b'][0]" in text
    assert "→ by columns" in str(found.plan)


REFUSED = {
    "Huber": (lambda: jg.posterior(problem(jg.Huber(jnp.asarray(TARGETS))), parameters(2)), "likelihood.*`Huber`"),
    "no degrees": (lambda: jg.posterior(problem(), parameters(6)), "12 observations and .* leave nothing"),
    "noise of classes": (
        lambda: jg.posterior(
            problem(jg.SoftmaxCrossEntropy.from_labels(np.arange(6) % 2)), parameters(2), noise=1.0, prior_precision=1.0
        ),
        "`noise`.*class labels",
    ),
    "noise": (lambda: jg.posterior(problem(), parameters(2), noise=-1.0), "`noise` must be positive.*-1"),
    "noise of blocks": (lambda: jg.posterior(problem(), parameters(2), noise=(1.0, 2.0)), "`noise`.*2 for 1 blocks"),
    "prior": (lambda: jg.posterior(problem(), parameters(2), prior_precision=-1.0), "`prior_precision`.*-1"),
    "prior by name": (
        lambda: jg.posterior(problem(), parameters(2), prior_precision="best"),
        "`prior_precision`.*best",
    ),
    "prior of another shape": (
        lambda: jg.posterior(problem(), parameters(2), prior_precision={"q": 1.0}),
        "`prior_precision` must be shaped",
    ),
    "groups alone": (lambda: jg.posterior(problem(), parameters(2), groups={"w": 1}), "`groups`.*evidence"),
    "level": (
        lambda: jg.posterior(problem(), parameters(2), noise=1.0).predict(NEW).interval(1.5),
        "`level` must be a number.*1.5",
    ),
    "where": (lambda: jg.posterior(problem(), parameters(2), noise=1.0).covariance(lambda p: p["scale"]), "`where`"),
    "met exactly": (
        lambda: jg.posterior(
            problem(jg.L2(jnp.zeros((6, 2)))), parameters(2) | {"scale": jnp.array(0.0)}, prior_precision=1.0
        ),
        "exactly.*`noise`",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        call()
