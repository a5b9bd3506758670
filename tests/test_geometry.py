"""Projectors against the singular value decomposition of the dense D."""

import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxgeo as jg
from cases.problems import BORDERLINE, OVER, UNDER, cases, random_like


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in ("linear over", "linear under")))
        for name in [*OVER, *UNDER, *BORDERLINE, "frozen"]
    ],
)
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
