"""Derivatives through a lift, forward and reverse, against finite differences: full and reduced rank, damping."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxgeo as jg
from jaxgeo.linalg import CG, LSMR, QR, SVD, Auto, DenseCholesky, GramCholesky, GramEigh, NormalCholesky, SmoothCutoff

SOLVERS = [QR(), SVD(), SVD(SmoothCutoff()), DenseCholesky(), GramEigh(), LSMR(rtol=1e-14)]
FULL = [Auto(), *SOLVERS, GramCholesky(), CG(rtol=1e-13, preconditioner=None)]


def swept(solvers, *fast):
    """The formula is one for all factors: most regimes are fast with a solver or two, and most solvers in a regime."""
    return [pytest.param(solver, marks=[pytest.mark.slow] * (solver not in fast)) for solver in solvers]


def name(solver):
    return type(solver).__name__


class Curved:
    """Two layers, so that D depends on θ; duplicated samples lose rank wherever θ is."""

    def __init__(self, num_samples, hidden, *, duplicates=0):
        rng = np.random.default_rng(3)
        inputs = rng.standard_normal((num_samples, 2))
        if duplicates:
            inputs[-duplicates:] = inputs[:duplicates]
        self.problem = jg.Problem(
            lambda p, x: p["v"] @ jnp.tanh(p["w"] @ x), jnp.asarray(inputs), jg.L2(jnp.zeros((num_samples, 1)))
        )
        params = {
            "w": jnp.asarray(rng.standard_normal((hidden, 2))),
            "v": jnp.asarray(rng.standard_normal((1, hidden))),
        }
        self.flat, self.unravel = ravel_pytree(params)
        self.velocity = jnp.asarray(rng.standard_normal((num_samples, 1)))
        self.direction = jnp.asarray(rng.standard_normal(self.flat.shape))
        self.turn = jnp.asarray(rng.standard_normal(self.velocity.shape))

    def lift(self, solver, damping=None):
        @jax.jit
        def function(step):
            jacobian = self.problem.jacobian(self.unravel(self.flat + step * self.direction))
            scale = None if damping is None else damping * (1 + step)
            return ravel_pytree(solver.solve(jacobian, self.velocity + step * self.turn, scale)[0])[0]

        return function


def check(function, rtol):
    """Forward, reverse, and both at once, against central differences of an order that leaves 1e-9."""
    h = 1e-3
    differences = (8 * (function(h) - function(-h)) - (function(2 * h) - function(-2 * h))) / (12 * h)
    expected = function(0.0)
    weights = jnp.cos(jnp.arange(expected.size, dtype=expected.dtype))

    @jax.jit
    def derivatives(step):
        return jax.jvp(function, (step,), (1.0,)), jax.grad(lambda step: function(step) @ weights)(step)

    (value, forward), reverse = derivatives(0.0)
    np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-12)
    scale = np.linalg.norm(differences)
    assert scale > 0.1
    assert np.linalg.norm(forward - differences) < rtol * scale
    assert abs(reverse - forward @ weights) < 1e-8 * scale


@pytest.mark.parametrize("solver", swept(FULL, QR(), FULL[-1]), ids=name)
def test_full_rank_with_more_parameters_than_outputs(solver):
    check(Curved(4, 4).lift(solver), 1e-6)


@pytest.mark.parametrize("solver", swept([*SOLVERS, NormalCholesky()]), ids=name)
def test_full_rank_with_fewer_parameters_than_outputs(solver):
    check(Curved(9, 2).lift(solver), 1e-6)


LOST = [Auto(), *SOLVERS, GramCholesky()]


@pytest.mark.parametrize(
    ("solver", "num_samples", "hidden"),
    [
        *(pytest.param(*each.values, 5, 4, marks=each.marks) for each in swept(LOST, SVD(SmoothCutoff()))),
        *(pytest.param(each, 12, 2, marks=pytest.mark.slow) for each in LOST),
    ],
    ids=[f"{name(each)}-{regime}" for regime in ("K > QN", "K < QN") for each in LOST],
)
def test_lost_rank(solver, num_samples, hidden):
    check(Curved(num_samples, hidden, duplicates=2 if hidden == 4 else 6).lift(solver), 1e-5)


@pytest.mark.parametrize(
    "solver", swept([Auto(), QR(), GramCholesky(), GramEigh(), CG(rtol=1e-13), LSMR(rtol=1e-14)]), ids=name
)
def test_damping_and_what_it_is_relative_to(solver):
    check(Curved(4, 4).lift(solver, damping=0.1), 1e-6)


@pytest.mark.parametrize("damping", [None, pytest.param(0.1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "solver",
    [GramCholesky(), *(pytest.param(solver, marks=pytest.mark.slow) for solver in (QR(), DenseCholesky(), GramEigh()))],
    ids=name,
)
def test_corrections_by_a_factorisation(solver, damping):
    curved = Curved(4, 4)

    @jax.jit
    def function(step):
        jacobian = curved.problem.jacobian(curved.unravel(curved.flat + step * curved.direction))
        scale = None if damping is None else damping * (1 + step)
        factorised = solver.factorise(jacobian, scale)
        return ravel_pytree(factorised.correct(curved.velocity + step * curved.turn))[0]

    check(function, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("solver", "damping"), [(GramCholesky(), 1e-17), (GramCholesky(max_decomposition=0), None)])
def test_more_damping_than_was_given(solver, damping):
    """Where rank is lost, and equal samples are to move alike."""
    curved = Curved(5, 4, duplicates=2)
    curved.velocity = curved.velocity.at[-2:].set(curved.velocity[:2])
    curved.turn = curved.turn.at[-2:].set(curved.turn[:2])
    jacobian = curved.problem.jacobian(curved.unravel(curved.flat))
    assert solver.solve(jacobian, curved.velocity, damping)[1].outcome == 1
    check(curved.lift(solver, damping), 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("solver", [QR(), DenseCholesky(), GramCholesky(), Auto()], ids=name)
def test_ill_conditioned_directions(solver):
    """A nearly repeated sample: cond(D) is 1e5, and its square what a factor of DDᵀ knows."""
    curved = Curved(4, 4)
    inputs = curved.problem.blocks[0].inputs
    inputs = inputs.at[3].set(inputs[2] + 1e-5)
    curved.problem = jg.Problem(curved.problem.blocks[0].apply, inputs, jg.L2(jnp.zeros((4, 1))))
    values = np.linalg.svd(curved.problem.jacobian(curved.unravel(curved.flat)).as_matrix(), compute_uv=False)
    assert 3e4 < values[0] / values[-1] < 3e6
    check(curved.lift(solver), 1e-6)


@pytest.mark.slow
def test_iterations_have_the_derivative_of_a_factorisation():
    curved = Curved(4, 4)
    found, expected = (jax.jvp(curved.lift(solver), (0.0,), (1.0,))[1] for solver in (LSMR(rtol=1e-14), QR()))
    np.testing.assert_allclose(found, expected, atol=1e-9 * np.linalg.norm(expected))


@pytest.mark.parametrize("solver", [pytest.param(QR(), marks=pytest.mark.slow), NormalCholesky()], ids=name)
def test_damping_with_fewer_parameters(solver):
    check(Curved(9, 2).lift(solver, damping=0.1), 1e-6)


@pytest.mark.parametrize(
    ("solver", "duplicates"),
    [
        pytest.param(DenseCholesky(), 0, marks=pytest.mark.slow),
        pytest.param(GramCholesky(), 0, marks=pytest.mark.slow),
        pytest.param(GramCholesky(dense_fallback=False, certify=False), 0, marks=pytest.mark.slow),
        pytest.param(SVD(), 2, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_second_derivatives(solver, duplicates):
    function = Curved(5 if duplicates else 4, 4, duplicates=duplicates).lift(solver)
    slope = jax.jit(jax.jacfwd(function))
    h = 1e-3
    differences = (8 * (slope(h) - slope(-h)) - (slope(2 * h) - slope(-2 * h))) / (12 * h)
    second = jax.jacfwd(slope)(0.0)
    assert np.linalg.norm(second - differences) < 1e-5 * np.linalg.norm(differences)


@pytest.mark.slow
def test_through_a_scan_of_steps_and_a_batch_of_starts():
    curved = Curved(4, 4)
    flow = jg.AdaptedFlow()

    def end(start):
        def step(flat, _):
            return flat + 0.1 * ravel_pytree(flow(0.0, curved.unravel(flat), curved.problem))[0], None

        return jax.lax.scan(step, start, length=3)[0]

    starts = jnp.stack([curved.flat, curved.flat + 0.1])
    batched = jax.vmap(jax.grad(lambda start: jnp.sum(end(start))))(starts)
    single = jax.grad(lambda start: jnp.sum(end(start)))(starts[1])
    np.testing.assert_allclose(batched[1], single, rtol=1e-9)
    h = 1e-5
    unit = h * curved.direction
    differences = jnp.sum(end(starts[1] + unit) - end(starts[1] - unit)) / (2 * h)
    assert abs(single @ curved.direction - differences) < 1e-6 * abs(differences)
