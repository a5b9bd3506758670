"""float32 Gram matrices get the requested damping and no more, while their condition number allows it."""

import numpy as np
import pytest

from cases.matrices import damped_inverse, relative_error, solve, with_spectrum
from jaxgeo.linalg import GramCholesky
from jaxgeo.linalg.solvers.base import SOLVED


@pytest.mark.parametrize("refinements", [0, pytest.param(4, marks=pytest.mark.slow)])
def test_float32_keeps_its_damping(refinements):
    """λ_max/μ = 1e5 for QN = 200, above 1/(QN·eps): the bound on round-off that no Cholesky factorisation attains."""
    rng = np.random.default_rng(1)
    matrix = with_spectrum(200, 260, np.r_[np.full(2, 10.0), np.geomspace(1, 1e-3, 198)], np.float32)
    velocity = rng.standard_normal(200).astype(np.float32)
    gram = np.asarray(matrix, np.float64) @ matrix.T
    damping = np.linalg.eigvalsh(gram)[-1] / np.trace(gram) * 200 * 1e-5
    solver = GramCholesky(refinements=refinements, dtype=np.dtype(np.float32))
    lifted, info = solve(solver, matrix, velocity, np.float32(damping))
    assert info.outcome == SOLVED
    error = relative_error(lifted, damped_inverse(matrix, velocity, damping))
    assert error <= (2e-2 if refinements == 0 else 2e-3)
