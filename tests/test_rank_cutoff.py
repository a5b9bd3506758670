"""Levenberg–Marquardt with numerical loss of rank: networks on the residuals of a differential equation."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

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
        solve(problem, params, 80, cutoff=jg.optim.RankCutoff(corrections=count))[1].new_cost[-1] for count in (0, 8)
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


def test_the_second_step_goes_beyond_its_cut_off_by_a_bounded_length():
    """On straight outputs, where the gain is what was predicted, so that the next length is twice this one."""
    problem, params = linear_problem(with_spectrum(8, 3, [1.0, 0.5, 1e-5]))
    problem = jg.Problem(problem.blocks[0].apply, problem.blocks[0].inputs, jg.L2(jnp.ones((8, 1))))

    @functools.partial(jax.jit, static_argnums=0)
    def step(enough):
        linear = Linearisation(problem, params, jg.metrics.CostHessian())
        matrix = linear.jacobian.as_matrix()
        svd = svd_of_triangle(matrix, *jnp.linalg.qr(matrix))
        state = jg.optim.RankCutoff().init(jnp.dtype(jnp.float64))._replace(radius=jnp.array(0.7))
        proposal = jg.optim.RankCutoff(enough=enough).propose(linear, svd, state)
        taken, report, after = proposal.learn(shorten(proposal.attempt, is_worth_taking, proposal.halvings))
        kept = svd.coefficients(-linear.residual.reshape(-1)) / svd.values
        parts = svd.right @ ravel_pytree(taken.trial.step)[0]
        return (taken.fraction, taken.accepted, report.rank), parts, kept, after[:3]

    found, parts, kept, after = step(1.0)
    assert found == (1, True, 2)
    np.testing.assert_allclose(parts[:2], kept[:2], rtol=1e-10)
    np.testing.assert_allclose(abs(parts[2]), 0.7, rtol=1e-6)
    np.testing.assert_allclose(after, (1e-3 / 3, 1e-3 / 1.25, 1.4), rtol=1e-6)

    # Where the first step takes off enough, the second is not taken.
    _, parts, *_ = step(1e-3)
    np.testing.assert_allclose(parts[2], 0, atol=1e-9)


def test_a_halved_step_is_made_longer_again_if_that_lowers_the_cost():
    """x = θ + 1.5 θ⁸ from 0 to 1: the whole step leaves 1.5 of 1, half of it 0.494, and three quarters 0.0998."""
    problem, params = jg.Problem(lambda a, t: a + 1.5 * a**8 * t, jnp.ones(1), jg.L2(jnp.ones((1, 1)))), jnp.zeros(1)

    @functools.partial(jax.jit, static_argnums=0)
    def step(lengthens):
        linear = Linearisation(problem, params, jg.metrics.CostHessian())
        matrix = linear.jacobian.as_matrix()
        svd = svd_of_triangle(matrix, *jnp.linalg.qr(matrix))
        policy = jg.optim.RankCutoff(corrections=0)
        proposal = policy.propose(linear, svd, policy.init(jnp.dtype(jnp.float64)))
        assert proposal.lengthens
        tried = shorten(proposal.attempt, is_worth_taking, proposal.halvings, lengthens=lengthens)
        taken, *_ = proposal.learn(tried)
        return taken.fraction, taken.trial.step, taken.trial.cost

    assert step(False)[0] == 0.5
    fraction, length, cost = step(True)
    assert fraction == 0.75
    np.testing.assert_allclose(length, 0.75)
    np.testing.assert_allclose(cost, (0.25 - 1.5 * 0.75**8) ** 2 / 2)


def test_what_is_asked_for_holds_in_accelerated_steps_too():
    problem = jg.Problem(lambda a, t: a @ t, jnp.eye(3, 2), jg.L2(jnp.ones((3, 1))))
    linear = Linearisation(problem, jnp.zeros(2), jg.metrics.CostHessian())
    matrix = linear.jacobian.as_matrix()
    svd = svd_of_triangle(matrix, *jnp.linalg.qr(matrix))

    def proposed(most, fraction, **options):
        """Corrections, whether they are accelerated, and the factor of the cut-off once this fraction was taken."""
        policy = jg.optim.RankCutoff(directions=(1, most), **options)
        state = policy.init(jnp.dtype(jnp.float64))
        proposal = policy.propose(linear, svd, state)
        tried = shorten(proposal.attempt, is_worth_taking, 0)
        # No other step is lower.
        lowest = eqx.tree_at(lambda trial: trial.cost, tried.trial, jnp.zeros(()))
        *_, following = proposal.learn(tried._replace(trial=lowest, fraction=jnp.array(fraction)))
        return proposal.attempt.most, proposal.attempt.accelerated, round(float(following.fine / state.fine), 3)

    assert proposed(2, 0.3) == (8, False, 0.333)
    assert proposed(1, 0.3) == (20, True, 1.0)
    assert proposed(1, 0.3, good=0.25, corrections=5) == (5, True, 0.333)
    assert proposed(1, 0.1) == (20, True, 3.0)
    assert proposed(1, 0.1, increase=2.0) == (20, True, 2.0)
    assert proposed(1, 0.1, bad=0.05) == (20, True, 1.0)
    assert proposed(1, 0.3, corrections=0) == (0, False, 0.333)


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
    assert (rung, state.fine) == (-1, start.fine)
    state, rung = after(1.01 * needed)
    assert rung == top
    np.testing.assert_allclose(state.fine, 1e-6)
    assert after(needed / 10, accepted=False)[1] == top
    # Below, DᵀD could not be factorised. Once D has turned out not to be of low rank, that does not matter.
    least = policy.least_damping(200, 18)
    np.testing.assert_allclose(least, 2 * 200 * np.sqrt(18) * np.finfo(float).eps)
    assert after(needed / 10, damping=1.01 * least)[1] == -1
    assert after(needed / 10, damping=0.99 * least)[1] == top
    assert after(needed / 10, damping=0.99 * least, pace=-100.0)[1] == -1


@pytest.mark.slow
def test_the_second_step_goes_further_along_flat_valleys():
    """In the mean over starts: which of two ways leads lower from any one of them is chance."""
    equation = jg.equations.poisson_2d((16,))
    problem = equation.problem(equation.points(jr.key(0), (100, 40)))

    def final(seed, part):
        return solve(problem, equation.init(jr.key(seed)), 40, cutoff=jg.optim.RankCutoff(enough=part))[1].new_cost[-1]

    costs = [[final(seed, part) for part in (1e-30, 0.03)] for seed in range(5)]
    before, after = np.mean(np.log(np.array(costs)), axis=0)
    assert after < before - np.log(2)


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
    params, _ = solve(equation.problem(equation.points(jr.key(0))), equation.init(jr.key(seed)), 200)
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
