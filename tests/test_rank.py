"""Ranks, spectra and weak directions against decompositions of the dense D; Lanczos against its error bars."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgeo as jg
from cases.problems import BORDERLINE, DEFICIENT, OVER, UNDER, cases, to_float32
from jaxgeo.geometry import rank as rank_module


@pytest.mark.parametrize("name", [*OVER, *UNDER, *BORDERLINE, *DEFICIENT, "frozen", "two blocks"])
def test_rank_report(name):
    case = cases()[name]
    report = jg.rank_report(case.problem, case.params)
    values = np.linalg.svd(case.dense(), compute_uv=False)
    assert (report.num_rows, report.num_params, report.rank) == (case.num_rows, case.num_params, case.rank)
    assert report.full_rank == (case.rank == min(case.num_rows, case.num_params))
    np.testing.assert_allclose(report.eigenvalues, values**2, rtol=1e-8, atol=1e-13 * values[0] ** 2)
    np.testing.assert_allclose(report.condition, (values[0] / values[case.rank - 1]) ** 2, rtol=1e-7)
    assert f"rank(D) = {case.rank} of" in str(report)


@pytest.mark.parametrize("name", ["linear deficient", "mlp duplicates", "mlp over"])
def test_rank_in_float32(name):
    case = cases()[name]
    report = jg.rank_report(to_float32(case.problem), to_float32(case.params))
    assert report.rank == case.rank


def test_rank_of_zero():
    problem = jg.Problem(lambda a, x: a**2 * x, jnp.ones(2), jg.L2(jnp.zeros(2)))
    report = jg.rank_report(problem, jnp.array(0.0))
    assert report.rank == 0
    assert report.condition == report.gap == float("inf")
    assert report.effective_rank == 0
    np.testing.assert_allclose(report.weak_samples, 0.5)


@pytest.mark.parametrize("name", ["mlp over", "mlp under", "mlp duplicates"])
def test_what_is_read_off_the_spectrum(name):
    case = cases()[name]
    report = jg.rank_report(case.problem, case.params)
    values = np.linalg.svd(case.dense(), compute_uv=False)
    np.testing.assert_allclose(report.effective_rank, np.sum(values**2) ** 2 / np.sum(values**4), rtol=1e-10)
    assert report.regime == ("underparametrized" if name == "mlp under" else "overparametrized")
    if name == "mlp duplicates":
        assert report.gap > 1e10
    else:
        cutoff = np.finfo(float).eps * max(case.num_rows, case.num_params) ** 0.5
        np.testing.assert_allclose(report.gap, values[-1] / values[0] / cutoff, rtol=1e-8)


def test_weak_directions_are_on_the_duplicates():
    """Samples 3 and 4 of 5 repeat 0 and 1, so that their differences are lost, in both outputs alike."""
    case = cases()["mlp duplicates"]
    report = jg.rank_report(case.problem, case.params)
    np.testing.assert_allclose(report.weak_samples, [0.25, 0.25, 0, 0.25, 0.25], atol=1e-9)
    np.testing.assert_allclose(report.weak_outputs, 0.5, atol=1e-9)


def test_weak_direction_of_full_rank_and_of_few_parameters():
    """The weakest left singular vector; and for K < QN what range(D) leaves out."""
    over, under = cases()["mlp over"], cases()["mlp under"]
    left = np.linalg.svd(over.dense())[0]
    weak = jg.rank_report(over.problem, over.params).weak
    np.testing.assert_allclose(np.ravel(weak), left[:, -1] ** 2, atol=1e-8)
    left = np.linalg.svd(under.dense(), full_matrices=False)[0]
    expected = 1 - np.sum(left**2, axis=1)
    weak = jg.rank_report(under.problem, under.params).weak
    np.testing.assert_allclose(np.ravel(weak), expected / expected.sum(), atol=1e-9)


def test_report_where_the_dense_jacobian_is_too_large(monkeypatch):
    monkeypatch.setattr(rank_module, "MOST_ENTRIES", 0)
    for name in ("mlp over", "mlp under", "mlp duplicates"):
        case = cases()[name]
        report = jg.rank_report(case.problem, case.params)
        values = np.linalg.svd(case.dense(), compute_uv=False)
        assert report.rank == case.rank
        assert report.cutoff > 1e-8
        np.testing.assert_allclose(report.eigenvalues, values**2, rtol=1e-7, atol=1e-13 * values[0] ** 2)


def test_small_singular_values_are_real():
    """20 points on a line: cond(DDᵀ) is above 1e26, and D of full rank all the same. The singular values are those of
    D in extended precision, which a one-sided Jacobi method finds to their last digits."""
    if np.finfo(np.longdouble).eps > 1e-18:
        pytest.skip("long doubles are no more precise than doubles on this machine")
    inputs = jnp.linspace(-1, 1, 20)[:, None]
    model = eqx.nn.MLP(1, 1, 16, 2, activation=jnp.tanh, key=jax.random.key(0))
    problem, params = jg.supervised(model, inputs, jnp.sin(inputs))
    report = jg.rank_report(problem, params)
    assert report.rank == 20
    assert report.condition > 1e26
    rows = extended_jacobian(params.layers, np.asarray(inputs))
    exact = jacobi_singular_values(rows)
    assert exact[-1] > report.cutoff * exact[0]
    np.testing.assert_allclose(np.sqrt(report.eigenvalues), exact.astype(float), rtol=1e-2)


def extended_jacobian(layers, inputs):
    """D of a tanh network with one output, by backpropagation in long doubles."""
    weights = [np.asarray(layer.weight, np.longdouble) for layer in layers]
    biases = [np.asarray(layer.bias, np.longdouble) for layer in layers]
    rows = []
    for sample in inputs.astype(np.longdouble):
        values = [sample]
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            values.append(np.tanh(weight @ values[-1] + bias))
        delta, row = np.ones(1, np.longdouble), []
        for weight, value in zip(weights[::-1], values[::-1], strict=True):
            row += [np.outer(delta, value).ravel(), delta]
            delta = (weight.T @ delta) * (1 - value**2)
        rows.append(np.concatenate(row))
    return np.array(rows)


def jacobi_singular_values(rows):
    rows = rows.copy()
    for _ in range(12):
        for i in range(len(rows)):
            for j in range(i + 1, len(rows)):
                across, first, second = rows[i] @ rows[j], rows[i] @ rows[i], rows[j] @ rows[j]
                if across == 0:
                    continue
                slope = (second - first) / (2 * across)
                tangent = (1 if slope >= 0 else -1) / (abs(slope) + np.sqrt(1 + slope**2))
                cosine = 1 / np.sqrt(1 + tangent**2)
                rows[i], rows[j] = cosine * (rows[i] - tangent * rows[j]), cosine * (tangent * rows[i] + rows[j])
    return np.sort(np.sqrt(np.sum(rows**2, axis=1)))[::-1]


@pytest.mark.parametrize("name", ["mlp over", "mlp under", "mlp duplicates"])
def test_partial_ranks(name):
    """(2.12): DDᵀ is a sum of K terms of rank one; each raises the rank by at most one, up to that of DDᵀ. In a random
    order of the parameters the rank is min(k, rank) after k of them, as for the independent directions of Prop. 2.2."""
    case = cases()[name]
    matrix = case.dense()
    order = np.random.default_rng(0).permutation(case.num_params)
    counts = range(case.num_params + 1)
    found = jg.geometry.partial_ranks(case.problem, case.params, counts, order)
    expected = [0, *(np.linalg.matrix_rank(matrix[:, order[:count]]) for count in counts[1:])]
    np.testing.assert_array_equal(found, expected)
    assert set(np.diff(found)) <= {0, 1}
    assert found[-1] == case.rank
    np.testing.assert_array_equal(found, np.minimum(counts, case.rank))
    terms = sum(np.outer(column, column) for column in matrix.T)
    np.testing.assert_allclose(terms, case.problem.gram(case.params).as_matrix(), atol=1e-10)


def test_partial_ranks_that_are_not_generic():
    """x = W a: the columns of D are entries of a times unit vectors, and in order they are not in general position."""
    problem = jg.Problem(lambda weight, x: weight @ x, jnp.array([[1.0, 2.0], [3.0, 6.0]]), jg.L2(jnp.zeros((2, 2))))
    assert jg.geometry.partial_ranks(problem, jnp.ones((2, 2)), [1, 2, 3, 4]).tolist() == [1, 1, 2, 2]


def spectral_problem(num_samples, num_outputs, width):
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.normal(size=(num_samples, 8)))
    model = eqx.nn.MLP(8, num_outputs, width, 2, activation=jnp.tanh, key=jax.random.key(1))
    return jg.supervised(model, inputs, jnp.zeros((num_samples, num_outputs)))


def check_spectrum(problem, params, num_steps, num_probes):
    exact = np.linalg.eigvalsh(np.asarray(problem.gram(params).as_matrix()))[::-1]
    found = jg.geometry.spectrum_estimate(problem, params, num_steps=num_steps, num_probes=num_probes)
    noise = 1e-12 * exact[0]
    distance = np.abs(found.eigenvalues[:, None] - exact).min(axis=1)
    assert (distance <= found.errors + noise).all()
    # From below, place by place; and where the error bars are short, that very eigenvalue.
    assert (found.eigenvalues <= exact[: len(found.eigenvalues)] + noise).all()
    sharp = np.cumprod(found.errors <= 1e-6 * exact[0]).astype(bool)
    assert sharp.sum() >= 5
    differences = np.abs(found.eigenvalues - exact[: len(found.eigenvalues)])[sharp]
    assert (differences <= found.errors[sharp] + noise).all()
    scores = []
    for function in (lambda x: x, lambda x: x**2, lambda x: np.log1p(np.maximum(x, 0)), np.ones_like):
        estimate, true = found.sum_of(function), np.sum(function(exact))
        scores.append(abs(estimate.value - true) / (estimate.error + 1e-9 * true))
    effective = exact.sum() ** 2 / np.sum(exact**2)
    scores.append(abs(found.effective_rank.value - effective) / found.effective_rank.error)
    print("sharp eigenvalues", sharp.sum(), "largest difference", differences.max() / exact[0], "in errors", scores)
    # Means of few probes have wide tails: 5 standard errors.
    assert max(scores) < 5


def test_lanczos_within_its_error_bars():
    check_spectrum(*spectral_problem(30, 3, 16), num_steps=30, num_probes=16)


@pytest.mark.slow
@pytest.mark.parametrize(("num_samples", "num_outputs"), [(128, 4), (512, 8)])
def test_lanczos_within_its_error_bars_for_large_spectra(num_samples, num_outputs):
    """QN = 512 and 4096."""
    check_spectrum(*spectral_problem(num_samples, num_outputs, 64), num_steps=60, num_probes=8)


def test_lanczos_ends_where_the_krylov_space_does():
    """Two distinct eigenvalues: two steps say it all, and more do no harm."""
    problem = jg.Problem(lambda a, x: a * x, jnp.diag(jnp.array([2.0, 2.0, 1.0])), jg.L2(jnp.zeros((3, 3))))
    found = jg.geometry.spectrum_estimate(problem, jnp.ones(3), num_steps=9, num_probes=3)
    np.testing.assert_allclose(found.eigenvalues, [4, 1, 0], atol=1e-9)
    for function, expected in ((lambda x: x, 9.0), (lambda x: x**2, 33.0), (lambda x: x > 2.0, 2.0)):
        np.testing.assert_allclose(found.sum_of(function).value, expected, atol=1e-9)


@pytest.mark.slow
def test_estimates_are_unbiased():
    """Over many seeds the mean of Σλ² comes to the true one, by as much as the stated errors say."""
    problem, params = spectral_problem(6, 2, 8)
    true = np.sum(np.linalg.eigvalsh(np.asarray(problem.gram(params).as_matrix())) ** 2)
    found = [
        jg.geometry.spectrum_estimate(problem, params, num_steps=3, num_probes=4, seed=seed).sum_of(lambda x: x**2)
        for seed in range(100)
    ]
    values, errors = np.array([each.value for each in found]), np.array([each.error for each in found])
    assert abs(values.mean() - true) < 4 * values.std() / 10
    assert 0.5 < np.sqrt(np.mean(errors**2)) / values.std() < 1.5


def test_no_probes_are_refused():
    problem, params = spectral_problem(6, 2, 8)
    with pytest.raises(ValueError, match="`num_probes`.*at least 1; got 0"):
        jg.geometry.spectrum_estimate(problem, params, num_probes=0)
