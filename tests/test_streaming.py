"""A lift from chunks of samples is that of all of them."""

import jax.numpy as jnp
import numpy as np
import pytest
from matrices import linear_problem, relative_error, with_spectrum

import jaxgeo as jg
from jaxgeo.linalg import NormalCholesky, streamed_lift


def chunks(matrix, velocity, sizes):
    start = 0
    for size in sizes:
        part = slice(start, start + size)
        yield linear_problem(matrix[part])[0], jnp.asarray(velocity[part]).reshape(-1, 1)
        start += size


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5)])
@pytest.mark.parametrize("damping", [None, 0.1])
def test_it_is_the_lift_of_all_samples_at_once(dtype, tolerance, damping):
    matrix = with_spectrum(21, 4, np.logspace(0, -1, 4), dtype)
    velocity = np.random.default_rng(1).standard_normal(21).astype(dtype)
    problem, params = linear_problem(matrix)
    whole = jg.lift(problem, params, jnp.asarray(velocity).reshape(-1, 1), damping=damping)
    found = streamed_lift(chunks(matrix, velocity, (8, 8, 5)), params, NormalCholesky(chunk_size=3), damping=damping)
    assert found.dtype == dtype
    assert relative_error(found, np.asarray(whole, np.float64)) < tolerance


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


def test_no_chunk_is_an_error():
    with pytest.raises(ValueError, match="at least one problem"):
        streamed_lift([], jnp.zeros(2))
