"""No product of a lift may round float32 operands to TF32, although JAX lets a GPU do so by default."""

import re

import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

import jaxgeo as jg
from jaxgeo.equations import Network
from jaxgeo.linalg import CG, LSMR, QR, SVD, Auto, DenseCholesky, GramCholesky, GramEigh, NormalCholesky, Nystrom

FLOAT32 = jnp.dtype("float32")
SOLVERS = (
    Auto(),
    GramCholesky(),
    GramCholesky(refinements=0, dtype=FLOAT32),
    GramEigh(),
    GramEigh(dtype=FLOAT32),
    NormalCholesky(),
    NormalCholesky(dtype=FLOAT32),
    DenseCholesky(dtype=FLOAT32),
    QR(dtype=FLOAT32),
    SVD(dtype=FLOAT32),
    CG(),
    CG(preconditioner=Nystrom(rank=3)),
    LSMR(),
)
PRODUCT = re.compile(r"(.*stablehlo\.(?:dot_general|convolution).*-> tensor<[\dx]*x?f32>.*)")


def coarse_products(call, *args):
    """Products of float32 numbers that a GPU may round to TF32, in the program of a call."""
    with jax.default_matmul_precision("tensorfloat32"):
        program = jax.jit(call).lower(*args).as_text()
    found = PRODUCT.findall(program)
    assert found
    return [line.strip() for line in found if "precision = [HIGHEST, HIGHEST]" not in line]


def problem_of(widths, num_samples):
    inputs, targets = (jr.normal(jr.key(i), (num_samples, widths[i - 1]), jnp.float32) for i in (1, 0))
    return jg.supervised(Network(widths, jnp.float32, key=jr.key(2)), inputs, targets)


@pytest.fixture(params=[((8, 16, 16, 3), 12), ((3, 4, 2), 30)], ids=["wide", "tall"])
def problem(request):
    return problem_of(*request.param)


def test_the_products_are_found(problem):
    problem, params = problem
    assert coarse_products(lambda params: problem.cost(params), params)


FAST = (Auto(), GramCholesky(refinements=0, dtype=FLOAT32), CG())


@pytest.mark.parametrize(
    "solver",
    [pytest.param(solver, marks=[pytest.mark.slow] * (solver not in FAST), id=repr(solver)) for solver in SOLVERS],
)
def test_lift(problem, solver):
    problem, params = problem
    velocity = jnp.ones_like(problem.outputs(params))

    def lift(params, velocity):
        return jg.lift(problem, params, velocity, solver, damping=1e-3)

    assert not coarse_products(lift, params, velocity)


@pytest.mark.slow
@pytest.mark.parametrize("solver", [Auto(), GramCholesky(refinements=0, dtype=FLOAT32)], ids=repr)
def test_derivative_of_a_lift(problem, solver):
    problem, params = problem
    velocity = jnp.ones_like(problem.outputs(params))

    def size(velocity):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(jg.lift(problem, params, velocity, solver)))

    assert not coarse_products(jax.grad(size), velocity)


@pytest.mark.parametrize("method", ["as_matrix", "diagonal"])
def test_gram(problem, method):
    problem, params = problem
    assert not coarse_products(lambda params: getattr(problem.gram(params), method)(), params)


def test_jacobian(problem):
    problem, params = problem
    assert not coarse_products(lambda params: problem.jacobian(params).as_matrix(), params)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(jg.optim.adapted_levenberg_marquardt, marks=pytest.mark.slow),
        pytest.param(jg.optim.adapted_momentum, marks=pytest.mark.slow),
        jg.optim.adapted_gradient_descent,
    ],
)
def test_update(problem, make):
    problem, params = problem
    tx = make() if make is jg.optim.adapted_levenberg_marquardt else make(problem.blocks[0].apply, learning_rate=0.1)

    def update(params, state):
        return tx.update(params, state, params, problem=problem)

    assert not coarse_products(update, params, tx.init(params))


@pytest.mark.parametrize("flow", [jg.AdaptedFlow(), jg.StandardFlow(), jg.RankAdaptiveFlow()], ids=repr)
def test_flow(flow):
    problem, params = problem_of((8, 16, 16, 3), 12)
    assert not coarse_products(lambda params: flow(0.0, params, problem), params)
