"""Orbits corrected step by step stay on (2.7) to round-off, with every kind of step and output."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbits import deviation, off_orbit

import jaxgeo as jg
from cases.problems import cases, digits, largest, to_float32


def corrected(case, flow=None, **options):
    # Singular values alone compile fastest.
    flow = jg.AdaptedFlow(jg.linalg.SVD()) if flow is None else flow
    solver = jg.OrbitCorrector(options.pop("solver", dfx.Tsit5()), jg.linalg.SVD())
    return jg.solve_flow(case.problem, flow, case.params, solver=solver, record=deviation, **options)


@pytest.fixture(scope="module")
def orbit():
    return corrected(cases()["dict"], s1=90.0, save_at=jnp.linspace(0.0, 90.0, 13))


@pytest.mark.slow
def test_outputs_stay_on_their_orbit(orbit):
    case = cases()["dict"]
    assert off_orbit(case, orbit.s, orbit.records) <= 1e-14


@pytest.mark.slow
def test_it_is_the_orbit_of_the_wrapped_solver(orbit):
    case = cases()["dict"]
    plain = jg.solve_flow(
        case.problem, jg.AdaptedFlow(jg.linalg.SVD()), case.params, s1=90.0, save_at=orbit.s, record=deviation
    )
    assert off_orbit(case, plain.s, plain.records) > 1e-9
    # The error control is that of the wrapped solver, and θ is an orbit of the same flow.
    assert abs(int(plain.stats["num_steps"]) - int(orbit.stats["num_steps"])) <= 0.1 * int(plain.stats["num_steps"])
    assert largest(jax.tree.map(jnp.subtract, plain.params, orbit.params)) <= 1e-4


@pytest.mark.slow
def test_cost_follows_the_law_down_to_round_off(orbit):
    # C/C(0) = e⁻⁴⁰ = 4e-18 at s/N = 20; below that the round-off of the outputs counts.
    assert np.abs(orbit.defect[:9]).max() <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("solver", [dfx.Euler(), dfx.Kvaerno5()])
def test_any_solver(solver):
    case = cases()["linear over"]
    options = {"stepsize_controller": dfx.ConstantStepSize(), "dt0": 0.1} if isinstance(solver, dfx.Euler) else {}
    sol = corrected(case, solver=solver, s1=6.0, **options)
    assert off_orbit(case, sol.s, sol.records) <= 1e-13


@pytest.mark.slow
def test_event_ends_on_the_orbit():
    case = cases()["dict"]
    tol = 1e-3 * float(case.problem.cost(case.params))
    sol = corrected(case, cost_tol=tol)
    assert sol.result == jg.RESULTS.successful
    end = deviation(0.0, sol.params, case.problem)
    assert off_orbit(case, sol.final_s[None], end[None]) <= 1e-13
    np.testing.assert_allclose(sol.final_s, sol.stopping_time, rtol=1e-5)


@pytest.mark.slow
def test_dense_output_meets_the_corrected_points():
    case = cases()["linear over"]
    solution = dfx.diffeqsolve(
        dfx.ODETerm(jg.AdaptedFlow(jg.linalg.SVD())),
        jg.OrbitCorrector(dfx.Tsit5(), jg.linalg.SVD()),
        0.0,
        6.0,
        0.5,
        case.params,
        args=case.problem,
        saveat=dfx.SaveAt(dense=True, steps=True),
        max_steps=16,
    )
    s = solution.ts[jnp.isfinite(solution.ts)]
    between = (s[1:] + s[:-1]) / 2
    found = jnp.stack([deviation(0.0, solution.evaluate(time), case.problem) for time in s])
    assert off_orbit(case, s, found) <= 1e-14
    found = jnp.stack([deviation(0.0, solution.evaluate(time), case.problem) for time in between])
    assert off_orbit(case, between, found) <= 1e-5
    part = solution.evaluate(s[0], s[1])
    np.testing.assert_allclose(part, solution.evaluate(s[1]) - solution.evaluate(s[0]), atol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linear under", "mlp duplicates"])
def test_what_lies_in_the_range_is_corrected(name):
    """range(D) does not change here, so 𝒫(x − y) falls as e^{-s/N} and (1 − 𝒫)(x − y) stays."""
    case = cases()[name]
    basis, values, _ = np.linalg.svd(case.dense(), full_matrices=False)
    basis = basis[:, values > 1e-10 * values[0]]
    with pytest.warns(UserWarning, match="only what lies in range"):
        sol = corrected(case, jg.RankAdaptiveFlow(jg.linalg.SVD()), s1=5.0 * case.problem.num_samples, rtol=1e-4)
    start, end = (np.ravel(record) for record in (sol.records[0], sol.records[-1]))
    inside = basis @ (basis.T @ start)
    np.testing.assert_allclose(end, start - inside + np.exp(-5.0) * inside, atol=1e-9)


def test_costs_without_a_law_are_refused():
    case = cases()["dict"]
    cost = jg.Huber(case.problem.loss.targets, 1.0)
    problem = eqx.tree_at(lambda problem: problem.loss, case.problem, cost)
    with pytest.raises(ValueError, match="needs an L2 cost.*Huber"), pytest.warns(UserWarning, match="range"):
        jg.solve_flow(problem, jg.AdaptedFlow(), case.params, s1=1.0, solver=jg.OrbitCorrector(dfx.Tsit5()))


@pytest.mark.slow
def test_float32_and_frozen_leaves():
    case = cases()["frozen"]
    solver = jg.OrbitCorrector(dfx.Tsit5())
    problem, params = to_float32(case.problem), to_float32(case.params)
    sol = jg.solve_flow(problem, jg.AdaptedFlow(), params, s1=15.0, solver=solver)
    assert {leaf.dtype for leaf in jax.tree.leaves(sol.params)} == {jnp.dtype(jnp.float32)}
    assert jnp.all(sol.params["W"] == params["W"])
    assert jnp.abs(sol.defect).max() <= 1e-3


@pytest.mark.slow
def test_digits_to_round_off():
    """N = 100, QN = 1000: outputs to 1e-13 up to s/N = 30, and the cost to 3e-6 of its law down to 1e-20 C(0)."""
    case = digits()
    times = jnp.linspace(0.0, 3000.0, 31)
    solver = jg.OrbitCorrector(dfx.Tsit5())
    sol = jg.solve_flow(
        case.problem, jg.AdaptedFlow(), case.params, s1=3000.0, save_at=times, record=deviation, solver=solver
    )
    assert off_orbit(case, sol.s, sol.records) <= 1e-13
    assert jnp.abs(sol.defect[sol.predicted_costs >= 1e-20 * sol.initial_cost]).max() <= 3e-6
    # Uncorrected, the same accuracy would take a tolerance near round-off and many times the steps.
    assert int(sol.stats["num_steps"]) < 600


@pytest.mark.slow
def test_derivatives_in_forward_mode_see_the_solver_within():
    """x = θ₁θ₂ follows its law, and θ₁² − θ₂² stays: ∂θ(s)/∂θ(0) by differences."""
    problem = jg.Problem(lambda theta, x: theta[0] * theta[1] * x, jnp.ones(1), jg.L2(jnp.ones(1)))
    solver = jg.OrbitCorrector(dfx.Tsit5())

    @jax.jit
    def end(start):
        sol = jg.solve_flow(
            problem, jg.AdaptedFlow(jg.linalg.SVD()), start, s1=1.0, solver=solver, adjoint=dfx.ForwardMode(), rtol=1e-9
        )
        return sol.params[0]

    start, step = jnp.array([1.0, 0.4]), 1e-5
    slopes = jax.jacfwd(end)(start)
    for slope, unit in zip(slopes, jnp.eye(2), strict=True):
        difference = (end(start + step * unit) - end(start - step * unit)) / (2 * step)
        np.testing.assert_allclose(slope, difference, rtol=1e-5)
