"""Records along a flow: outputs, spectrum, path lengths; and resumed orbits."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgeo as jg
from cases.problems import cases, largest

FLOW = jg.AdaptedFlow(jg.linalg.SVD())


def test_spectrum():
    for name in ("dict", "mlp under"):
        case = cases()[name]
        found = jg.integrate.spectrum_record(0.0, case.params, case.problem)
        expected = np.linalg.svd(case.dense(), compute_uv=False) ** 2
        np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.slow
def test_path_lengths():
    """x goes straight to y: ∫|∂ₛx| = (1 − e^{-s/N})|x₀ − y|. x = sinh(a) gives ∫|∂ₛa| in closed form too."""
    problem = jg.Problem(lambda a, x: jnp.sinh(a * x), jnp.ones(1), jg.L2(jnp.array([0.0])))
    times = jnp.array([0.0, 0.5, 2.0])
    sol = jg.solve_flow(problem, FLOW, jnp.array(1.5), s1=2.0, save_at=times, path_lengths=True)
    np.testing.assert_allclose(sol.path_lengths.outputs, (1 - np.exp(-times)) * np.sinh(1.5), rtol=1e-6)
    np.testing.assert_allclose(sol.path_lengths.params, 1.5 - np.arcsinh(np.exp(-times) * np.sinh(1.5)), rtol=1e-6)
    plain = jg.solve_flow(problem, FLOW, jnp.array(1.5), s1=2.0, save_at=times)
    assert plain.path_lengths is None
    np.testing.assert_allclose(sol.params, plain.params, rtol=1e-12)


@pytest.mark.slow
def test_path_lengths_with_events_and_correction():
    case = cases()["dict"]
    solver = jg.OrbitCorrector(dfx.Tsit5(), jg.linalg.SVD())
    tol = 1e-2 * float(case.problem.cost(case.params))
    sol = jg.solve_flow(case.problem, FLOW, case.params, cost_tol=tol, solver=solver, path_lengths=True)
    way = np.linalg.norm(case.problem.loss.deviation(case.problem.outputs(case.params)))
    np.testing.assert_allclose(sol.path_lengths.outputs[-1], 0.9 * way, rtol=1e-5)
    moved = jax.tree.map(jnp.subtract, sol.params, case.params)
    assert sol.path_lengths.params[-1] >= jnp.linalg.norm(jax.flatten_util.ravel_pytree(moved)[0])


@pytest.mark.slow
@pytest.mark.parametrize("solver", [dfx.Euler(), dfx.Tsit5()])
def test_resumed_with_fixed_steps_to_the_last_bit(solver):
    case = cases()["dict"]
    options = {"solver": solver, "stepsize_controller": dfx.ConstantStepSize(), "dt0": 0.25}
    whole = jg.solve_flow(case.problem, FLOW, case.params, s1=2.0, **options)
    half = jg.solve_flow(case.problem, FLOW, case.params, s1=0.75, **options)
    rest = jg.solve_flow(case.problem, FLOW, half.params, s0=half.final_s, s1=2.0, **options)
    assert jax.tree.all(jax.tree.map(lambda one, two: bool(jnp.all(one == two)), whole.params, rest.params))
    np.testing.assert_array_equal(rest.s, whole.s[3:])
    np.testing.assert_allclose(rest.predicted_costs, half.costs[-1] * np.exp(-2 * (rest.s - 0.75) / 3), rtol=1e-14)


@pytest.mark.slow
def test_resumed_with_adaptive_steps(tmp_path):
    case = cases()["dict"]
    tol = 1e-3 * float(case.problem.cost(case.params))
    whole = jg.solve_flow(case.problem, FLOW, case.params, cost_tol=tol, rtol=1e-8)
    half = jg.solve_flow(case.problem, FLOW, case.params, s1=2.0, rtol=1e-8)
    jg.integrate.save_point(tmp_path / "orbit", half.final_s, half.params)
    s, params = jg.integrate.load_point(tmp_path / "orbit", case.params)
    rest = jg.solve_flow(case.problem, FLOW, params, s0=s, cost_tol=tol, rtol=1e-8)
    np.testing.assert_allclose(rest.final_s, whole.final_s, rtol=1e-8)
    np.testing.assert_allclose(rest.stopping_time, whole.stopping_time, rtol=1e-7)
    assert largest(jax.tree.map(jnp.subtract, rest.params, whole.params)) < 1e-6


def test_bad_times():
    case = cases()["dict"]
    for s0, s1, message in [
        (-1.0, 1.0, "`s0` must be a number, at least 0 and finite; got -1.0"),
        (2.0, 1.0, "must not come before `s0`"),
    ]:
        with pytest.raises(ValueError, match=message):
            jg.solve_flow(case.problem, FLOW, case.params, s0=s0, s1=s1)
