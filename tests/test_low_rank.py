"""The leading singular values of D against a dense decomposition, and Levenberg–Marquardt through them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from differences import derivative

import jaxgeo as jg
from cases.fitting import scanned
from cases.matrices import linear_problem, pseudo_inverse, relative_error, with_spectrum
from jaxgeo.linalg.low_rank import leading_singular_values
from jaxgeo.linalg.solvers.base import DECOMPOSED
from jaxgeo.optim.rank_cutoff import RankCutoff

# Even in the logarithm, as for networks on the residuals of differential equations.
SPECTRUM = 10.0 ** -np.linspace(0, 12, 80)


decomposed = eqx.filter_jit(leading_singular_values)


def leading(matrix, counts, choice, seed=0):
    return decomposed(jnp.asarray(matrix), counts, jnp.asarray(choice), jr.key(seed))


@eqx.filter_jit
def lifted(svd, velocity, cutoff):
    return svd.lift(velocity, svd.kept(cutoff))


@pytest.mark.parametrize("shape", [(120, 80), (80, 120)])
def test_the_leading_singular_values_are_those_of_a_decomposition(shape):
    matrix = with_spectrum(*shape, SPECTRUM)
    svd, rest = leading(matrix, (20, 40), 1)
    found = np.asarray(svd.values)
    assert (found <= SPECTRUM[:40] * (1 + 1e-12)).all()
    np.testing.assert_allclose(found[:30], SPECTRUM[:30], rtol=1e-2)
    np.testing.assert_allclose(found[:20], SPECTRUM[:20], rtol=1e-5)
    basis, left, values, right = map(np.asarray, (svd.orthogonal, svd.left, svd.values, svd.right))
    left_over = np.linalg.norm(matrix - basis @ (basis.T @ matrix))
    assert 0.1 < rest / left_over < 10
    np.testing.assert_allclose(right @ right.T, np.eye(40), atol=1e-12)
    np.testing.assert_allclose(basis @ left @ (values[:, None] * right), basis @ (basis.T @ matrix), atol=1e-14)


def test_fewer_directions_than_the_most_are_followed_by_zeros():
    matrix = with_spectrum(120, 80, SPECTRUM)
    svd, _ = leading(matrix, (20, 40), 0)
    assert svd.values.shape == (40,)
    assert not svd.values[20:].any()
    assert not svd.kept(jnp.asarray(0.0))[20:].any()
    velocity = np.random.default_rng(1).standard_normal(120)
    found = lifted(svd, jnp.asarray(velocity), jnp.asarray(1e-1))
    assert relative_error(found, pseudo_inverse(matrix, velocity, 1e-1)) < 1e-2


def test_a_lift_through_what_is_far_above_the_last_is_that_of_all_of_d():
    matrix = with_spectrum(120, 80, SPECTRUM)
    velocity = matrix @ np.random.default_rng(1).standard_normal(80)
    for seed in range(3):
        svd, _ = leading(matrix, (60,), 0, seed)
        found = lifted(svd, jnp.asarray(velocity), jnp.asarray(1e-5))
        assert relative_error(found, pseudo_inverse(matrix, velocity, 1e-5)) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(12, 9), pytest.param((9, 12), marks=pytest.mark.slow)])
def test_a_lift_has_the_derivative_of_a_d_without_further_directions(shape):
    """Of a matrix of rank 4, moved within matrices of rank 4; by its own decomposition at each point."""
    rng = np.random.default_rng(0)
    start = with_spectrum(*shape, [1.0, 0.5, 0.2, 0.1])
    turn = [rng.standard_normal((n, n)) / 5 for n in shape]
    velocity, weights = (jnp.asarray(rng.standard_normal(n)) for n in shape)

    def moved(t):
        left, right = (jnp.eye(len(part)) + t * jnp.asarray(part) for part in turn)
        return left @ jnp.asarray(start) @ right

    def value(t):
        svd, _ = leading_singular_values(moved(t), (4,), jnp.asarray(0), jr.key(0))
        return weights @ svd.lift(velocity, svd.kept(jnp.asarray(1e-3)))

    slope, error = derivative(jax.jit(value))
    np.testing.assert_allclose(jax.jit(jax.jacfwd(value))(0.0), slope, atol=max(1e-8 * abs(slope), 10 * error))
    np.testing.assert_allclose(jax.jit(jax.grad(value))(0.0), slope, atol=max(1e-8 * abs(slope), 10 * error))
    with pytest.raises(NotImplementedError, match="second derivatives.*4 singular values.*Use first derivatives"):
        jax.jit(jax.jacfwd(jax.jacfwd(value)))(0.0)


def test_the_number_of_directions_follows_what_is_left_of_d():
    policy, matrix = RankCutoff(directions=(8, 30)), jnp.asarray(with_spectrum(120, 80, SPECTRUM))
    assert policy.ladder(120, 80) == (8, 11, 16, 23, 30)
    assert policy.ladder(120, 16) == (8, 11, 16)
    assert policy.ladder(5, 80) == (5,)
    # All of them take hardly longer than the most.
    assert policy.ladder(120, 37) == (8, 11, 16, 23, 37)
    assert policy.ladder(120, 38) == (8, 11, 16, 23, 30)
    assert RankCutoff(directions=(1, 4)).ladder(120, 80) == (1, 2, 3, 4)
    assert [RankCutoff().ladder(6000, columns)[-1] for columns in (1810, 1811)] == [1810, 1448]
    # There are no more than rows.
    assert policy.ladder(5, 37) == (5,)

    @eqx.filter_jit
    def next_rung(policy, fine, rung):
        return policy.leading(matrix, fine, rung, jnp.zeros((), jnp.int32))[1]

    def following(rung, fine, policy=policy):
        return int(next_rung(policy, jnp.asarray(fine), jnp.asarray(rung, jnp.int32)))

    # σ falls to 0.04 after 8 directions, 5e-3 after 16, 3e-5 after 30.
    assert following(0, 1e-2) == 1
    assert following(2, 2e-2) == 2
    assert following(2, 0.9) == 1
    assert following(0, 0.9) == 0
    # More where the remainder exceeds three cut-offs; fewer where 11 directions would leave less than one.
    svd, rest = leading_singular_values(matrix, policy.ladder(120, 80), jnp.asarray(2), jr.fold_in(jr.key(0), 0))
    rest, beyond = float(rest / svd.unit), float(jnp.linalg.norm(svd.relative()[11:]))
    assert rest < beyond
    assert [following(2, rest / factor) for factor in (2.9, 3.1)] == [2, 3]
    assert [following(2, factor * beyond) for factor in (0.99, 1.01)] == [2, 1]
    # As many as there may be, and too much is left.
    assert following(4, 1e-3) == -1
    assert following(4, 1e-6, RankCutoff(directions=(8, 30), slow=1e-3)) == 4


def low_rank(**options):
    """The default way of networks with more than 1024 parameters, for small ones."""
    return jg.optim.adapted_levenberg_marquardt(
        scaling=jg.optim.ColumnScaling(max_params=0), cutoff=RankCutoff(directions=(16, 48), **options)
    )


@pytest.mark.slow
def test_a_differential_equation_is_solved_through_the_leading_directions():
    equation = jg.equations.poisson_2d((16,))
    problem, params = equation.problem(equation.points(jr.key(0), (100, 40))), equation.init(jr.key(0))
    _, infos = scanned(low_rank(), problem, params, 80)
    assert infos.outcome[0] != DECOMPOSED
    assert (infos.outcome[-20:] == DECOMPOSED).all()
    assert (infos.new_cost <= infos.cost).all()
    assert infos.rank.max() > 16
    assert infos.new_cost[-1] < 1e-8 * infos.cost[0]


@pytest.mark.slow
def test_where_d_is_not_of_low_rank_steps_are_damped():
    """On straight outputs with all singular values near 1, which one undamped step solves."""
    matrix = with_spectrum(90, 80, np.linspace(1, 0.5, 80))
    problem, params = linear_problem(matrix)
    targets = jnp.asarray(matrix @ np.ones(80))[:, None]
    problem = jg.Problem(problem.blocks[0].apply, problem.blocks[0].inputs, jg.L2(targets))
    tx = low_rank()
    update = jax.jit(lambda params, state: tx.update(params, state, params, problem=problem))
    outcomes = []
    state = tx.init(params)._replace(rung=jnp.array(0, jnp.int32))
    for _ in range(8):
        step, state = update(params, state)
        params = params + step
        outcomes.append(int(state.info.outcome))
    # By 16, 23, 33 and 48 directions, which leave too much of D.
    assert outcomes[:4] == 4 * [DECOMPOSED]
    assert DECOMPOSED not in outcomes[4:]
    assert state.info.new_cost < 1e-20


@pytest.mark.slow
def test_updates_have_the_derivatives_of_their_differences():
    equation = jg.equations.poisson_2d((4,))
    problem, params = equation.problem(equation.points(jr.key(0), (25, 8))), equation.init(jr.key(0))
    tx = jg.optim.adapted_levenberg_marquardt(
        scaling=jg.optim.ColumnScaling(max_params=0), cutoff=RankCutoff(directions=(17, 17))
    )

    @jax.jit
    def end(t):
        start = jax.tree.map(lambda leaf: leaf * (1 + t), params)
        state = tx.init(start)._replace(rung=jnp.array(0, jnp.int32))
        updates, _ = tx.update(start, state, start, problem=problem)
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(updates))

    slope, error = derivative(end)
    assert error < 1e-6 * abs(slope)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(end))(0.0), slope, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.grad(end))(0.0), slope, rtol=1e-6)
