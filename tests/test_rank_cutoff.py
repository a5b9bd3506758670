"""Levenberg–Marquardt with numerical loss of rank: networks on the residuals of a differential equation."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import jaxgeo as jg
from cases.fitting import scanned
from cases.matrices import linear_problem, with_spectrum
from jaxgeo.linalg.linearisation import Linearisation
from jaxgeo.linalg.singular import svd_of_triangle
from jaxgeo.linalg.solvers.base import DECOMPOSED, SOLVED
from jaxgeo.linalg.spectra import reciprocal_condition
from jaxgeo.optim.attempt import is_worth_taking, shorten
from jaxgeo.optim.info import empty_step


def solve(problem, params, steps, **options):
    return scanned(jg.optim.adapted_levenberg_marquardt(**options), problem, params, steps)


def small():
    equation = jg.equations.poisson_2d((16,))
    problem = equation.problem(equation.points(jr.key(0), (100, 40)))
    return problem, equation.init(jr.key(0))


@pytest.mark.slow
def test_a_cut_off_takes_over_and_the_cost_never_rises():
    problem, params = small()
    _, infos = solve(problem, params, 80)
    assert jnp.mean(infos.outcome == DECOMPOSED) > 0.8
    assert bool((infos.new_cost <= infos.cost).all())
    taken = infos.accepted & (infos.outcome == DECOMPOSED)
    assert bool((infos.rank[taken] < problem.num_params(params)).any())
    assert infos.new_cost[-1] < 1e-8 * infos.cost[0]


@pytest.mark.slow
def test_corrections_for_curvature_go_further():
    problem, params = small()
    costs = [
        solve(problem, params, 80, cutoff=jg.optim.RankCutoff(corrections=count))[1].new_cost[-1] for count in (0, 20)
    ]
    assert costs[1] < 1e-3 * costs[0]


@pytest.mark.parametrize(
    ("smallest", "outcome"), [pytest.param(1e-7, SOLVED, marks=pytest.mark.slow), (1e-9, DECOMPOSED)]
)
def test_it_is_the_rank_of_the_scaled_jacobian_that_decides(smallest, outcome):
    """In scaled parameters the spectrum counts, not the units of the parameters."""
    matrix = with_spectrum(8, 3, [1.0, 0.5, smallest]) * jnp.array([[1e9, 1.0, 1e-9]])
    problem, params = linear_problem(matrix)
    problem = jg.Problem(problem.blocks[0].apply, problem.blocks[0].inputs, jg.L2(jnp.ones((8, 1))))
    _, infos = solve(problem, params, 1, cutoff=jg.optim.RankCutoff(least=0))
    assert infos.outcome[0] == outcome


def linearised(problem, params):
    """The linearisation, and the singular values of D."""
    linear = Linearisation(problem, params, jg.metrics.CostHessian())
    matrix = linear.jacobian.as_matrix()
    return linear, svd_of_triangle(matrix, *jnp.linalg.qr(matrix))


def linear_outputs(matrix):
    """The same for D at θ = 0 and targets of 1."""
    problem = jg.Problem(lambda a, t: matrix @ a * t, jnp.ones(1), jg.L2(jnp.ones((1, len(matrix)))))
    return linearised(problem, jnp.zeros(matrix.shape[1]))


def proposed(linear, svd, **options):
    """A step: the policy, its first state, and the proposal."""
    policy = jg.optim.RankCutoff(**options)
    state = policy.init(jnp.dtype(jnp.float64))
    return policy, state, policy.propose(linear, svd, state)


def test_corrections_leave_out_the_smallest_singular_values_of_the_step():
    linear, svd = linear_outputs(jnp.asarray(with_spectrum(8, 4, [1.0, 0.1, 1e-4, 1e-6])))
    rows = jnp.ones((1, 8))
    for relative, margin, step, correction in ((1e-5, 100.0, 3, 2), (1e-5, 1.0, 3, 3), (1e-3, 1e6, 2, 2)):
        *_, proposal = proposed(linear, svd, initial=relative, margin=margin)
        wanted = svd.coefficients(rows.reshape(-1)) / svd.values
        for lifted, count in ((proposal.attempt.step, step), (proposal.attempt.correct(rows), correction)):
            parts = svd.right @ lifted
            np.testing.assert_allclose(parts[:count], wanted[:count], rtol=1e-8)
            np.testing.assert_allclose(parts[count:], 0, atol=1e-8 * float(abs(wanted[count - 1])))


def test_a_halved_step_is_made_longer_again_if_that_lowers_the_cost():
    """x = θ + 1.5 θ⁸ from 0 to 1: the whole step leaves 1.5 of 1, half of it 0.494, and three quarters 0.0998."""
    problem, params = jg.Problem(lambda a, t: a + 1.5 * a**8 * t, jnp.ones(1), jg.L2(jnp.ones((1, 1)))), jnp.zeros(1)

    @jax.jit
    def step(first):
        *_, proposal = proposed(*linearised(problem, params), corrections=0)
        taken, _, following = proposal.learn(shorten(proposal.attempt, is_worth_taking, proposal.halvings, first))
        return taken.fraction, taken.trial.step, taken.trial.cost, proposal.first, following.first

    assert step(None)[0] == 0.5
    fraction, length, cost, first, following = step(jnp.ones(()))
    assert (fraction, first, following) == (0.75, 1, 1)
    np.testing.assert_allclose(length, 0.75)
    np.testing.assert_allclose(cost, (0.25 - 1.5 * 0.75**8) ** 2 / 2)
    # An eighth is made half as long again, and the next step begins at four times the fraction that was taken.
    fraction, *_, following = step(jnp.array(0.125))
    assert (fraction, following) == (0.1875, 0.75)


def test_there_are_as_many_accelerated_corrections_as_are_asked_for():
    found = linear_outputs(jnp.eye(3, 2))
    attempts = [proposed(*found, **options)[2].attempt for options in ({}, {"corrections": 5})]
    assert [(attempt.most, attempt.accelerated) for attempt in attempts] == [(20, True), (5, True)]
    assert proposed(*found, corrections=0)[2].attempt.correct is None


def test_the_cut_off_follows_how_much_of_the_step_was_taken():
    found = linear_outputs(jnp.eye(3, 2))

    def factors(*fractions, **options):
        """The factors of the cut-off once these fractions were taken."""
        policy, state, proposal = proposed(*found, **options)
        tried, ratios = shorten(proposal.attempt, is_worth_taking, 0), []
        for fraction in fractions:
            taken, report, following = proposal.learn(tried._replace(fraction=jnp.array(fraction)))
            assert (taken.fraction, report.rank) == (fraction, 2)
            assert following.pace == state.pace
            assert following.first == (min(4 * fraction, 1) if fraction else 1)
            ratios.append(round(float(following.relative / state.relative), 3))
        return ratios

    assert factors(0.0, 0.125, 0.13, 0.49, 0.5, 1.0) == [3, 3, 1, 1, 0.1, 0.1]
    assert factors(0.3, good=0.25, decrease=4.0) == [0.25]
    assert factors(0.3, bad=0.3, increase=2.0) == [2]
    assert factors(0.0, maximum=2e-3) == [2]
    assert factors(1.0, initial=1e-15) == [pytest.approx(3 * np.finfo(float).eps / 1e-15, abs=1e-3)]


def test_steps_are_damped_while_they_halve_the_cost_in_less_time():
    policy = jg.optim.RankCutoff(directions=(4, 16))
    start = policy.init(jnp.dtype(jnp.float64))._replace(pace=jnp.array(-0.1))
    share = policy.share(200, 100)
    # 2·200·100² + 100³/3 of a damped step; of one by 16 directions, two products with D, two QR decompositions, an SVD.
    np.testing.assert_allclose(share, 4.3333e6 / (1.28e6 + 0.1024e6 + 0.2048e6 + 26 * 16**3), rtol=1e-3)
    assert policy.share(200, 18) < 1

    def after(new_cost, accepted=True, rows=200, columns=18, damping=1e-8, pace=-0.1):
        info = empty_step(jnp.dtype(jnp.float64))._replace(
            cost=jnp.array(1.0), new_cost=jnp.array(new_cost), damping=jnp.array(1e-8), accepted=jnp.array(accepted)
        )
        state = start._replace(pace=jnp.array(pace))
        return policy.after_damped(state, info, (rows, columns), jnp.array(damping))

    enough = np.exp(-np.log(2) * policy.share(200, 18))
    needed = np.exp((np.log(enough) + 0.7 * 0.1) / 0.3)
    top = len(policy.ladder(200, 18)) - 1
    state, rung = after(0.99 * needed)
    assert (rung, state.relative) == (-1, start.relative)
    state, rung = after(1.01 * needed)
    assert rung == top
    np.testing.assert_allclose(state.relative, 1e-6)
    assert after(needed / 10, accepted=False)[1] == top
    # Below, DᵀD could not be factorised. Once D has turned out not to be of low rank, that does not matter.
    least = policy.least_damping(200, 18)
    np.testing.assert_allclose(least, 2 * 200 * np.sqrt(18) * np.finfo(float).eps)
    assert after(needed / 10, damping=1.01 * least)[1] == -1
    assert after(needed / 10, damping=0.99 * least)[1] == top
    assert after(needed / 10, damping=0.99 * least, pace=-100.0)[1] == -1


@pytest.mark.slow
def test_steps_are_longer_where_corrections_leave_out_the_smallest_singular_values():
    """In the mean over starts: which of two ways leads lower from any one of them is chance."""
    equation = jg.equations.poisson_2d((32,))
    problem = equation.problem(equation.points(jr.key(0)))

    def final(seed, margin):
        cutoff = jg.optim.RankCutoff(margin=margin)
        return solve(problem, equation.init(jr.key(seed)), 40, cutoff=cutoff)[1].new_cost[-1]

    costs = [[final(seed, margin) for margin in (1.0, 100.0)] for seed in range(5)]
    before, after = np.mean(np.log(np.array(costs)), axis=0)
    assert after < before - np.log(10)


@pytest.mark.slow
def test_after_a_step_that_failed_a_bounded_one_is_tried():
    problem, params = small()
    _, infos = solve(problem, params, 30, cutoff=jg.optim.RankCutoff(halvings=0, corrections=0))
    outcomes, accepted = infos.outcome.tolist(), infos.accepted.tolist()
    failed = [k for k in range(29) if outcomes[k] == DECOMPOSED and not accepted[k]]
    assert failed
    assert all(outcomes[k + 1] == SOLVED for k in failed)
    assert any(accepted[k + 1] for k in failed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_poisson_to_an_error_of_1e_9_by_default(seed):
    equation = jg.equations.poisson_2d()
    params, _ = solve(equation.problem(equation.points(jr.key(0))), equation.init(jr.key(seed)), 100)
    assert equation.error(params, jr.uniform(jr.key(1), (4000, 2))) < 1e-9


@pytest.mark.parametrize("smallest", [0.5, 1e-7, 1e-9, 1e-14])
@pytest.mark.parametrize("count", [2, 60])
def test_the_condition_is_estimated_within_a_factor(smallest, count):
    values = np.geomspace(1, smallest, count)
    triangle = np.linalg.qr(with_spectrum(80, count, values))[1]
    ratio = reciprocal_condition(jnp.asarray(triangle)) / smallest
    assert 0.9 < ratio < 2.5


def test_a_singular_triangle_has_no_condition():
    condition = jax.jit(reciprocal_condition)
    assert condition(jnp.zeros((3, 3))) == 0
    assert condition(jnp.diag(jnp.array([1.0, 0.0, 2.0]))) == 0
    assert condition(jnp.full((3, 3), jnp.nan)) == 0
