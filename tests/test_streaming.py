"""A lift from chunks of samples equals the lift from all samples."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxgeo as jg
from cases.matrices import linear_problem, relative_error, with_spectrum
from jaxgeo.linalg import CG, NormalCholesky, Nystrom, streamed_lift


def chunks(matrix, velocity, sizes):
    start = 0
    for size in sizes:
        part = slice(start, start + size)
        yield linear_problem(matrix[part])[0], jnp.asarray(velocity[part]).reshape(-1, 1)
        start += size


@pytest.mark.parametrize(
    ("damping", "dtype", "tolerance"),
    [
        pytest.param(None, np.float32, 1e-5, marks=pytest.mark.slow),
        (0.1, np.float64, 1e-12),
        pytest.param(None, np.float64, 1e-12, marks=pytest.mark.slow),
        pytest.param(0.1, np.float32, 1e-5, marks=pytest.mark.slow),
    ],
)
def test_it_is_the_lift_of_all_samples_at_once(dtype, tolerance, damping):
    matrix = with_spectrum(21, 4, np.logspace(0, -1, 4), dtype)
    velocity = np.random.default_rng(1).standard_normal(21).astype(dtype)
    problem, params = linear_problem(matrix)
    whole = jg.lift(problem, params, jnp.asarray(velocity).reshape(-1, 1), damping=damping)
    found = streamed_lift(chunks(matrix, velocity, (8, 8, 5)), params, NormalCholesky(chunk_size=3), damping=damping)
    assert found.dtype == dtype
    assert relative_error(found, np.asarray(whole, np.float64)) < tolerance


@pytest.mark.parametrize("preconditioner", [pytest.param(None, marks=pytest.mark.slow), Nystrom(rank=3)])
@pytest.mark.parametrize(
    ("columns", "damping"), [*(pytest.param(columns, None, marks=pytest.mark.slow) for columns in (4, 30)), (30, 0.1)]
)
def test_conjugate_gradients_pass_again_and_again(columns, damping, preconditioner):
    """On either side of K = QN, and in the second case to the shortest of many solutions."""
    rank = min(21, columns)
    matrix = with_spectrum(21, columns, np.logspace(0, -1, rank), np.float64)
    velocity = np.random.default_rng(1).standard_normal(21)
    problem, params = linear_problem(matrix)
    whole = jg.lift(problem, params, jnp.asarray(velocity).reshape(-1, 1), damping=damping)
    passes = 0

    def again():
        nonlocal passes
        passes += 1
        return chunks(matrix, velocity, (8, 8, 5))

    solver = CG(rtol=1e-13, preconditioner=preconditioner)
    found = streamed_lift(again, params, solver, damping=damping)
    assert relative_error(found, np.asarray(whole, np.float64)) < 1e-10
    assert 2 < passes < 3 * rank
    listed = streamed_lift(list(chunks(matrix, velocity, (8, 8, 5))), params, solver, damping=damping)
    np.testing.assert_array_equal(found, listed)


def test_conjugate_gradients_keep_the_dtype():
    matrix = with_spectrum(21, 4, np.logspace(0, -1, 4), np.float32)
    velocity = np.random.default_rng(1).standard_normal(21).astype(np.float32)
    found = streamed_lift(list(chunks(matrix, velocity, (21,))), linear_problem(matrix)[1], CG(), damping=0.1)
    assert found.dtype == np.float32


def test_conjugate_gradients_say_when_they_stop_early():
    matrix = with_spectrum(21, 4, np.logspace(0, -3, 4))
    parts = list(chunks(matrix, np.ones(21), (21,)))
    with pytest.warns(UserWarning, match="after `max_steps` = 2 steps"):
        streamed_lift(parts, linear_problem(matrix)[1], CG(max_steps=2, preconditioner=None))


def test_an_iterator_is_no_use_to_conjugate_gradients():
    matrix = with_spectrum(21, 4, np.ones(4))
    with pytest.raises(ValueError, match="pass a sequence, or the function"):
        streamed_lift(chunks(matrix, np.ones(21), (21,)), linear_problem(matrix)[1], CG())


def test_only_one_chunk_is_asked_for_at_a_time():
    """Each chunk can be freed before the next is made."""
    import weakref

    matrix, velocity = with_spectrum(20, 3, np.ones(3)), np.ones(20)
    alive: list[weakref.ref] = []
    most = 0

    def watched():
        nonlocal most
        for start in range(0, 20, 5):
            problem, part = next(chunks(matrix[start:], velocity[start:], (5,)))
            alive.append(weakref.ref(problem.blocks[0].inputs))
            most = max(most, sum(ref() is not None for ref in alive))
            yield problem, part
            del problem, part

    streamed_lift(watched(), linear_problem(matrix)[1])
    # The one that was just made, and the one that the loop still names.
    assert most <= 2


@pytest.mark.parametrize("solver", [None, CG()])
def test_no_chunk_is_an_error(solver):
    with pytest.raises(ValueError, match="at least one problem"):
        streamed_lift([], jnp.zeros(2), solver)
