"""The structured G against the dense D Dᵀ, and its plan."""

import numpy as np
import pytest
from architectures import ARCHITECTURES

from jaxgeo.linalg.gram import Gram


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_structured_equals_dense(name, key):
    problem, params = ARCHITECTURES[name](key)
    jacobian = problem.jacobian(params)
    dense = np.asarray(jacobian.as_matrix())
    expected = dense @ dense.T
    gram = Gram(jacobian)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(gram.as_matrix(), expected, rtol=0, atol=1e-12 * scale)
    np.testing.assert_allclose(gram.diagonal().reshape(-1), np.diag(expected), rtol=0, atol=1e-12 * scale)
