"""Least squares compared with MINPACK and SciPy's `trf`: results, numbers of updates, and reported endings."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxgeo as jg
from cases.classical_fits import CLASSICAL_FITS
from cases.curve_fits import CURVE_FITS, CurveFit
from cases.fitting import fit_to_the_end, scipys
from jaxgeo.optim import Ending, Ends, Outcome

ALL = [*CURVE_FITS, *CLASSICAL_FITS]
FAST = ("powell scaled",)


def rise(xp, b, x):
    return b[0] * (1 - xp.exp(-b[1] * (x - b[2])))


# From reports of users; the start, and the parameters at the minimum.
REPORTED = {
    "an oscillation": (
        lambda xp, b, x: b[0] * xp.sin(b[1] * x),
        2 * np.pi * np.arange(1000) / 1000,
        2 * np.sin(4 * np.pi * np.arange(1000) / 1000),
        (1.0, 1.0),
        (2.0, 2.0),
    ),
    "a plateau": (
        rise,
        np.array([1.0, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 7, 8, 9, 10, 12]),
        np.array([11.2, 12, 19.1, 18.2, 24.9, 26, 30.4, 29.5, 33.1, 34.8, 36.9, 39.1, 41, 42.3, 43.2, 44.5]),
        (1.0, 1.0, 0.0),
        (47.16586, 0.246966, -0.111506),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REPORTED)
def test_fits_that_users_reported(name):
    model, x, y, start, right = REPORTED[name]
    (found,) = fit_to_the_end(CurveFit(name, model, x, y, start, start), [start], 60)
    np.testing.assert_allclose(found.params, right, rtol=1e-5)
    assert found.ending.outcome is Outcome.CONVERGED
    assert found.late <= 5


# A step between the 15th and the 16th point.
STEP = np.concatenate([
    np.zeros(5), [0.26899724779580747], np.zeros(10),
    [0.7596293832300737, 1.2214165441700262, 1.044997340851686, 0.7705897033203687, 1.280988851538506],
    [1.4403870545862594, 1.439644250890874, 1.280013863325763, 0.9349706185969648, 0.7035165962457238],
    [0.914155421686925],
])  # fmt: skip


@pytest.mark.slow
def test_a_step_that_fixes_one_parameter_of_three():
    """Where the step is, and how steep, the data do not say: MINPACK fails here, and a variance must be infinite."""

    def curve(x, b, c, d):
        return b / (1 + jnp.exp(-(c + d * x)))

    found = jg.curve_fit(curve, np.arange(27.0), STEP, [1.0, 1.0, 1.0])
    assert found.cost == pytest.approx(0.35694966, rel=1e-7)
    assert found.unfixed == ["c", "d"]
    assert np.isinf(found.pcov[1, 1])
    np.testing.assert_allclose(found.popt[0], STEP[17:].mean(), rtol=1e-3)


def fit_line(**options):
    x, y = np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 3.0])
    return jg.fit(jnp.zeros(2), x, y, apply=lambda b, x: b[0] + b[1] * x, method="levenberg-marquardt", **options)


def test_a_line_through_three_points_ends():
    found = fit_line()
    assert found.outcome is Outcome.CONVERGED
    assert found.steps <= 3
    assert found.message in (Ending.GRADIENT.words, Ending.PRECISION.words)
    assert found.message in str(found)
    np.testing.assert_allclose(found.model, [-1 / 6, 1.5], rtol=1e-12)


@pytest.mark.slow
def test_a_tolerance_relative_to_a_huge_first_cost_is_not_reached():
    """e⁶⁰ makes the first cost 3e50; a constant would cost 60."""
    x, y = np.array([1.0, 2.0, 4.0]), np.array([11.0, 19.0, 30.0])
    found = jg.fit(
        jnp.array([1.0, 1.0, 60.0]),
        x,
        y,
        apply=lambda b, x: rise(jnp, b, x),
        method="levenberg-marquardt",
        max_steps=60,
    )
    assert found.initial_cost > 1e50
    assert found.outcome is not Outcome.REACHED or found.cost < 1e-6 * np.var(y) / 2


@pytest.mark.slow
def test_parameters_do_not_stop_where_they_still_count():
    """From e⁶⁰ MINPACK and dogbox end after a few updates at 524, where the columns are small beside what they were."""
    x, y = np.array([1.0, 2.0, 4.0]), np.array([11.0, 19.0, 30.0])
    curve = lambda x, *p: rise(jnp, p, x)  # noqa: E731
    with pytest.warns(UserWarning, match="covariance of 3 parameters"):
        found = jg.curve_fit(curve, x, y, [1.0, 1.0, 60.0], starts=[[1.0, 1.0, 0.0]])
    far, near = found.starts
    assert far.cost <= 0.5 * np.sum((y - y.mean()) ** 2) * (1 + 1e-6)
    assert near.cost < 1e-27
    np.testing.assert_allclose(found.popt, [46.51686244, 0.25520859, -0.05720306], rtol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["K < QN", "K > QN"])
def test_a_weight_of_two_is_a_row_twice(case):
    x = jnp.linspace(-1.0, 1.0, 5)
    if case == "K < QN":
        apply, params, y = lambda b, x: b[0] * jnp.exp(-b[1] * x), jnp.ones(2), jnp.exp(-x) + 0.1 * jnp.cos(9 * x)
    else:
        params, y = jax.random.normal(jax.random.key(0), (3, 8)), jnp.sin(3 * x)
        apply = lambda p, x: p[0] @ jnp.tanh(p[1] * x + p[2])  # noqa: E731
    weighted = jg.Problem(apply, x, jg.SampleWeighted(jg.L2(y), 3 * jnp.array([2.0, 1, 1, 1, 1])))
    twice = jg.Problem(apply, jnp.concatenate([x[:1], x]), jg.L2(jnp.concatenate([y[:1], y])))
    ours, theirs = (list(updated(problem, params, 3)) for problem in (weighted, twice))
    for count in (1, 3):
        np.testing.assert_allclose(ours[count][0], theirs[count][0], rtol=1e-11)


CORRELATED = ("mgh09", "lanczos", "biexponential", "kirby", "thurber")


@pytest.mark.slow
@pytest.mark.parametrize("name", CORRELATED)
def test_strongly_correlated_parameters_take_few_updates(name):
    fit = next(fit for fit in ALL if fit.name == name)
    (ours,), (theirs,) = fit_to_the_end(fit, [fit.start]), scipys(fit, [fit.start], "lm")
    assert len(ours.costs) - 1 <= 2 * theirs.njev


def test_the_tolerance_is_relative_to_the_cost_of_a_constant():
    x = np.linspace(0.0, 1.0, 9)
    y = 3 + np.exp(-2 * x)
    found = jg.fit(
        jnp.array([1e6, 2.0, 0.0]),
        x,
        y,
        apply=lambda b, x: b[0] * jnp.exp(-b[1] * x) + b[2],
        method="sgd",
        tol=0.9,
        max_steps=1,
    )
    assert found.outcome is Outcome.MAX_STEPS
    exact = jg.fit(
        jnp.array([1.0, 1.0, 2.0]), x, y, apply=lambda b, x: b[0] * jnp.exp(-b[1] * x) + b[2],
        method="levenberg-marquardt", tol=0.01,
    )  # fmt: skip
    assert exact.outcome is Outcome.REACHED
    assert exact.cost <= 0.01 * np.var(y) / 2


def test_a_first_cost_that_overflows_is_refused():
    i = np.arange(1.0, 11.0)

    def curve(x, b, c):
        return jnp.exp(x * b) + jnp.exp(x * c)

    with pytest.raises(ValueError, match="cost at `p0` is inf"):
        jg.curve_fit(curve, i, 2 + 2 * i, [30.0, 40.0])


@pytest.mark.slow
def test_minibatches_go_on():
    x = np.linspace(0.0, 1.0, 8)
    found = jg.fit(
        jnp.zeros(2), x, x + 0.1 * np.cos(9 * x), apply=lambda b, x: b[0] + b[1] * x,
        method="levenberg-marquardt", batch_size=4, max_steps=30,
    )  # fmt: skip
    assert found.outcome is Outcome.MAX_STEPS
    assert found.steps == 30


def updated(problem, params, steps, **options):
    """Parameters and state before the first update and after each."""
    tx = jg.optim.adapted_levenberg_marquardt(**options)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(params, state, params, problem=problem)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    yield params, state
    for _ in range(steps):
        params, state = step(params, state)
        yield params, state


def run(problem, params, steps, **options):
    for count, (found, state) in enumerate(updated(problem, params, steps, **options)):
        if int(state.ends.ending) or count == steps:
            return Ending(int(state.ends.ending)), count, found
    raise AssertionError("unreachable")


def noisy():
    x = jnp.linspace(0.0, 2.0, 12)
    y = 2 * jnp.exp(-1.5 * x) + 0.1 * jnp.cos(17 * x)
    return jg.Problem(lambda b, x: b[0] * jnp.exp(-b[1] * x), x, jg.L2(y)), jnp.ones(2)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"xtol": 1e-2}, Ending.STEP),
        pytest.param({"gtol": 1e-3}, Ending.GRADIENT, marks=pytest.mark.slow),
        pytest.param({"ftol": 1e-3, "small": 1}, Ending.DECREASE, marks=pytest.mark.slow),
    ],
)
def test_each_criterion_ends_a_fit(options, expected):
    problem, params = noisy()
    ending, last, _ = run(problem, params, 40)
    assert ending.outcome is Outcome.CONVERGED
    ending, count, _ = run(problem, params, 40, ends=Ends(**options))
    assert ending is expected
    assert count < last


@pytest.mark.slow
def test_an_exact_fit_ends_at_the_precision_of_the_cost():
    x = jnp.linspace(0.0, 2.0, 12)
    problem = jg.Problem(lambda b, x: b[0] * jnp.exp(-b[1] * x), x, jg.L2(2 * jnp.exp(-1.5 * x)))
    ending, count, params = run(problem, jnp.ones(2), 40)
    assert ending in (Ending.PRECISION, Ending.GRADIENT)
    assert count < 12
    np.testing.assert_allclose(params, [2.0, 1.5], rtol=1e-13)


@pytest.mark.slow
def test_a_network_with_more_parameters_than_outputs_ends_too():
    x = jnp.linspace(-1.0, 1.0, 5)
    params = jax.random.normal(jax.random.key(0), (3, 8))
    problem = jg.Problem(lambda p, x: p[0] @ jnp.tanh(p[1] * x + p[2]), x, jg.L2(jnp.sin(3 * x)))
    ending, count, found = run(problem, params, 60)
    # Which of the two comes first is round-off.
    assert ending in (Ending.PRECISION, Ending.STEP)
    assert count < 30
    assert problem.cost(found) < 1e-29


@pytest.mark.slow
def test_where_derivatives_are_not_finite_it_has_failed():
    problem = jg.Problem(lambda b, x: b[0] * jnp.sqrt(jnp.abs(b[1])) * x, jnp.ones(3), jg.L2(jnp.arange(3.0)))
    ending, _, params = run(problem, jnp.array([1.0, 0.0]), 3)
    assert ending is Ending.FAILED
    assert jnp.isfinite(params).all()


@pytest.mark.parametrize(
    "fit", [pytest.param(fit, marks=[pytest.mark.slow] * (fit.name not in FAST), id=fit.name) for fit in ALL]
)
def test_classical_fits_are_solved_where_minpack_or_trf_solves_them(fit):
    starts = [fit.start, fit.near]
    theirs = {method: [found.cost for found in scipys(fit, starts, method)] for method in ("lm", "trf")}
    least = min(cost for costs in theirs.values() for cost in costs)
    for ours, *others in zip(fit_to_the_end(fit, starts), theirs["lm"], theirs["trf"], strict=True):
        if min(others) <= least * (1 + 1e-8) + 1e-20:
            assert ours.costs[-1] <= least * (1 + 1e-8) + 1e-20
            assert ours.ending.outcome is Outcome.CONVERGED
            assert ours.late <= 5


def test_derivatives_beyond_the_digits_of_the_parameters_are_no_minimum():
    x = jnp.linspace(0.1, 1.0, 8)
    found = jg.fit(
        {"a": jnp.array(0.3)}, x[:, None], jnp.sin(2 * x)[:, None], apply=lambda p, x: jnp.sin(1e18 * p["a"] * x),
        method="levenberg-marquardt", max_steps=50,
    )  # fmt: skip
    assert found.outcome is jg.optim.Outcome.FAILED
    assert "the last digit of the parameters decides the outputs" in found.message
