"""Projectors and ranks against the singular value decomposition of the dense D."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from problems import BORDERLINE, CASES, OVER, UNDER, cases, random_like, to_float32

import jaxgeo as jg


@pytest.mark.parametrize("name", [*OVER, *UNDER, *BORDERLINE, "frozen"])
def test_projections(name):
    """(2.3) and (5.4)."""
    case = cases()[name]
    left, _, right = np.linalg.svd(case.dense(), full_matrices=False)
    velocity = random_like(case.params)
    moved = ravel_pytree(case.problem.partition(velocity)[0])[0]
    projected = jg.geometry.horizontal_projection(case.problem, case.params, velocity)
    found = ravel_pytree(case.problem.partition(projected)[0])[0]
    np.testing.assert_allclose(found, right.T @ (right @ moved), atol=1e-9)
    outputs = random_like(case.problem.outputs(case.params))
    found = jg.geometry.output_projection(case.problem, case.params, outputs)
    np.testing.assert_allclose(np.ravel(found), left @ (left.T @ np.ravel(outputs)), atol=1e-9)


def test_projections_at_rank_loss_with_a_solver_for_it():
    case = cases()["mlp duplicates"]
    left = np.linalg.svd(case.dense())[0][:, : case.rank]
    outputs = random_like(case.problem.outputs(case.params))
    found = jg.geometry.output_projection(case.problem, case.params, outputs, jg.linalg.SVD())
    np.testing.assert_allclose(np.ravel(found), left @ (left.T @ np.ravel(outputs)), atol=1e-9)


@pytest.mark.parametrize("name", CASES)
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
    assert report.condition == float("inf")
