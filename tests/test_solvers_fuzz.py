"""Random problems of every kind: no NaN comes out, nothing is raised, and the reports are true."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cases.matrices import jacobian_of
from jaxgeo.linalg import QR, SVD, Auto, DenseCholesky, GramCholesky, GramEigh, NormalCholesky, SmoothCutoff
from jaxgeo.linalg.solvers.base import _shortened

SHAPES = [(1, 1), (3, 8), (8, 8), (12, 5)]
DTYPES = [np.float32, np.float64]
SOLVERS = [
    Auto(),
    GramCholesky(),
    GramCholesky(dense_fallback=True),
    GramEigh(),
    DenseCholesky(),
    QR(),
    SVD(SmoothCutoff()),
    NormalCholesky(chunk_size=5),
]


def random_matrix(rng, shape, dtype):
    """Any spectrum and any scale; every fourth has duplicated rows, and some are zero."""
    side = min(shape)
    left = np.linalg.qr(rng.standard_normal((shape[0], side)))[0]
    right = np.linalg.qr(rng.standard_normal((shape[1], side)))[0]
    values = 10 ** -rng.uniform(0, rng.choice([0.1, 4.0, 14.0]), side)
    values[rng.uniform(size=side) < rng.choice([0, 0.3])] = 0
    matrix = (left * values) @ right.T
    if rng.uniform() < 0.25:
        matrix[-1] = matrix[0]
    return (matrix * 10 ** rng.uniform(-12, 12)).astype(dtype)


def check(solver, shape, dtype, count, damped, seed):
    rng = np.random.default_rng(seed)
    matrices = np.stack([random_matrix(rng, shape, dtype) for _ in range(count)])
    rows = (rng.standard_normal((count, shape[0])) * 10 ** rng.uniform(-3, 3, (count, 1))).astype(dtype)
    damping = (10 ** rng.uniform(-16, 2, count)).astype(dtype)

    def one(matrix, row, damping):
        value, info = solver.solve(jacobian_of(matrix), row.reshape(-1, 1), damping if damped else None)
        return value, info

    values, info = jax.jit(jax.vmap(one))(jnp.asarray(matrices), jnp.asarray(rows), jnp.asarray(damping))
    values, outcomes = np.asarray(values, np.float64), np.asarray(info.outcome)
    assert values.dtype == np.float64
    assert np.isfinite(values).all()
    assert np.isfinite(np.asarray(info.residual)).all()
    assert set(outcomes.tolist()) <= ({0, 1, 2} if damped else {0, 2})
    moved = np.einsum("bnk,bk->bn", matrices.astype(np.float64), values)
    residuals = np.linalg.norm(moved - rows, axis=1) / np.linalg.norm(rows, axis=1)
    # A least-squares velocity is never worse than none, but for round-off.
    assert (residuals < 1 + 1e-2).all()
    noise = 1e-2 if dtype == np.float32 else 1e-3
    assert np.abs(residuals - np.asarray(info.residual)).max() < noise


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
def test_a_hundred_problems(dtype):
    for solver, shape in zip(SOLVERS[:2], SHAPES[1::2], strict=True):
        check(solver, shape, dtype, 25, False, 0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
def test_two_thousand_problems(dtype):
    """A thousand in each dtype."""
    for index, shape in enumerate(SHAPES):
        for damped in (False, True):
            check(Auto(), shape, dtype, 125, damped, index)


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS[1:], ids=lambda solver: type(solver).__name__)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
def test_hundreds_of_problems_by_each_solver(solver, dtype):
    for index, shape in enumerate(SHAPES):
        check(solver, shape, dtype, 125, index % 2 == 1, index)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_lift_that_leaves_more_than_v_is_made_as_short_as_is_best(dtype):
    random, most = np.random.default_rng(0), 15 if dtype == np.float32 else 150
    judged = jax.jit(_shortened)
    for _ in range(300):
        velocity = (random.standard_normal((20, 1)) * 10.0 ** random.integers(-most, most)).astype(dtype)
        size = float(np.max(np.abs(velocity))) * 10.0 ** random.integers(-6, 7)
        moved = [-2 * velocity, 3 * velocity, velocity / 2, random.standard_normal((20, 1)) * size][random.integers(4)]
        missed = (velocity - moved).astype(dtype)
        length, residual = map(float, judged(jnp.asarray(velocity), jnp.asarray(missed)))
        aim, rest = (each.astype(np.longdouble) / np.max(np.abs(velocity)) for each in (velocity, missed))
        moved = aim - rest
        along, square = np.sum(moved * aim), np.sum(moved**2)
        best = max(along, 0) / square if square > 2 * along else 1
        left = np.linalg.norm(aim - best * moved) / np.linalg.norm(aim)
        eps = float(np.finfo(dtype).eps)
        np.testing.assert_allclose(length, float(best), rtol=1e3 * eps, atol=eps)
        np.testing.assert_allclose(residual, float(left), rtol=1e3 * eps, atol=1e2 * eps**0.5)
