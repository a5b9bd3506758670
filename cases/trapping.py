"""Fifty orbits of the standard flow from near a saddle, where each is trapped, and how sharp the bounds on that are."""

from functools import cache
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import jaxgeo as jg
from jaxgeo.geometry import trapped_intervals, trapping_record


def synthetic(ratio, num_samples=3):
    """An orbit with the recorded ratios at s = 0, 1, 2, …; costs and gradients constant."""
    ratio = jnp.asarray(ratio)
    one = jnp.ones_like(ratio)
    record = jg.geometry.TrappingRecord(ratio, one, ratio)
    zero = jnp.zeros(())
    return jg.FlowSolution(
        params=zero,
        s=jnp.arange(len(ratio), dtype=ratio.dtype),
        costs=one,
        num_samples=3,
        initial_s=zero,
        initial_cost=zero,
        cost_tol=None,
        final_s=zero,
        final_cost=zero,
        stopping_time=None,
        records=record,
        path_lengths=None,
        event=None,
        result=jg.RESULTS.successful,
        stats={},
    )


class WithPoints(NamedTuple):
    record: jg.geometry.TrappingRecord
    theta: jax.Array


def with_points(s, params, problem):
    return WithPoints(trapping_record(s, params, problem), ravel_pytree(problem.partition(params)[0])[0])


@cache
def fifty_orbits():
    """The first trapped interval of 50 orbits, and its length as the sum of chords between points of the orbit.

    Small weights start every orbit near a saddle, where it is trapped; ε is twice the ratio at the start.
    """
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(5, 2))
    targets = np.sin(2 * inputs @ rng.normal(size=(2, 1))) + 0.5
    model = eqx.nn.MLP(2, 1, 6, 1, activation=jnp.tanh, use_bias=False, use_final_bias=False, key=jax.random.key(0))
    problem, params = jg.supervised(model, jnp.asarray(inputs), jnp.asarray(targets))
    starts = jax.tree.map(lambda leaf: jnp.asarray(0.03 * rng.normal(size=(50, *leaf.shape))), params)
    times = np.linspace(0, 10, 201)

    def orbit(start):
        solution = jg.solve_flow(
            problem, jg.StandardFlow(), start, s1=10.0, save_at=times, record=with_points, rtol=1e-5, throw=False
        )
        return solution.costs, solution.records

    costs, records = jax.jit(jax.vmap(orbit))(starts)
    found = []
    for i in range(50):
        record, theta = jax.tree.map(lambda leaf, i=i: leaf[i], records)
        one = synthetic(record.ratio, 5)
        solution = eqx.tree_at(lambda sol: (sol.s, sol.costs, sol.records), one, (jnp.asarray(times), costs[i], record))
        trapped = trapped_intervals(solution, 2 * float(record.ratio[0]))[0]
        inside = np.asarray(theta)[times <= trapped.end]
        chords = float(np.linalg.norm(np.diff(inside, axis=0), axis=1).sum())
        found.append((trapped, chords, float(record.gradient[0])))
    return found


def sharpness():
    """Both bounds over the time that was spent, of shape (50, 2)."""
    return np.array([(each.bound / each.duration, each.cost_bound / each.duration) for each, _, _ in fifty_orbits()])
