"""Each solver of the lift against numpy: at any rank, K above, at and below QN, with damping, in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgeo as jg
from cases.matrices import (
    damped_inverse,
    jacobian_of,
    linear_problem,
    pseudo_inverse,
    relative_error,
    solve,
    with_spectrum,
)
from jaxgeo.linalg import (
    CG,
    LSMR,
    QR,
    SVD,
    Auto,
    DenseCholesky,
    GramCholesky,
    GramEigh,
    HardCutoff,
    NormalCholesky,
    Nystrom,
    SmoothCutoff,
)

SHAPES = [(8, 20), (12, 12), (20, 8)]
RANK_SAFE = [Auto(), QR(), SVD(), SVD(SmoothCutoff()), DenseCholesky(), GramCholesky(), GramEigh(), LSMR(rtol=1e-13)]
DAMPED = [
    Auto(),
    QR(),
    SVD(),
    DenseCholesky(),
    GramCholesky(),
    GramEigh(),
    NormalCholesky(chunk_size=3),
    CG(rtol=1e-13),
]


def name(solver):
    return type(solver).__name__


def spectrum(shape, rank, condition):
    return np.logspace(0, -np.log10(condition), min(shape))[:rank]


@pytest.fixture
def velocity():
    return lambda rows, dtype=np.float64: np.random.default_rng(1).standard_normal(rows).astype(dtype)


def shapes(solvers, fast, chosen=tuple(SHAPES)):
    """Each solver with each shape; fast with one of them, and where the solver chooses by the shape with several."""
    return [
        pytest.param(
            solver,
            shape,
            marks=[pytest.mark.slow] * (shape not in (chosen if type(solver) is Auto else (fast,))),
            id=f"{name(solver)}-{shape}",
        )
        for solver in solvers
        for shape in SHAPES
    ]


@pytest.mark.parametrize(("solver", "shape"), shapes(RANK_SAFE, (8, 20)))
def test_any_rank_by_least_squares(solver, shape, velocity):
    for rank in (min(shape), min(shape) - 3):
        matrix, rows = with_spectrum(*shape, spectrum(shape, rank, 100.0)), velocity(shape[0])
        value, info = solve(solver, jnp.asarray(matrix), jnp.asarray(rows))
        expected = pseudo_inverse(matrix, rows, 1e-10)
        assert relative_error(value, expected) < 1e-10
        residual = np.linalg.norm(matrix @ expected - rows) / np.linalg.norm(rows)
        assert abs(float(info.residual) - residual) < 1e-9
        assert int(info.outcome) in (0, 2)
        assert int(info.rank) in ({-1, rank} if name(solver) == "LSMR" else {rank})


@pytest.mark.parametrize(("solver", "shape"), shapes(DAMPED, (20, 8), [(8, 20), (20, 8)]))
def test_damped_lift_is_one_vector_from_every_side(solver, shape, velocity):
    matrix, rows = with_spectrum(*shape, spectrum(shape, min(shape), 1e3)), velocity(shape[0])
    for damping in (1e-4, 1.0):
        value, _ = solve(solver, jnp.asarray(matrix), jnp.asarray(rows), jnp.asarray(damping))
        assert relative_error(value, damped_inverse(matrix, rows, damping)) < 1e-9


@pytest.mark.slow
def test_damping_is_traced_and_not_compiled_again(velocity):
    traces = []

    @jax.jit
    def lift(matrix, rows, damping):
        traces.append(None)
        return GramCholesky().solve(jacobian_of(matrix), rows, damping)[0]

    matrix, rows = jnp.asarray(with_spectrum(4, 9, np.ones(4))), jnp.asarray(velocity(4)).reshape(-1, 1)
    first, second = (lift(matrix, rows, damping) for damping in (0.1, 0.2))
    assert len(traces) == 1
    np.testing.assert_allclose(first * 1.1, second * 1.2, rtol=1e-12)


@pytest.mark.parametrize("condition", [1e6, 1e9, 1e12])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_auto_is_as_precise_as_the_best_when_ill_conditioned(shape, condition, velocity):
    matrix, rows = with_spectrum(*shape, spectrum(shape, min(shape), condition)), velocity(shape[0])
    expected = pseudo_inverse(matrix, rows, 1e-14)
    errors = [
        relative_error(solve(solver, jnp.asarray(matrix), jnp.asarray(rows))[0], expected)
        for solver in (Auto(), QR(), SVD(HardCutoff(1e-14)))
    ]
    assert errors[0] <= 10 * min(errors)
    assert errors[0] < 1e-15 * condition


@pytest.mark.parametrize(
    ("solver", "shape"), shapes([Auto(), QR(), DenseCholesky(), SVD()], (8, 20), [(8, 20), (20, 8)])
)
def test_float32_is_solved_to_its_own_round_off(solver, shape, velocity):
    for rank in (min(shape), min(shape) - 3):
        matrix = with_spectrum(*shape, spectrum(shape, rank, 1e4), np.float32)
        rows = velocity(shape[0], np.float32)
        value, info = solve(solver, jnp.asarray(matrix), jnp.asarray(rows))
        assert value.dtype == info.residual.dtype == jnp.float32
        assert relative_error(value, pseudo_inverse(matrix, rows, 1e-6)) < 3e-7


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES[::2], ids=str)
def test_lsmr_takes_float32_where_x64_is_on(shape, velocity):
    matrix = with_spectrum(*shape, spectrum(shape, min(shape), 10.0), np.float32)
    rows = velocity(shape[0], np.float32)
    value, info = solve(LSMR(), jnp.asarray(matrix), jnp.asarray(rows))
    assert value.dtype == info.residual.dtype == jnp.float32
    assert relative_error(value, pseudo_inverse(matrix, rows, 1e-6)) < 1e-5
    damped, _ = solve(LSMR(), jnp.asarray(matrix), jnp.asarray(rows), jnp.asarray(0.1, jnp.float32))
    assert relative_error(damped, damped_inverse(matrix, rows, 0.1)) < 1e-5


@pytest.mark.parametrize(
    "solver",
    [
        *(pytest.param(solver, marks=pytest.mark.slow) for solver in (GramCholesky(), GramEigh())),
        NormalCholesky(chunk_size=3),
    ],
    ids=name,
)
def test_products_in_float32_cost_a_condition_number(solver, velocity):
    shape = (20, 8) if isinstance(solver, NormalCholesky) else (8, 20)
    matrix = with_spectrum(*shape, spectrum(shape, 8, 100.0), np.float32)
    rows = velocity(shape[0], np.float32)
    value, _ = solve(solver, jnp.asarray(matrix), jnp.asarray(rows))
    assert relative_error(value, pseudo_inverse(matrix, rows, 1e-6)) < 100 * 2e-7


@pytest.mark.slow
def test_normal_cholesky_sums_whole_and_partial_chunks(velocity):
    matrix, rows = with_spectrum(20, 8, spectrum((20, 8), 8, 10.0)), velocity(20)
    for chunk in (1, 7, 20, 64):
        value, _ = solve(NormalCholesky(chunk_size=chunk), jnp.asarray(matrix), jnp.asarray(rows))
        assert relative_error(value, pseudo_inverse(matrix, rows, 1e-10)) < 1e-12
    problem = jg.residual_problem(
        [(lambda a, x: x @ a, jnp.asarray(matrix[:13]), 2.0), (lambda a, x: x @ a, jnp.asarray(matrix[13:]), 1.0)]
    )
    jacobian = problem.jacobian(jnp.zeros(8))
    value, _ = NormalCholesky(chunk_size=4).solve(jacobian, jnp.asarray(rows).reshape(-1, 1))
    expected = np.linalg.lstsq(np.asarray(jacobian.as_matrix()), rows, rcond=None)[0]
    assert relative_error(value, expected) < 1e-12


def test_refinement_reaches_the_condition_number_of_the_jacobian(velocity):
    matrix, rows = with_spectrum(8, 20, spectrum((8, 20), 8, 1e5)), velocity(8)
    expected = pseudo_inverse(matrix, rows, 1e-14)

    def defect(refinements):
        value, _ = solve(GramCholesky(refinements=refinements), jnp.asarray(matrix), jnp.asarray(rows))
        return np.linalg.norm(matrix @ (np.asarray(value) - expected)) / np.linalg.norm(rows)

    assert defect(4) < 1e-10 < 1e-8 < defect(0)


@pytest.mark.parametrize(("shape", "solver"), [((8, 20), CG), ((20, 8), LSMR)])
def test_iterations_without_any_matrix(shape, solver, velocity):
    matrix, rows = with_spectrum(*shape, spectrum(shape, 8, 1e3)), velocity(shape[0])
    value, info = solve(solver(rtol=1e-13), jnp.asarray(matrix), jnp.asarray(rows))
    assert relative_error(value, pseudo_inverse(matrix, rows, 1e-10)) < 1e-8
    assert float(info.residual) < (1e-10 if solver is CG else 1)


@pytest.mark.slow
def test_nystrom_saves_iterations(velocity):
    matrix, rows = with_spectrum(60, 80, np.r_[np.logspace(4, 1, 12), np.ones(48)]), velocity(60)
    jacobian = jacobian_of(matrix)
    iterations = [
        CG(rtol=1e-8, preconditioner=preconditioner).factorise(jacobian).iterations
        for preconditioner in (None, Nystrom(rank=16))
    ]
    steps = [int(each.iterate(jnp.asarray(rows).reshape(-1, 1))[1]) for each in iterations]
    assert steps[1] <= 15
    assert steps[0] > 2 * steps[1]


@pytest.mark.parametrize("solver", [*RANK_SAFE, NormalCholesky(), CG()], ids=name)
def test_what_is_not_finite_is_said_and_not_passed_on(solver):
    # Shapes of other tests, which share their programs.
    matrix, rows = np.eye(8, 20), np.ones(8)
    for broken in (0, 1):
        arrays = [matrix.copy(), rows.copy()]
        arrays[broken].flat[1] = np.nan
        value, info = solve(solver, *map(jnp.asarray, arrays))
        assert int(info.outcome) == 3
        np.testing.assert_array_equal(value, 0)


@pytest.mark.parametrize("solver", [*RANK_SAFE, NormalCholesky()], ids=name)
def test_nothing_to_solve(solver):
    value, info = solve(solver, jnp.zeros((8, 20)), jnp.ones(8))
    np.testing.assert_array_equal(value, 0)
    assert float(info.residual) == 1
    value, info = solve(solver, jnp.eye(8, 20), jnp.zeros(8))
    np.testing.assert_array_equal(value, 0)
    assert int(info.outcome) in (0, 2)
    assert float(info.residual) == 0


@pytest.mark.slow
def test_too_little_damping_is_raised_in_the_program(velocity):
    matrix = with_spectrum(8, 20, np.logspace(0, -9, 8), np.float32)
    rows = velocity(8, np.float32)
    value, info = solve(GramCholesky(), jnp.asarray(matrix), jnp.asarray(rows), jnp.asarray(1e-30, jnp.float32))
    assert int(info.outcome) == 1
    assert np.isfinite(np.asarray(value)).all()


@pytest.mark.slow
def test_auto_damps_float32_by_what_was_asked_for(velocity):
    # λ = 9e-7 · λ_max, less than DDᵀ in float32 can bear: √QN·eps = 1.7e-6.
    matrix = with_spectrum(200, 300, np.r_[1.0, np.logspace(-1, -4, 199)], np.float32)
    rows, damping = velocity(200, np.float32), 1.6e-4
    value, info = solve(Auto(), jnp.asarray(matrix), jnp.asarray(rows), jnp.asarray(damping, jnp.float32))
    assert int(info.outcome) == 0
    assert relative_error(value, damped_inverse(matrix, rows, damping)) < 1e-4
    _, info = solve(GramCholesky(), jnp.asarray(matrix), jnp.asarray(rows), jnp.asarray(damping, jnp.float32))
    assert int(info.outcome) == 1


def test_a_velocity_is_lifted_where_its_square_underflows(velocity):
    rows = velocity(8, np.float32)
    for solver in (GramCholesky(), NormalCholesky()):
        shape = (8, 8) if isinstance(solver, NormalCholesky) else (8, 20)
        matrix = with_spectrum(*shape, 1e-23 * np.logspace(0, -1, 8), np.float32)
        value, info = solve(solver, jnp.asarray(matrix), jnp.asarray(rows))
        assert int(info.outcome) == 0
        assert relative_error(value, pseudo_inverse(matrix, rows, 1e-6)) < 1e-5


def test_damping_below_the_precision_of_the_products_is_raised(velocity):
    matrix, rows = with_spectrum(8, 20, np.logspace(0, -9, 8), np.float32), velocity(8, np.float32)
    value, info = solve(Auto(), jnp.asarray(matrix), jnp.asarray(rows), jnp.asarray(1e-12, jnp.float32))
    assert int(info.outcome) == 1
    assert np.linalg.norm(matrix @ np.asarray(value) - rows) < np.linalg.norm(rows)


@pytest.mark.parametrize("solver", [GramCholesky(), GramEigh(), DenseCholesky(), QR()], ids=name)
@pytest.mark.parametrize("size", [1, 3e-17])
def test_no_lift_leaves_more_than_none_where_round_off_decides(solver, size, velocity):
    """With 3e-17, squares of D underflow in float32."""
    matrix, rows = with_spectrum(3, 8, [1, 6e-9, 4e-9], np.float32) * np.float32(size), velocity(3, np.float32)
    value, info = solve(solver, jnp.asarray(matrix), jnp.asarray(rows), jnp.asarray(1e-15, jnp.float32))
    left = np.linalg.norm(matrix.astype(float) @ np.asarray(value, float) - rows) / np.linalg.norm(rows)
    assert left < 1 + 1e-6
    assert abs(left - float(info.residual)) < 1e-2


def test_a_failed_factorisation_is_answered_by_damping_where_eigenvalues_take_too_long(velocity):
    matrix, rows = with_spectrum(8, 20, np.ones(5)), velocity(8)
    value, info = solve(GramCholesky(max_decomposition=4), jnp.asarray(matrix), jnp.asarray(rows))
    assert int(info.outcome) == 1
    assert relative_error(value, pseudo_inverse(matrix, rows, 1e-10)) < 1e-3


def test_dense_fallback_reaches_beyond_the_gram_matrix(velocity):
    matrix, rows = with_spectrum(8, 20, spectrum((8, 20), 8, 1e9)), velocity(8)
    value, info = solve(GramCholesky(dense_fallback=True), jnp.asarray(matrix), jnp.asarray(rows))
    assert int(info.outcome) == 2
    assert relative_error(value, pseudo_inverse(matrix, rows, 1e-14)) < 1e-6


@pytest.mark.parametrize(
    "solver",
    [GramCholesky(), *(pytest.param(solver, marks=pytest.mark.slow) for solver in (DenseCholesky(), QR()))],
    ids=name,
)
def test_only_those_that_fail_are_decomposed_under_vmap(solver, velocity):
    good, lost = (with_spectrum(6, 9, np.ones(rank)) for rank in (6, 4))
    rows = jnp.asarray(velocity(6))
    values, info = jax.vmap(lambda matrix: solve(solver, matrix, rows))(jnp.stack([good, lost]))
    assert info.outcome.tolist() == [0, 2]
    for value, matrix in zip(values, (good, lost), strict=True):
        assert relative_error(value, pseudo_inverse(matrix, rows, 1e-10)) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("solver", DAMPED, ids=name)
def test_a_branch_that_only_some_of_a_batch_take_lifts(solver, velocity):
    matrix, rows = with_spectrum(6, 9, np.ones(6)), jnp.asarray(velocity(6)).reshape(-1, 1)
    jacobian = jacobian_of(jnp.asarray(matrix))

    @jax.jit
    @jax.vmap
    def lifted(damping):
        return jax.lax.cond(damping > 0.5, lambda: solver.solve(jacobian, rows, damping)[0], lambda: jnp.zeros(9))

    left, taken = lifted(jnp.asarray([0.1, 1.0]))
    assert not left.any()
    assert relative_error(taken, damped_inverse(matrix, rows[:, 0], 1.0)) < 1e-9


def test_smooth_cutoff_is_continuous_and_exact_outside_its_transition(velocity):
    rows = jnp.asarray(velocity(6))
    solver = SVD(SmoothCutoff(rcond=1e-3, width=10.0))

    def gain(ratio):
        matrix = with_spectrum(6, 9, np.r_[np.ones(5), ratio])
        return np.asarray(solve(solver, jnp.asarray(matrix), rows)[0]), pseudo_inverse(matrix, rows, ratio / 2)

    ratios = np.geomspace(0.9e-3, 1.1e-2, 200)
    speeds = np.array([np.linalg.norm(gain(ratio)[0]) for ratio in ratios])
    assert np.abs(np.diff(speeds)).max() < 0.05 * (speeds.max() - speeds.min())
    np.testing.assert_allclose(*gain(1.1e-2), rtol=1e-12)
    np.testing.assert_allclose(gain(0.9e-3)[0], gain(1e-9)[0], rtol=1e-10)


def test_auto_says_what_it_picks_and_why():
    sizes = {
        (Auto(), (4, 9)): "GramCholesky",
        (Auto(max_entries=0), (4, 9)): "GramCholesky",
        (Auto(max_entries=0), (9, 4)): "DenseCholesky",
        (Auto(memory=1000), (20, 4)): "NormalCholesky",
        (Auto(memory=100), (4, 9)): "CG",
        (Auto(memory=100), (9, 4)): "LSMR",
    }
    for (solver, shape), expected in sizes.items():
        choice = solver.choose(jacobian_of(np.ones(shape)))
        assert name(choice.solver) == expected
        assert " × " in choice.reason


@pytest.mark.slow
def test_the_lift_itself_takes_damping(velocity):
    matrix, rows = with_spectrum(4, 9, np.ones(4)), velocity(4)
    problem, params = linear_problem(matrix)
    value = jg.lift(problem, params, jnp.asarray(rows).reshape(-1, 1), damping=0.5)
    assert relative_error(value, damped_inverse(matrix, rows, 0.5)) < 1e-12
