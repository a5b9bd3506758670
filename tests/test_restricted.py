"""Flows of the trainable part alone: frozen leaves do not move, and the restricted problem works like any other."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgeo as jg
from cases.problems import cases

# Compiles fastest, for what is no matter of the lift.
QUICK = jg.AdaptedFlow(jg.linalg.SVD())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["frozen", "dict", "other leaves"])
def test_a_controller_of_the_outputs_that_is_passed_knows_what_is_frozen(name):
    case = cases()[name]
    sol = jg.solve_flow(
        case.problem, jg.AdaptedFlow(), case.params, s1=1.0, stepsize_controller=jg.OutputController(1e-6, 0.0)
    )
    plain = jg.solve_flow(case.problem, jg.AdaptedFlow(), case.params, s1=1.0)
    np.testing.assert_allclose(sol.final_cost, plain.final_cost, rtol=1e-4)


@pytest.mark.slow
def test_diffrax_itself_integrates_a_flow_of_a_restricted_problem():
    case = cases()["frozen"]
    problem, trainable = case.problem.restrict(case.params)
    sol = dfx.diffeqsolve(
        dfx.ODETerm(QUICK),
        dfx.Tsit5(),
        0.0,
        1.0,
        None,
        trainable,
        problem,
        stepsize_controller=jg.OutputController(1e-6, 0.0),
    )
    found = problem.extend(jax.tree.map(lambda leaf: leaf[0], sol.ys))[1]
    plain = jg.solve_flow(case.problem, QUICK, case.params, s1=1.0)
    np.testing.assert_allclose(case.problem.cost(found), plain.final_cost, rtol=1e-4)
    assert found["W"] is case.params["W"]


def _end(params, problem):
    sol = jg.solve_flow(problem, QUICK, params, s1=1.0, dt0=0.25, stepsize_controller=dfx.ConstantStepSize())
    return sol.final_cost + problem.outputs(sol.params)[0, 0]


def test_what_is_frozen_has_derivatives_and_other_values_are_not_compiled_anew():
    case = cases()["frozen"]
    traces = []

    @eqx.filter_jit
    def ends(params):
        traces.append(1)
        return eqx.filter_value_and_grad(_end)(params, case.problem)

    def moved(step):
        return case.params | {"W": case.params["W"].at[0, 0].add(step)}

    _, slopes = ends(case.params)
    (above, _), (below, _) = ends(moved(1e-5)), ends(moved(-1e-5))
    np.testing.assert_allclose(slopes["W"][0, 0], (above - below) / 2e-5, rtol=1e-6)
    assert len(traces) == 1


@pytest.mark.slow
def test_diffrax_itself_integrates_a_flow_of_a_module():
    x = jnp.linspace(-1, 1, 6)[:, None]
    model = eqx.nn.MLP(1, 1, 16, 1, activation=jnp.tanh, key=jax.random.key(0))
    problem, params = jg.supervised(model, x, jnp.sin(3 * x))
    times = jnp.linspace(0, 3.0 * problem.num_samples, 4)
    sol = dfx.diffeqsolve(
        dfx.ODETerm(QUICK),
        dfx.Tsit5(),
        0.0,
        times[-1],
        None,
        params,
        problem,
        saveat=dfx.SaveAt(ts=times),
        stepsize_controller=jg.OutputController(1e-6, 0.0),
    )
    costs = jax.vmap(problem.cost)(sol.ys)
    np.testing.assert_allclose(costs, costs[0] * jnp.exp(-2 * times / problem.num_samples), rtol=1e-4)
