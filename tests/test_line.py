"""Steps along the straight line of the outputs: the same orbit with few lifts, on (2.7) to round-off."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbits import deviation, off_orbit

import jaxgeo as jg
from cases.problems import cases, digits, largest, to_float32

TIMES = np.linspace(0.0, 90.0, 13)


def along_the_line(solver=None):
    # Singular values alone compile fastest.
    svd = jg.linalg.SVD()
    return jg.OrbitCorrector(jg.integrate.StraightLine(dfx.Tsit5() if solver is None else solver, svd), svd)


@pytest.fixture(scope="module")
def orbit():
    case = cases()["dict"]
    return jg.solve_flow(
        case.problem,
        jg.AdaptedFlow(jg.linalg.SVD()),
        case.params,
        s1=90.0,
        save_at=TIMES,
        record=deviation,
        solver=along_the_line(),
    )


class Traced(jg.linalg.AbstractLiftSolver):
    """Puts a mark into `TRACES` for each lift that is traced; the rest is by singular values."""

    def factorise(self, jacobian, damping=None):
        TRACES.append(None)
        return jg.linalg.SVD().factorise(jacobian, damping)


TRACES: list[None] = []


def test_lifts_are_traced_once_although_diffrax_traces_each_step_several_times():
    """The flow's own lift, which diffrax checks, and those of the start, of a step and of its correction."""
    case = cases()["dict"]
    line = jg.integrate.StraightLine(dfx.Tsit5(), Traced())
    TRACES.clear()
    sol = jg.solve_flow(
        case.problem, jg.AdaptedFlow(Traced()), case.params, s1=9.0, solver=jg.OrbitCorrector(line, Traced())
    )
    assert sol.result == jg.RESULTS.successful
    assert len(TRACES) <= 4


def test_what_is_recorded_lies_on_the_orbit(orbit):
    case = cases()["dict"]
    np.testing.assert_array_equal(orbit.s, TIMES)
    assert off_orbit(case, orbit.s, orbit.records) <= 1e-14
    assert np.abs(orbit.defect[:9]).max() <= 1e-6


@pytest.mark.slow
def test_it_is_the_orbit_of_the_flow_in_fewer_steps(orbit):
    case = cases()["dict"]
    flow = jg.AdaptedFlow(jg.linalg.SVD())
    plain = jg.solve_flow(case.problem, flow, case.params, s1=90.0, save_at=TIMES, record=deviation)
    assert largest(jax.tree.map(jnp.subtract, plain.params, orbit.params)) <= 1e-4
    assert int(orbit.stats["num_steps"]) <= 0.5 * int(plain.stats["num_steps"])


@pytest.mark.slow
def test_the_end_is_that_of_a_closed_form():
    """x = θ₁θ₂ to y = 1: θ₁² − θ₂² stays, and x is known, so θ is."""
    problem = jg.Problem(lambda theta, x: theta[0] * theta[1] * x, jnp.ones(1), jg.L2(jnp.ones(1)))
    start = jnp.array([1.0, 0.4])
    flow = jg.AdaptedFlow(jg.linalg.SVD())
    sol = jg.solve_flow(problem, flow, start, s1=3.0, solver=along_the_line(), rtol=1e-9)
    product, difference = 1 - 0.6 * np.exp(-3.0), 1.0 - 0.16
    first = np.sqrt((difference + np.sqrt(difference**2 + 4 * product**2)) / 2)
    np.testing.assert_allclose(sol.params, [first, product / first], rtol=1e-8)


@pytest.mark.slow
def test_dense_output_is_in_flow_time():
    case = cases()["linear over"]
    solution = dfx.diffeqsolve(
        dfx.ODETerm(jg.AdaptedFlow(jg.linalg.SVD())),
        jg.integrate.StraightLine(dfx.Tsit5(), jg.linalg.SVD()),
        0.0,
        6.0,
        1.5,
        case.params,
        args=case.problem,
        saveat=dfx.SaveAt(dense=True),
        max_steps=16,
    )
    # For outputs linear in θ the line is followed exactly, within steps too.
    s = jnp.linspace(0.0, 6.0, 8)
    found = jnp.stack([deviation(0.0, solution.evaluate(time), case.problem) for time in s])
    assert off_orbit(case, s, found) <= 1e-13
    part = solution.evaluate(s[2], s[5])
    np.testing.assert_allclose(part, solution.evaluate(s[5]) - solution.evaluate(s[2]), atol=1e-14)


@pytest.mark.parametrize(
    ("flow", "name"),
    [
        (jg.StandardFlow(), "dict"),
        (jg.AdaptedFlow(damping=1e-3), "dict"),
        (jg.RankAdaptiveFlow(), "dict"),
        (jg.AdaptedFlow(), "linear under"),
    ],
    ids=["standard", "damped", "any rank", "few parameters"],
)
def test_flows_that_follow_no_law_are_refused(flow, name):
    case = cases()[name]
    for solver in (along_the_line(), jg.integrate.StraightLine(dfx.Tsit5())):
        with pytest.raises(ValueError, match="`StraightLine` needs a flow along which"):
            jg.solve_flow(case.problem, flow, case.params, s1=1.0, solver=solver)


def test_other_costs_and_wrappers_are_refused():
    case = cases()["dict"]
    problem = eqx.tree_at(lambda problem: problem.loss, case.problem, jg.Huber(case.problem.loss.targets, 1.0))
    with pytest.raises(ValueError, match="`StraightLine` needs a flow.*Huber"):
        jg.solve_flow(problem, jg.AdaptedFlow(), case.params, s1=1.0, solver=along_the_line())
    with pytest.raises(ValueError, match="`solver` must be .* nothing is wrapped around; got `OrbitCorrector`"):
        jg.integrate.StraightLine(jg.OrbitCorrector(dfx.Tsit5()))


@pytest.mark.slow
def test_path_lengths_events_and_float32():
    case = cases()["frozen"]
    problem, params = to_float32(case.problem), to_float32(case.params)
    tol = 1e-3 * float(problem.cost(params))
    sol = jg.solve_flow(problem, jg.AdaptedFlow(), params, cost_tol=tol, path_lengths=True, solver=along_the_line())
    assert sol.result == jg.RESULTS.successful
    np.testing.assert_allclose(sol.final_s, sol.stopping_time, rtol=1e-3)
    # The outputs go straight, so their path is as long as the way between its ends.
    way = jnp.linalg.norm(deviation(0.0, params, problem)) * (1 - jnp.exp(-sol.s / problem.num_samples))
    np.testing.assert_allclose(sol.path_lengths.outputs, way, rtol=1e-2, atol=1e-4)


@pytest.mark.slow
def test_digits_in_three_hundred_lifts():
    """N = 100, QN = 1000 to s/N = 30: outputs to 1e-13."""
    case = digits()
    times = jnp.linspace(0.0, 3000.0, 31)
    solver = jg.OrbitCorrector(jg.integrate.StraightLine(dfx.Tsit5()))
    sol = jg.solve_flow(
        case.problem, jg.AdaptedFlow(), case.params, s1=3000.0, save_at=times, record=deviation, solver=solver
    )
    assert off_orbit(case, sol.s, sol.records) <= 1e-13
    # Six stages, of which the last is the first of the next step, a correction, and one for each record.
    assert 7 * int(sol.stats["num_steps"]) + 1 + len(times) <= 300
