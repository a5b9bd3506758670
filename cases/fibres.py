"""Problems whose outputs move in fewer dimensions than there are, and ways along which they do."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import jaxgeo as jg
from cases.problems import Case


def case_at(case, params):
    return Case(case.name, case.problem, params, case.rank)


def kernel(case):
    """An orthonormal basis of ker D, by NumPy."""
    return np.linalg.svd(case.dense())[2][case.rank :]


def bottleneck():
    """x_j = out · tanh(in · a_j) in two dimensions: K = 8, QN = 4, and the rank is 3 everywhere."""
    rng = np.random.default_rng(7)

    def apply(params, sample):
        return params["out"] * (params["v"] @ jnp.tanh(params["w"] * sample))

    params = {"out": rng.normal(size=2), "v": rng.normal(size=3), "w": rng.normal(size=3)}
    problem = jg.Problem(apply, jnp.array([0.5, 1.7]), jg.L2(jnp.asarray(rng.normal(size=(2, 2)))))
    return Case("bottleneck", problem, jax.tree.map(jnp.asarray, params), 3)


def along_the_fibre(case):
    """The same problem where x is the same and θ half a unit away: steps in ker D, and Newton's method back to x."""
    theta, unravel = ravel_pytree(case.params)
    start, heading = np.asarray(theta), kernel(case)[0]
    outputs = np.ravel(case.problem.outputs(case.params))
    theta = start
    while np.linalg.norm(theta - start) < 0.5:
        basis = kernel(case_at(case, unravel(jnp.asarray(theta))))
        heading = basis.T @ (basis @ heading)
        heading = heading / np.linalg.norm(heading)
        theta = theta + 0.1 * heading
        for _ in range(4):
            at = case_at(case, unravel(jnp.asarray(theta)))
            theta = theta - np.linalg.pinv(at.dense(), rcond=1e-9) @ (
                np.ravel(case.problem.outputs(at.params)) - outputs
            )
    moved = case_at(case, unravel(jnp.asarray(theta)))
    np.testing.assert_allclose(np.ravel(case.problem.outputs(moved.params)), outputs, atol=1e-12)
    return moved


class Loop(eqx.Module):
    """A closed path that the outputs of the network can follow: those of θ + sin(2πt)·direction, bent on the way."""

    problem: jg.Problem
    params: object
    direction: object

    def __call__(self, t):
        angle = 2 * jnp.pi * t
        moved = jax.tree.map(
            lambda leaf, change: leaf + 0.2 * jnp.sin(angle) * change + 0.2 * (1 - jnp.cos(angle)) * change**2,
            self.params,
            self.direction,
        )
        return self.problem.outputs(moved)
