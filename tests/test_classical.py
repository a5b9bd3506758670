"""Classical problems with known orbits, integrated by five diffrax solvers."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxgeo as jg

FLOW = jg.AdaptedFlow(jg.linalg.QR())
FIXED = {dfx.Euler: (1, 512), dfx.Heun: (2, 512)}


def linear():
    """Outputs linear in θ: θ(s) = θ₀ + (1 − e^{-s/N}) A⁺(y − Aθ₀)."""
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(3, 5)), rng.normal(size=3)
    return jg.Problem(lambda a, x: a @ x, jnp.asarray(inputs), jg.L2(jnp.asarray(targets))), jnp.ones(5)


def two_layers():
    rng = np.random.default_rng(1)
    inputs, targets = jnp.asarray(rng.normal(size=(3, 3))), jnp.asarray(rng.normal(size=(3, 2)))
    params = {"U": jnp.asarray(rng.normal(size=(2, 4))), "W": jnp.asarray(rng.normal(size=(4, 3)))}
    return jg.Problem(lambda p, x: p["U"] @ p["W"] @ x, inputs, jg.L2(targets)), params


def tanh():
    rng = np.random.default_rng(2)
    inputs = jnp.linspace(-1.0, 1.0, 5)
    params = {name: jnp.asarray(rng.normal(size=8)) for name in "vwb"}
    problem = jg.Problem(lambda p, x: p["v"] @ jnp.tanh(p["w"] * x + p["b"]), inputs, jg.L2(jnp.sin(3 * inputs)))
    return problem, params


PROBLEMS = {"linear": linear, "two layers": two_layers, "tanh": tanh}


def orbit(problem, params, solver, **options):
    sol = jg.solve_flow(problem, FLOW, params, s1=2.0 * problem.num_samples, solver=solver, **options)
    return ravel_pytree(sol.params)[0]


@pytest.mark.slow
def test_closed_form_of_a_linear_network():
    problem, params = linear()
    inputs, targets = np.asarray(problem.blocks[0].inputs), np.asarray(problem.loss.targets)[:, 0]
    expected = params + (1 - np.exp(-2.0)) * np.linalg.pinv(inputs) @ (targets - inputs @ params)
    np.testing.assert_allclose(orbit(problem, params, dfx.Tsit5(), rtol=1e-10), expected, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
def test_five_solvers_against_the_reference(name):
    """The reference: Dopri8 at a tolerance of 1e-13. Outputs at its end are on (2.7) besides."""
    problem, params = PROBLEMS[name]()
    exact = orbit(problem, params, dfx.Dopri8(), rtol=1e-13, atol=1e-16)
    if name == "linear":
        inputs, targets = np.asarray(problem.blocks[0].inputs), np.asarray(problem.loss.targets)[:, 0]
        closed = params + (1 - np.exp(-2.0)) * np.linalg.pinv(inputs) @ (targets - inputs @ params)
        np.testing.assert_allclose(exact, closed, rtol=1e-11)
    for solver in (dfx.Tsit5(), dfx.Dopri8(), dfx.Kvaerno5()):
        error = jnp.linalg.norm(orbit(problem, params, solver, rtol=1e-8) - exact)
        assert error <= 1e-6 * jnp.linalg.norm(exact)
    for solver, (order, count) in FIXED.items():
        errors = [
            jnp.linalg.norm(
                orbit(
                    problem,
                    params,
                    solver(),
                    stepsize_controller=dfx.ConstantStepSize(),
                    dt0=2.0 * problem.num_samples / steps,
                )
                - exact
            )
            for steps in (count, 2 * count)
        ]
        assert abs(np.log2(errors[0] / errors[1]) - order) < 0.3


@pytest.mark.slow
def test_an_ensemble_is_integrated_in_one_program():
    problem, params = linear()
    rng = np.random.default_rng(3)
    many = jnp.asarray(rng.normal(size=(4, 5)))
    run = jax.jit(
        jax.vmap(lambda start: jg.solve_flow(problem, FLOW, start, s1=6.0, max_steps=64, rank_check=False).params)
    )
    inputs, targets = np.asarray(problem.blocks[0].inputs), np.asarray(problem.loss.targets)[:, 0]
    inverse = np.linalg.pinv(inputs)
    for start, end in zip(many, run(many), strict=True):
        expected = start + (1 - np.exp(-2.0)) * inverse @ (targets - inputs @ start)
        np.testing.assert_allclose(end, expected, atol=1e-5)
