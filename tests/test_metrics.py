"""Costs other than L2 and metrics on output space, against JAX's derivatives and dense algebra."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import jacobian_matrix

import jaxgeo as jg
from jaxgeo.linalg import SVD
from jaxgeo.metrics import CostHessian, Euclidean, MatrixMetric, Weighted

RANDOM = np.random.default_rng(7)
OUTPUTS = jnp.asarray(RANDOM.normal(size=(4, 3)))
TARGETS = jnp.asarray(RANDOM.normal(size=(4, 3)))
PROBABILITIES = jax.nn.softmax(TARGETS, axis=1)

COSTS = {
    "L2": jg.L2(TARGETS),
    "weighted": jg.WeightedL2(TARGETS, jnp.asarray(RANDOM.uniform(0.1, 3, size=(4, 3)))),
    "huber": jg.Huber(TARGETS, 0.5),
    "softmax": jg.SoftmaxCrossEntropy(PROBABILITIES),
    "labels": jg.SoftmaxCrossEntropy.from_labels(np.array([0, 2, 1, 1]), num_classes=3, smoothing=0.1),
    "samples": jg.SampleWeighted(jg.SoftmaxCrossEntropy(PROBABILITIES), jnp.array([1.0, 0.0, 2.0, 0.5])),
    "squares": jg.SumOfSquares(4),
}
each_cost = pytest.mark.parametrize("cost", COSTS.values(), ids=COSTS.keys())


@eqx.filter_jit
def factor_matrix(factor, outputs):
    """L of each sample as a matrix (N, R, Q), and its dual."""
    eye = jnp.eye(outputs.shape[1])
    apply = jax.vmap(lambda factor: jax.vmap(factor, out_axes=1)(eye))
    dual = jax.vmap(lambda factor: jax.vmap(factor.dual, out_axes=1)(eye))
    return apply(factor), dual(factor)


@each_cost
def test_gradient_is_the_derivative(cost):
    np.testing.assert_allclose(cost.gradient(OUTPUTS), jax.jit(jax.grad(cost))(OUTPUTS), atol=1e-14)


@each_cost
def test_decrease_is_the_difference_of_costs(cost):
    moved = OUTPUTS + 0.3 * TARGETS[::-1]
    np.testing.assert_allclose(cost.decrease(OUTPUTS, moved), cost(OUTPUTS) - cost(moved), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(jnp.sum(cost.values(OUTPUTS)) / cost.total_weight, cost(OUTPUTS), rtol=1e-14)


@pytest.mark.parametrize("name", ["L2", "weighted", "huber"])
def test_decrease_keeps_its_digits_where_costs_agree(name):
    cost = COSTS[name]
    small = 1e-13 * jnp.ones_like(OUTPUTS)
    expected = -jnp.sum(cost.gradient(OUTPUTS) * ((OUTPUTS + small) - OUTPUTS))
    np.testing.assert_allclose(cost.decrease(OUTPUTS, OUTPUTS + small), expected, rtol=1e-10)


@each_cost
def test_curvature_is_the_hessian_or_majorises_it(cost):
    factor = cost.curvature(OUTPUTS)
    hessian = np.asarray(jax.jit(jax.hessian(cost))(OUTPUTS)) * np.asarray(cost.total_weight)
    blocks = np.stack([hessian[j, :, j, :] for j in range(4)])
    if factor is None:
        np.testing.assert_allclose(blocks, np.broadcast_to(np.eye(3), blocks.shape), atol=1e-12)
        return
    matrix, _ = factor_matrix(factor, OUTPUTS)
    ours = np.einsum("nrq,nrp->nqp", matrix, matrix)
    if isinstance(cost, jg.Huber):
        assert np.linalg.eigvalsh(ours - blocks).min() > -1e-12
        far = OUTPUTS + 5 * RANDOM.normal(size=OUTPUTS.shape)
        step = far - OUTPUTS
        quadratic = jnp.sum(cost.gradient(OUTPUTS) * step) + 0.5 * np.einsum("nq,nqp,np", step, ours, step) / 4
        assert cost(far) - cost(OUTPUTS) <= quadratic + 1e-12
    else:
        np.testing.assert_allclose(ours, blocks, atol=1e-12)


METRICS = {
    "hessian": CostHessian(),
    "weighted": Weighted(jnp.array([1.0, 2.0, 5.0])),
    "matrix": MatrixMetric(np.array([[2.0, 0.3, 0.0], [0.3, 1.0, 0.1], [0.0, 0.1, 3.0]])),
}


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS.keys())
def test_dual_gives_the_gradient_in_the_metric(metric):
    """L⁺(Lᵀ)⁺g = (LᵀL)⁺g."""
    cost = COSTS["softmax"]
    matrix, dual = factor_matrix(metric.root(cost, OUTPUTS), OUTPUTS)
    gradient = np.asarray(cost.gradient(OUTPUTS))
    for lower, transposed, row in zip(matrix, dual, gradient, strict=True):
        expected = np.linalg.pinv(lower.T @ lower, rcond=1e-12) @ row
        np.testing.assert_allclose(np.linalg.pinv(lower) @ (transposed @ row), expected, atol=1e-12)


def test_softmax_factor_has_full_rank_without_the_null_direction():
    matrix, _ = factor_matrix(COSTS["softmax"].curvature(OUTPUTS), OUTPUTS)
    assert matrix.shape == (4, 2, 3)
    np.testing.assert_allclose(matrix @ np.ones(3), 0, atol=1e-15)
    assert np.linalg.svd(matrix, compute_uv=False).min() > 1e-2


def test_cross_entropy_stays_accurate_and_finite():
    cost = jg.SoftmaxCrossEntropy(np.eye(2))

    @jax.jit
    def parts(outputs):
        return cost(outputs), cost.gradient(outputs), cost(-outputs), factor_matrix(cost.curvature(outputs), outputs)[1]

    value, gradient, other, factor = parts(np.array([[40.0, 0.0], [-3.0, 900.0]]))
    np.testing.assert_allclose(value, 0.5 * np.exp(-40), rtol=1e-12)
    np.testing.assert_allclose(gradient[0, 0], -0.5 * np.exp(-40), rtol=1e-12)
    assert np.isfinite(other)
    assert np.isfinite(factor).all()


def network(params, x):
    return params["w"] @ jnp.tanh(x * params["v"])


PARAMS = {"w": jnp.asarray(RANDOM.normal(size=(3, 5))), "v": jnp.asarray(RANDOM.normal(size=5))}


@pytest.mark.parametrize(
    ("metric", "size"),
    [
        (METRICS["hessian"], 2),
        pytest.param(Euclidean(), 2, marks=pytest.mark.slow),
        pytest.param(METRICS["hessian"], 12, marks=pytest.mark.slow),
        *(
            pytest.param(METRICS[name], size, marks=pytest.mark.slow)
            for name in ("weighted", "matrix")
            for size in (2, 12)
        ),
        pytest.param(Euclidean(), 12, marks=pytest.mark.slow),
    ],
)
def test_the_adapted_direction_in_a_metric(metric, size):
    """Against (DᵀMD + λ)⁻¹∇C in dense algebra, M the metric on R^QN."""
    x = jnp.linspace(-1, 1, size)
    cost = jg.SoftmaxCrossEntropy.from_labels(np.arange(size) % 3, num_classes=3)
    problem = jg.Problem(network, x, cost)
    tx = jg.optim.scale_by_adapted_metric(metric=metric, damping=1e-2, solver=SVD())

    @jax.jit
    def compared(params):
        gradient = jax.grad(problem.cost)(params)
        direction, state = tx.update(gradient, tx.init(params), params, problem=problem)
        flat = jax.flatten_util.ravel_pytree
        return problem.outputs(params), flat(gradient)[0], flat(direction)[0], state.info.cost, problem.cost(params)

    outputs, gradient, direction, told, exact = compared(PARAMS)
    factor = metric.root(cost, outputs)
    d = np.asarray(jacobian_matrix(problem, PARAMS))
    rows = d if factor is None else _rows(factor_matrix(factor, outputs)[0], d)
    shift = 1e-2 * np.sum(rows**2) / len(rows)
    expected = size * np.linalg.solve(rows.T @ rows + shift * np.eye(rows.shape[1]), gradient)
    np.testing.assert_allclose(direction, expected, rtol=1e-8, atol=1e-10)
    assert told == exact


def _rows(matrix, d):
    samples = d.reshape(matrix.shape[0], matrix.shape[2], -1)
    return np.einsum("nrq,nqk->nrk", matrix, samples).reshape(-1, d.shape[1])


@pytest.mark.slow
def test_cross_entropy_with_smoothed_labels_reaches_its_minimum():
    """With smoothed labels the least cost is the entropy of the labels, and softmax(x) = y there."""
    labels = np.array([0, 1, 2])
    cost = jg.SoftmaxCrossEntropy.from_labels(labels, num_classes=3, smoothing=0.2)
    problem = jg.Problem(network, jnp.asarray(np.random.default_rng(1).normal(size=(3, 5))), cost)
    tx = jg.optim.adapted_levenberg_marquardt(solver=SVD())
    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(40):
        updates, state = tx.update(params, state, params, problem=problem)
        params = jax.tree.map(jnp.add, params, updates)
    entropy = -np.sum(cost.targets * np.log(cost.targets)) / 3
    np.testing.assert_allclose(problem.cost(params), entropy, rtol=1e-12)
    np.testing.assert_allclose(jax.nn.softmax(problem.outputs(params), axis=1), cost.targets, atol=1e-7)


@pytest.mark.slow
def test_huber_ignores_an_outlier():
    x = jnp.linspace(0, 1, 11)
    y = (2 * x).at[4].add(50.0)
    problem = jg.Problem(lambda a, x: a * x, x, jg.Huber(y, 1e-3))
    tx = jg.optim.adapted_levenberg_marquardt()
    slope = jnp.array(0.0)
    state = tx.init(slope)
    for _ in range(60):
        updates, state = tx.update(slope, state, slope, problem=problem)
        slope = slope + updates
    np.testing.assert_allclose(slope, 2, atol=1e-3)
    np.testing.assert_allclose(jax.grad(problem.cost)(slope), 0, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jg.WeightedL2(TARGETS, jnp.ones(7)), "weights"),
        (lambda: jg.WeightedL2(TARGETS, -jnp.ones(4)), "weights"),
        (lambda: jg.SampleWeighted(jg.L2(TARGETS), jnp.zeros(4)), "weights"),
        (lambda: jg.SampleWeighted(jg.L2(TARGETS), jnp.ones(3)), "one number per sample"),
        (lambda: jg.Huber(TARGETS, 0.0), "threshold"),
        (lambda: jg.SoftmaxCrossEntropy(TARGETS), "class probabilities"),
        (lambda: jg.SoftmaxCrossEntropy(jnp.ones((3, 1))), "at least 2 classes"),
        (lambda: jg.SoftmaxCrossEntropy.from_labels(np.array([0, 1]), smoothing=1.5), "smoothing"),
        (lambda: Weighted(jnp.array([1.0, 0.0])), "positive"),
        (lambda: MatrixMetric(np.array([[1.0, 2.0], [2.0, 1.0]])), "positive definite"),
        (lambda: MatrixMetric(np.array([[1.0, 2.0], [0.0, 1.0]])), "symmetric"),
        (lambda: Weighted(jnp.ones(2)).root(COSTS["L2"], OUTPUTS), "Q=2"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
