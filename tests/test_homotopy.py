"""The family of flows between the standard and the adapted one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgeo as jg
from cases.problems import DEFICIENT, cases

ALPHAS = [0.0, 0.25, 0.5, 0.75, 1.0]


def flat(tree):
    return np.asarray(jax.flatten_util.ravel_pytree(tree)[0])


@pytest.mark.parametrize("name", ["mlp under", DEFICIENT[0]])
def test_between_the_standard_and_the_adapted_flow(name):
    case = cases()[name]
    matrix = case.dense()
    gradient = np.ravel(case.problem.loss.gradient(case.problem.outputs(case.params)))
    adapted, standard = -np.linalg.pinv(matrix, rcond=1e-10) @ gradient, -matrix.T @ gradient
    for alpha in ALPHAS:
        velocity = flat(jg.HomotopyFlow(jnp.asarray(alpha))(0.0, case.params, case.problem))
        expected = alpha * adapted + (1 - alpha) * standard
        np.testing.assert_allclose(velocity, expected, atol=1e-8 * np.abs(expected).max())


def test_equilibria_coincide():
    """At a critical point with C > 0 every field of the family vanishes, and next to it none does."""
    case = cases()["linear under"]
    inputs, targets = case.problem.blocks[0].inputs, case.problem.loss.targets
    solution = jnp.asarray(np.linalg.lstsq(inputs, targets)[0].T)
    assert case.problem.cost(solution) > 0.01
    for alpha in ALPHAS:
        flow = jg.HomotopyFlow(jnp.asarray(alpha))
        assert np.abs(flat(flow(0.0, solution, case.problem))).max() < 1e-12
        away = solution + 1e-3
        assert np.linalg.norm(flat(flow(0.0, away, case.problem))) > 1e-5


@pytest.mark.slow
def test_the_straight_line_is_left_less_as_alpha_grows():
    case = cases()["dict"]
    start = case.problem.loss.deviation(case.problem.outputs(case.params))
    record = jg.integrate.LineDeviation(start)

    def largest(alpha):
        flow = jg.HomotopyFlow(alpha, jg.linalg.SVD())
        sol = jg.solve_flow(case.problem, flow, case.params, s1=9.0, record=record, rtol=1e-5, max_steps=512)
        return float(sol.records.max()), float(sol.final_cost / sol.initial_cost)

    deviations, costs = zip(*(largest(jnp.asarray(alpha)) for alpha in ALPHAS), strict=True)
    assert deviations[-1] < 1e-4
    assert all(before > after for before, after in zip(deviations, deviations[1:], strict=False))
    assert max(costs) < 1


def test_alpha_outside_the_family():
    with pytest.raises(ValueError, match="`alpha` must be a number, at least 0 and at most 1; got 1.5"):
        jg.HomotopyFlow(1.5)
