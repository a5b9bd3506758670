"""Trapping of the standard flow: the bound of Proposition 3.1 against the times of orbits."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgeo as jg
from cases.problems import cases
from cases.trapping import fifty_orbits, sharpness, synthetic
from jaxgeo.geometry import trapped_intervals, trapping_record


@pytest.mark.parametrize("name", ["mlp under", "frozen"])
def test_record(name):
    case = cases()[name]
    found = trapping_record(0.0, case.params, case.problem)
    gradient = np.ravel(case.problem.loss.gradient(case.problem.outputs(case.params)))
    speed = np.linalg.norm(case.dense().T @ gradient)
    np.testing.assert_allclose(found.gradient, np.linalg.norm(gradient), rtol=1e-12)
    np.testing.assert_allclose(found.speed, speed, rtol=1e-12)
    np.testing.assert_allclose(found.ratio, speed / np.linalg.norm(gradient), rtol=1e-12)


class Scalar(NamedTuple):
    """x = a², y = 4, N = 1: ∂ₛa = −2a(a² − 4), ratio 2|a|, all in closed form."""

    problem: jg.Problem
    start: float

    def time(self, a: float) -> float:
        """When the orbit comes to a."""
        return (np.log(a**2 / (4 - a**2)) - np.log(self.start**2 / (4 - self.start**2))) / 16


@pytest.mark.slow
def test_interval_in_closed_form():
    case = Scalar(jg.Problem(lambda a, x: a**2 * x, jnp.array([1.0]), jg.L2(jnp.array([4.0]))), 1e-2)
    end, epsilon = 0.25, 0.5
    times = np.linspace(0, 1.5 * case.time(end), 2001)
    solution = jg.solve_flow(
        case.problem, jg.StandardFlow(), jnp.array(case.start), s1=times[-1], save_at=times, record=trapping_record
    )
    (found,) = trapped_intervals(solution, epsilon)
    cost = [0.5 * (a**2 - 4) ** 2 for a in (case.start, end)]
    np.testing.assert_allclose([found.start, found.end], [0, case.time(end)], rtol=1e-4)
    np.testing.assert_allclose(found.length, end - case.start, rtol=1e-4)
    np.testing.assert_allclose([found.cost_in, found.cost_out], cost, rtol=1e-4)
    np.testing.assert_allclose(found.bound, (end - case.start) / (epsilon * (4 - case.start**2)), rtol=1e-4)
    np.testing.assert_allclose(found.cost_bound, np.log(cost[0] / cost[1]) / (2 * epsilon**2), rtol=1e-2)
    assert found.cost_bound < found.bound < found.duration


def test_several_intervals():
    found = trapped_intervals(synthetic([0.0, 2.0, 2.0, 0.0, 0.0, 1.0, 4.0]), 1.0)
    assert [(each.start, each.end) for each in found] == [(0.0, 0.5), (2.5, 5.0)]
    np.testing.assert_allclose([each.length for each in found], [0.25, 0.25 + 0.0 + 0.5])
    assert all(each.cost_bound == 0 for each in found)
    assert trapped_intervals(synthetic([2.0, 3.0, 2.0]), 1.0) == []
    (whole,) = trapped_intervals(synthetic([0.5, 0.5, 0.5]), 1.0)
    assert (whole.start, whole.end, whole.length, whole.bound) == (0.0, 2.0, 1.0, 1.0)


@pytest.mark.slow
def test_bound_holds_on_fifty_trapped_orbits():
    """Prop. 3.1, also with lengths summed from the points of the orbits instead of their recorded speeds."""
    for trapped, chords, gradient in fifty_orbits():
        assert trapped.start == 0
        assert 0 < trapped.end < 10
        # Chords between the points inside are not longer than the orbit there.
        assert chords <= trapped.length * (1 + 1e-3)
        assert chords / (trapped.epsilon * gradient) <= trapped.duration
    low, middle, high = np.quantile(sharpness(), [0, 0.5, 1], axis=0)
    print("bound / time, smallest, median, largest:", low, middle, high)
    assert high.max() < 1
    assert middle[0] > 0.3


def test_what_is_no_record_is_refused():
    solution = synthetic([0.5, 0.5])
    with pytest.raises(ValueError, match="trapping_record"):
        trapped_intervals(eqx.tree_at(lambda sol: sol.records, solution, None), 1.0)
    with pytest.raises(ValueError, match="positive"):
        trapped_intervals(solution, 0.0)
