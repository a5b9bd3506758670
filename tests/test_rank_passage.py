"""Loss of rank along an orbit: where it ends, by the closed form; which continues; no false alarm at full rank."""

from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgeo as jg
from cases.problems import cases, to_float32

ONE = jnp.ones(1)
# Singular values alone compile fastest.
SVD = jg.linalg.SVD()
STRICT, ADAPTIVE = jg.AdaptedFlow(SVD), jg.RankAdaptiveFlow(jg.linalg.SVD(jg.linalg.SmoothCutoff()))


def product(theta, x):
    return theta[0] * theta[1] * x


PRODUCT = jg.Problem(product, ONE, jg.L2(ONE))


def solve(start, flow: jg.AbstractFlow = STRICT, problem=PRODUCT, **options):
    options = {"cost_tol": 1e-6, "throw": False} | options
    return jg.solve_flow(problem, flow, jnp.asarray(start), **options)


def off_law(problem, start, sol):
    """|x − x_exact| / |x_exact − y| at the end."""
    before, after = (problem.loss.deviation(problem.outputs(point)) for point in (start, sol.params))
    exact = np.exp(-float(sol.final_s) / problem.num_samples) * np.asarray(before)
    return np.linalg.norm(after - exact) / np.linalg.norm(exact)


def test_the_orbit_of_a_product_ends_where_it_does():
    """x = 1 − 2e^{-s} comes to 0 at s = log 2, where D = 0: no orbit of θ has x > 0 and θ₁ = −θ₂."""
    sol = solve([1.0, -1.0])
    assert sol.result == jg.RESULTS.rank_lost
    np.testing.assert_allclose(sol.rank_lost_at, np.log(2), atol=1e-5)
    np.testing.assert_allclose(sol.final_s, np.log(2), atol=1e-4)
    assert jnp.isinf(sol.left_law_at)
    np.testing.assert_allclose(sol.final_cost, 0.5, rtol=1e-4)
    assert "ends where D loses rank" in str(sol)
    assert f"D lost rank at s = {np.log(2):.4f}" in str(sol)
    with pytest.raises(RuntimeError, match="ends where D loses rank.*`RankAdaptiveFlow` continues.*`throw=False`"):
        solve([1.0, -1.0], throw=True)


@pytest.mark.parametrize("off", [1e-3, *(pytest.param(off, marks=pytest.mark.slow) for off in (-1e-3, 1e-6, -1e-9))])
def test_beside_it_the_orbit_goes_where_its_first_integrals_say(off):
    """θ₁θ₂ = x(s), and θ₁² − θ₂² is constant as the velocity is along (θ₂, θ₁). It passes D = 0 at |x| about |off|."""
    sol = solve([1.0 + off, -1.0], rtol=min(1e-6, abs(off) / 10))
    assert sol.result == jg.RESULTS.successful
    assert sol.rank_lost_at == jnp.inf
    first, second = sol.params
    assert (jnp.sign(first) == np.sign(off)) & (jnp.sign(second) == np.sign(off))
    np.testing.assert_allclose(first**2 - second**2, (1 + off) ** 2 - 1, atol=1e-4)
    assert np.abs(sol.defect).max() < 1e-4


@pytest.mark.slow
def test_the_rank_adaptive_flow_goes_on_and_says_which_way():
    sol = solve([1.0, -1.0], ADAPTIVE)
    assert sol.result == jg.RESULTS.successful
    np.testing.assert_allclose(sol.rank_lost_at, np.log(2), atol=1e-3)
    # Both (1, 1)/√2 and its negative lead to a minimum.
    np.testing.assert_allclose(jnp.abs(sol.continuation), 0.5**0.5, atol=0.05)
    np.testing.assert_allclose(sol.params, jnp.sign(sol.continuation), atol=2e-3)
    assert f"[0] {float(sol.continuation[0]):+.2f}" in str(sol).partition("it took the one along")[2]
    assert "The cost reached `cost_tol`" in str(sol)
    beside = solve([1.001, -1.0], ADAPTIVE)
    assert beside.rank_lost_at == jnp.inf
    assert not jnp.any(beside.continuation)


@pytest.mark.slow
def test_under_jit_and_vmap_it_is_found_for_the_member_that_it_concerns():
    starts = jnp.array([[1.0, -1.0], [1.0, 0.5]])

    def run(start):
        return jg.solve_flow(PRODUCT, STRICT, start, cost_tol=1e-4, rank_check=False, throw=False, max_steps=256)

    found = eqx.filter_jit(eqx.filter_vmap(run))(starts)
    np.testing.assert_allclose(found.rank_lost_at, [np.log(2), np.inf], atol=1e-5)
    assert (found.result == jg.RESULTS.rank_lost).tolist() == [True, False]
    first, second = str(found).split("\n1: ")
    assert "ends where D loses rank" in first
    assert "reached `cost_tol`" in second
    with pytest.raises(Exception, match="ends where D loses rank"):
        eqx.filter_jit(lambda start: jg.solve_flow(PRODUCT, STRICT, start, cost_tol=1e-4, max_steps=256))(starts[0])


@pytest.mark.slow
def test_steps_of_a_given_size_report_it_and_no_coarse_steps_do():
    options: dict[str, Any] = {"stepsize_controller": dfx.ConstantStepSize(), "dt0": 0.01, "s1": 2.0, "cost_tol": None}
    sol = solve([1.0, -1.0], solver=dfx.Euler(), **options)
    assert sol.result == jg.RESULTS.rank_lost
    np.testing.assert_allclose(sol.rank_lost_at, np.log(2), atol=0.1)
    options["dt0"] = 0.5
    coarse = solve([1.0, 0.5], solver=dfx.Euler(), **options)
    assert coarse.result == jg.RESULTS.successful
    assert coarse.left_law_at == coarse.rank_lost_at == jnp.inf


@pytest.mark.slow
def test_rank_that_is_missing_all_along_ends_the_orbit_at_once():
    """Equal inputs with targets 0.4 apart, of which D moves only the mean."""
    problem = jg.Problem(lambda w, x: w @ x, jnp.ones((2, 2)), jg.L2(jnp.array([0.0, 0.4])))
    sol = jg.solve_flow(problem, STRICT, jnp.ones(2), s1=8.0, rank_check=False, throw=False)
    assert sol.result == jg.RESULTS.rank_lost
    assert sol.rank_lost_at < 1e-2


@pytest.mark.slow
def test_a_fold_with_fewer_parameters_than_outputs():
    """x = θ² (1, 2), y = −(1, 2): ∂ₛθ² = −(θ² + 1)/N, so θ is 0 at s = N log(θ₀² + 1)."""
    problem = jg.Problem(lambda theta, x: theta**2 * x, jnp.array([1.0, 2.0]), jg.L2(jnp.array([-1.0, -2.0])))
    sol = solve(1.2, jg.UnderparametrizedFlow(SVD), problem, cost_tol=None, s1=6.0)
    assert sol.result == jg.RESULTS.rank_lost
    np.testing.assert_allclose(sol.rank_lost_at, 2 * np.log(1.2**2 + 1), atol=1e-3)


@pytest.mark.slow
def test_an_orbit_off_its_law_by_more_than_its_tolerance_says_so():
    """A velocity too long by a thousandth: (x − y) falls as e^{-1.001 s/N}."""

    class TooFast(jg.AbstractFlow):
        def velocity(self, s, jacobian):
            return jax.tree.map(lambda leaf: 1.001 * leaf, STRICT.velocity(s, jacobian))

        def required_rank(self, num_rows, num_params):
            return num_rows

        def follows_law(self, num_rows, num_params):
            return True

    problem = jg.Problem(lambda w, x: w @ x, jnp.eye(2), jg.L2(jnp.array([0.5, -0.5])))
    sol = jg.solve_flow(problem, TooFast(), jnp.zeros(2), s1=4.0, throw=False)
    assert sol.result == jg.RESULTS.left_law
    assert 0 <= sol.left_law_at < 1.0
    assert sol.rank_lost_at == jnp.inf
    assert sol.final_s == 4.0
    assert "It left the law" in str(sol)
    with pytest.raises(RuntimeError, match="left their law.*`left_law_at`"):
        jg.solve_flow(problem, TooFast(), jnp.zeros(2), s1=4.0)


@pytest.mark.slow
def test_derivatives_do_not_see_the_watch():
    """∂θ(s)/∂θ₀ of x = θ is e^{-s}, and that of θ₁θ₂ by differences."""

    def end(start):
        sol = jg.solve_flow(PRODUCT, STRICT, start, s1=1.0, rtol=1e-9, max_steps=64, rank_check=False)
        return sol.params[0]

    start, step = jnp.array([1.0, 0.4]), 1e-5
    slope = jax.grad(end)(start)
    for i, unit in enumerate(jnp.eye(2)):
        difference = (end(start + step * unit) - end(start - step * unit)) / (2 * step)
        np.testing.assert_allclose(slope[i], difference, rtol=1e-5)


@pytest.mark.slow
def test_the_report_on_a_defect_names_the_place():
    with pytest.warns(UserWarning, match="D lost rank at s = 0.6931.*rank: D has lost rank"):
        report = jg.integrate.explain_defect(PRODUCT, STRICT, jnp.array([1.0, -1.0]), 2.0, num_times=3)
    assert report.dominant == "rank"
    np.testing.assert_allclose(report.rank_lost_at, np.log(2), atol=1e-5)


@pytest.mark.slow
def test_a_restart_keeps_every_option(capfd, monkeypatch):
    """A restart from where D is lost, with the adjoint and the progress meter that were asked for."""
    adjoint, adjoints, integrate = dfx.ForwardMode(), [], dfx.diffeqsolve

    def spy(*args, **options):
        adjoints.append(options["adjoint"])
        return integrate(*args, **options)

    monkeypatch.setattr(dfx, "diffeqsolve", spy)
    meter, starts = dfx.TextProgressMeter(minimum_increase=0.9), []

    def restart(problem, params):
        starts.append(params)
        return params + jnp.array([0.5, 0.7])

    sol = solve([1.0, -1.0], cost_tol=1e-4, restart=restart, adjoint=adjoint, progress_meter=meter)
    assert sol.result == jg.RESULTS.successful
    np.testing.assert_allclose(sol.rank_lost_at, np.log(2), atol=1e-5)
    jax.effects_barrier()
    assert capfd.readouterr().out.count("100.00%") == 2
    assert len(starts) == 1
    assert adjoints == [adjoint, adjoint]


def test_outputs_that_are_no_numbers_are_told_from_those_that_overflow():
    problem = jg.Problem(lambda theta, x: jnp.log(theta * x), ONE, jg.L2(ONE))
    for flow in (jg.StandardFlow(), STRICT):
        with pytest.raises(ValueError, match="is nan: an output is not a number.*`log`"):
            jg.solve_flow(problem, flow, jnp.array(-1.0), s1=1.0)


@pytest.mark.slow
def test_in_float32_it_is_found_to_the_tolerance_of_that():
    problem = to_float32(PRODUCT)
    sol = jg.solve_flow(problem, STRICT, jnp.array([1.0, -1.0], jnp.float32), cost_tol=1e-4, throw=False)
    assert sol.result == jg.RESULTS.rank_lost
    # By the tolerance of float32, a thousandth a step.
    np.testing.assert_allclose(sol.rank_lost_at, np.log(2), atol=0.02)


@pytest.mark.slow
def test_a_walk_and_a_traced_solution_are_printed_in_words():
    problem = jg.Problem(lambda w, x: w @ x, jnp.eye(2), jg.L2(jnp.array([0.5, -0.5])))
    walk = jg.solve_interpolation(problem, jnp.zeros(2))
    assert "reached the end of the line" in str(walk)
    shown = []

    @jax.jit
    def run(start):
        shown.append(str(jg.solve_flow(problem, STRICT, start, s1=1.0, throw=False)))
        return start

    run(jnp.zeros(2))
    assert "traced" in shown[0]


# Orbits that end, with where: x₀ → x* at s* = log((x₀ − y)/(x* − y)).
def scalar(function, start, target, end):
    start = jnp.asarray(start, float)
    problem = jg.Problem(lambda theta, x: function(theta) * x, ONE, jg.L2(jnp.array([target])))
    return problem, start, float(jnp.log((function(start) - target) / (end - target)))


def lost(seed):
    rng = np.random.default_rng(seed)
    size, target = rng.uniform(0.3, 2.0, 2)
    w = rng.standard_normal(4)
    mixed = jnp.asarray(rng.standard_normal((2, 2)))
    theta = jnp.asarray(rng.uniform(0.5, 1.5, 2))
    inputs, targets = rng.standard_normal((5, 2)), rng.standard_normal((5, 1))
    inputs[4] = inputs[0]
    params = {"W": jnp.asarray(rng.standard_normal((10, 2))), "v": jnp.asarray(rng.standard_normal((1, 10)) / 3)}
    narrow = params | {"v": jnp.asarray(rng.standard_normal((3, 1))), "m": jnp.asarray(rng.standard_normal((1, 10)))}
    two, three = jnp.asarray(targets), jnp.asarray(rng.standard_normal((5, 3)))
    dead = params | {"b": jnp.asarray(np.r_[np.full(2, 0.5), np.full(8, -50.0)])}
    return [
        scalar(lambda t: t[0] * t[1], [size, -size], target, 0.0),
        scalar(lambda t: t[:4] @ t[4:], np.r_[w, -w], target, 0.0),
        scalar(lambda t: t[0] ** 2, [size], -target, 0.0),
        scalar(lambda t: jnp.tanh(t[0]), [size / 4], 1.0 + target, 1.0),
        # One square falls to 0 on its way to −1/2, seen through two outputs that mix it with another.
        (
            jg.Problem(lambda t, a: a @ t**2, mixed, jg.L2(mixed @ jnp.array([-0.5, 1.2]))),
            theta,
            float(2 * jnp.log((theta[0] ** 2 + 0.5) / 0.5)),
        ),
        # Of these only that they end: repeated inputs, a bottleneck, dead units.
        (jg.Problem(lambda p, x: p["v"] @ jnp.tanh(p["W"] @ x), jnp.asarray(inputs), jg.L2(two)), params, None),
        (
            jg.Problem(lambda p, x: p["v"] @ (p["m"] @ jnp.tanh(p["W"] @ x)), jnp.asarray(inputs), jg.L2(three)),
            narrow,
            None,
        ),
        (
            jg.Problem(lambda p, x: p["v"] @ jax.nn.relu(p["W"] @ x + p["b"]), jnp.asarray(inputs), jg.L2(two)),
            dead,
            None,
        ),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", range(8))
def test_no_orbit_through_rank_loss_is_successful_off_its_law(kind, seed):
    problem, start, end = lost(seed)[kind]
    sol = jg.solve_flow(
        problem, jg.AdaptedFlow(), start, s1=8.0 * problem.num_samples, rank_check=False, throw=False, max_steps=2000
    )
    assert sol.result != jg.RESULTS.successful
    if end is None:
        assert min(sol.rank_lost_at, sol.left_law_at) < 0.1 * problem.num_samples
    else:
        assert sol.result == jg.RESULTS.rank_lost
        np.testing.assert_allclose(sol.rank_lost_at, end, atol=1e-3)
        assert off_law(problem, start, sol) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(48))
def test_an_orbit_of_full_rank_raises_no_alarm(seed):
    """Smooth networks, both dtypes, three tolerances, with and without the corrector, by time and by cost."""
    rng = np.random.default_rng(seed)
    count, width = int(rng.integers(2, 7)), int(rng.integers(6, 16))
    act = [jnp.tanh, jax.nn.gelu, jnp.sin][seed % 3]
    problem = jg.Problem(
        lambda p, x: p["v"] @ act(p["w"] @ x + p["b"]),
        jnp.asarray(rng.standard_normal((count, 3))),
        jg.L2(jnp.asarray(rng.standard_normal((count, 1)))),
    )
    params = {
        "w": jnp.asarray(rng.standard_normal((width, 3))),
        "b": jnp.asarray(rng.standard_normal(width)),
        "v": jnp.asarray(rng.standard_normal((1, width)) / width**0.5),
    }
    narrow = seed % 4 == 3
    if narrow:
        problem, params = to_float32((problem, params))
    rtol = [None, 1e-3, 1e-5 if narrow else 1e-9][seed // 4 % 3]
    solver = jg.OrbitCorrector(dfx.Tsit5()) if seed % 5 == 2 else None
    until: dict[str, Any] = {"s1": 12.0 * count} if seed % 2 else {"cost_tol": 1e-6 if narrow else 1e-10}
    sol = jg.solve_flow(problem, jg.AdaptedFlow(), params, rtol=rtol, solver=solver, **until)
    assert sol.result == jg.RESULTS.successful
    assert sol.left_law_at == sol.rank_lost_at == jnp.inf


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linear over", "linear borderline", "mlp over", "dict", "frozen"])
@pytest.mark.parametrize("rtol", [None, 1e-9])
def test_no_alarm_on_the_problems_of_the_other_tests(name, rtol):
    case = cases()[name]
    sol = jg.solve_flow(case.problem, jg.AdaptedFlow(), case.params, s1=10.0 * case.problem.num_samples, rtol=rtol)
    assert sol.left_law_at == sol.rank_lost_at == jnp.inf


@pytest.mark.slow
def test_a_square_problem_that_comes_to_folds_is_not_successful_off_its_law():
    """K = QN = 9: at s = 0.246 and again at 0.28 σ_min/σ_max falls from 1e-3 to below 1e-7."""
    case = cases()["mlp borderline"]
    sol = jg.solve_flow(case.problem, jg.AdaptedFlow(), case.params, s1=90.0, throw=False)
    assert sol.result == jg.RESULTS.rank_lost
    assert 0.24 < min(sol.left_law_at, sol.rank_lost_at) < 0.29
    assert sol.final_s < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_an_orbit_ends_at_a_kink_only_where_it_cannot_cross_it(seed):
    """Where a unit of ReLU turns on or off, the velocity jumps; it may point to the kink from both sides."""
    rng = np.random.default_rng(seed)
    count, width = int(rng.integers(3, 7)), int(rng.integers(12, 24))
    problem = jg.Problem(
        lambda p, x: p["v"] @ jax.nn.relu(p["w"] @ x + p["b"]),
        jnp.asarray(rng.standard_normal((count, 3))),
        jg.L2(jnp.asarray(rng.standard_normal((count, 1)))),
    )
    params = {
        "w": jnp.asarray(rng.standard_normal((width, 3))),
        "b": jnp.asarray(rng.standard_normal(width)),
        "v": jnp.asarray(rng.standard_normal((1, width)) / width**0.5),
    }
    sol = jg.solve_flow(problem, jg.AdaptedFlow(), params, s1=8.0 * count, throw=False)
    if sol.result == jg.RESULTS.successful:
        assert off_law(problem, params, sol) < 1e-3
    elif sol.result == jg.RESULTS.rank_lost:
        units = jax.vmap(lambda x: sol.params["w"] @ x + sol.params["b"])(problem.blocks[0].inputs)
        assert jnp.min(jnp.abs(units)) < 1e-3
    else:
        assert sol.result == jg.RESULTS.left_law


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_an_orbit_that_begins_where_d_is_nearly_singular_raises_none(seed):
    """From small weights σ_min is 1e-6 to 1e-5 of σ_max: θ moves far at first, the outputs keep their law."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(5, 2))
    targets = np.sin(2 * inputs @ rng.normal(size=(2, 1))) + 0.5
    problem = jg.Problem(lambda p, x: p["v"] @ jnp.tanh(p["w"] @ x), jnp.asarray(inputs), jg.L2(targets))
    rng = np.random.default_rng(seed)
    params = {"w": jnp.asarray(0.03 * rng.normal(size=(6, 2))), "v": jnp.asarray(0.03 * rng.normal(size=(1, 6)))}
    values = np.linalg.svd(problem.jacobian(params).as_matrix(), compute_uv=False)
    assert values[-1] < 1e-4 * values[0]
    sol = jg.solve_flow(problem, jg.AdaptedFlow(), params, s1=60.0)
    assert sol.left_law_at == sol.rank_lost_at == jnp.inf
    assert np.abs(sol.defect).max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("rtol", [1e-4, 1e-6])
def test_a_flow_that_goes_on_is_not_successful_at_a_higher_cost(rtol):
    """Where D all but loses rank, a step of an ODE solver can raise the cost by orders of magnitude and not see it."""
    grid, rng = jnp.linspace(-1, 1, 30), np.random.default_rng(1)
    curve = jnp.sin(3 * grid) + 0.1 * np.random.default_rng(0).normal(size=30)

    def network(params, x):
        return params["out"] @ jnp.tanh(params["in"] * x + params["bias"]) + params["shift"]

    params = {key: jnp.asarray(rng.normal(size=3)) for key in ("in", "bias", "out")} | {"shift": jnp.array(0.0)}
    problem = jg.Problem(network, grid, jg.L2(curve))
    sol = jg.solve_flow(problem, jg.RankAdaptiveFlow(), params, s1=300.0, rtol=rtol, throw=False)
    assert (sol.result != jg.RESULTS.successful) | (sol.final_cost < sol.initial_cost)
    cut = jg.RankAdaptiveFlow(jg.linalg.SVD(jg.linalg.SmoothCutoff(1e-4)))
    assert jg.solve_flow(problem, cut, params, s1=300.0, rtol=rtol).final_cost < 0.003
