"""Error bars for kinds of data: weights, blocks, classes, unfixed parameters, and refusals."""

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

WEIGHTS = np.array([1, 2, 1, 3, 0, 1])
REPEATED = np.repeat(np.arange(6), WEIGHTS)


@pytest.mark.parametrize(
    ("side", "prior"), [("columns", None), ("columns", 0.7), pytest.param("rows", 0.7, marks=pytest.mark.slow)]
)
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
    assert found.unfixed() == ["a", "b", "c[1]"]
    errors = found.standard_errors()
    assert np.isinf([errors["a"], errors["b"], errors["c"][1]]).all()
    phi = np.stack([x, np.ones(8)], axis=1)
    residual = phi @ [3.0, 0.0] - np.asarray(3 * x + 0.5 + 0.1 * np.cos(9 * x)) + 0.5
    sigma = residual @ residual / 6 * np.linalg.inv(phi.T @ phi)
    close(errors["c"][0] ** 2, sigma[1, 1])
    assert found.num_effective == 2
    directions = {frozenset(direction) for direction in found.unfixed_directions()}
    assert len(directions) == 2
    assert frozenset.union(*directions) == {"a", "b", "c[1]"}
    # The sum is fixed, so that predictions are finite.
    new = np.stack([np.array([0.2, 2.0]), np.ones(2)], axis=1)
    close(found.predict(jnp.array([0.2, 2.0])).standard_deviation ** 2, np.sum(new @ sigma * new, axis=1))
    lost = found.predict(jnp.array([0.2, 2.0]), lambda params, x: params["a"] * x).standard_deviation
    assert np.isinf(lost).all()
    # With a prior they are as wide as that, and still named.
    vague = jg.posterior(model, params, prior_precision=1e-4, noise=0.1)
    assert vague.unfixed() == ["c[1]"]
    (first, second) = vague.unfixed_directions()
    close(vague.standard_errors()["c"][1], 100.0)
    assert {*first, *second} == {"a", "b", "c[1]"}


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
        tree = jax.jit(jax.vmap(jax.jacfwd(function), in_axes=(None, 0)))(params, jnp.asarray(points))
        return np.concatenate([np.asarray(tree["k"])[:, None], np.asarray(tree["u"])], axis=1) / noise

    d = np.concatenate([rows(residual, inside, 0.2), rows(miss, data, 0.01)])
    sigma = np.linalg.inv(d.T @ d)
    close(found.standard_errors()["k"], np.sqrt(sigma[0, 0]))
    close(found.covariance(), sigma)
    prediction = found.predict(jnp.array([0.25, 0.5]), field)
    j = rows(field, np.array([0.25, 0.5]), 1.0)
    close(prediction.standard_deviation**2, np.sum(j @ sigma * j, axis=1))
    with pytest.raises(ValueError, match="its own noise"):
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
    assert by_rows.plan.way == "rows"

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


def test_one_noise_for_several_blocks_is_told():
    inside, data = jnp.linspace(0, 1, 5)[:, None], jnp.linspace(0, 1, 4)[:, None]
    model = jg.residual_problem([(lambda p, x: p["a"] - x[0], inside, 1.0), (lambda p, x: p["b"] * x[0], data, 1.0)])
    params = {"a": jnp.array(0.5), "b": jnp.array(0.1)}
    with pytest.warns(UserWarning, match="estimated from all 2 blocks together"):
        jg.posterior(model, params)


def test_too_little_memory_is_said_beforehand():
    with pytest.raises(MemoryError, match="30 parameters from 12 rows.*by columns.*`prior_precision`"):
        jg.posterior(problem(), parameters(6), noise=0.1, memory=1000)
    with pytest.raises(MemoryError, match="by columns, .* by rows, and .* leading directions"):
        jg.posterior(problem(), parameters(6), noise=0.1, prior_precision=1.0, memory=1000)


def test_a_table_of_parameters():
    found = jg.posterior(problem(), parameters(2), prior_precision=0.7, noise=0.3)
    text = str(found)
    assert "of K = 10; noise 0.3 (given)" in text
    assert "b[0]" in text
    assert "→ by columns" in str(found.plan)


REFUSED = {
    "Huber": (lambda: jg.posterior(problem(jg.Huber(jnp.asarray(TARGETS))), parameters(2)), "likelihood.*`Huber`"),
    "no degrees": (lambda: jg.posterior(problem(), parameters(6)), "12 observations fix .* leave nothing"),
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
        "`prior_precision` must be a pytree prefix",
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
