"""Why an orbit left the law: each cause is made to dominate, and is named."""

import diffrax as dfx
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgeo as jg
from cases.problems import cases, to_float32

FLOW = jg.RankAdaptiveFlow(jg.linalg.SVD())


@pytest.mark.slow
def test_step():
    case = cases()["dict"]
    with pytest.warns(UserWarning, match="off the law by.* step: Lower `rtol`"):
        report = jg.integrate.explain_defect(case.problem, FLOW, case.params, 3.0, solver=dfx.Euler(), dt0=0.1)
    assert report.dominant == "step"
    # Halving Euler's step takes half of its error away.
    assert 0.3 < report.step / report.total < 0.7
    assert max(report.solve, report.rank, report.precision) < 1e-10


@pytest.mark.slow
def test_solve():
    """A damped lift leaves λ(G + λ)⁻¹v: for a single eigenvalue G = g the rate is g/(g + λ) in place of 1."""
    problem = jg.Problem(lambda a, x: a @ x, jnp.eye(2), jg.L2(jnp.array([1.0, -2.0])))
    with pytest.warns(UserWarning, match="solve: Choose another solver"):
        report = jg.integrate.explain_defect(problem, jg.AdaptedFlow(jg.linalg.QR(), damping=0.25), jnp.zeros(2), 2.0)
    assert report.dominant == "solve"
    np.testing.assert_allclose(report.solve, 0.2, rtol=1e-6)
    np.testing.assert_allclose(report.total, np.exp(0.2) - 1, rtol=1e-5)
    assert max(report.step, report.rank, report.precision) < 1e-5


@pytest.mark.slow
def test_rank():
    """Two equal samples with different targets: half of x − y cannot be followed."""
    inputs = jnp.array([[1.0, 0.0], [1.0, 0.0]])
    problem = jg.Problem(lambda a, x: a @ x, inputs, jg.L2(jnp.array([0.0, 2.0])))
    with pytest.warns(UserWarning, match="rank: D has lost rank"):
        report = jg.integrate.explain_defect(problem, FLOW, jnp.zeros(2), 4.0, num_times=17)
    assert report.dominant == "rank"
    # |x − y|: the part in range(D) falls from √2 as e^{-s/2}, the other stays √2.
    s = np.linspace(0, 4, 1001)
    share = 1 / np.sqrt(1 + np.exp(-s))
    np.testing.assert_allclose(report.rank, np.mean((share[1:] + share[:-1]) / 4) * 4, rtol=3e-3)
    assert max(report.step, report.solve, report.precision) < 1e-5


@pytest.mark.slow
def test_precision():
    case = cases()["linear over"]
    problem, params = to_float32(case.problem), to_float32(case.params)
    with pytest.warns(UserWarning, match="precision: The dtype"):
        report = jg.integrate.explain_defect(problem, FLOW, params, 45.0)
    assert report.dominant == "precision"


@pytest.mark.slow
def test_an_orbit_on_its_law_warns_of_nothing():
    problem = jg.Problem(lambda a, x: a @ x, jnp.eye(2), jg.L2(jnp.array([1.0, -2.0])))
    report = jg.integrate.explain_defect(problem, FLOW, jnp.zeros(2), 2.0)
    assert report.total < 1e-5
    assert f"step {report.step:.1e}" in str(report)
