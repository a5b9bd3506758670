"""Points where the flows rest although the cost is not zero, because D has lost rank.

Rank is lost in two ways: by samples that differ only in their targets, so that the lost directions are fixed, and by a
bottleneck, where the lost directions change with the parameters.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import jaxgeo as jg
from cases.problems import Case


def two_layers(params, sample):
    return params["v"] @ jnp.tanh(params["w"] @ sample)


def narrow(params, sample):
    return params["out"] * (params["v"] @ jnp.tanh(params["w"] @ sample))


def contradictory(pairs):
    """Six samples, of which the last `pairs` repeat the first with other targets, at a minimum of the cost."""
    rng = np.random.default_rng(pairs)
    inputs, targets = rng.normal(size=(6, 2)), rng.normal(size=6)
    inputs[6 - pairs :] = inputs[:pairs]
    means = targets.copy()
    for i in range(pairs):
        means[[i, 6 - pairs + i]] = (targets[i] + targets[6 - pairs + i]) / 2
    problem = jg.Problem(two_layers, jnp.asarray(inputs), jg.L2(jnp.asarray(targets[:, None])))
    apply = jax.jit(lambda theta: jnp.ravel(problem.outputs(unravel(theta))))
    slope = jax.jit(jax.jacfwd(apply))
    theta, unravel = ravel_pytree({"v": rng.normal(size=(1, 5)), "w": rng.normal(size=(5, 2))})
    for left in [*range(12, 0, -1), 1, 1, 1, 1]:
        step = np.linalg.lstsq(np.asarray(slope(theta)), means - np.asarray(apply(theta)), rcond=1e-9)[0]
        theta = theta + step / left
    return Case(f"{pairs} contradictory", problem, unravel(theta), 6 - pairs)


def bottleneck(num_outputs, which):
    """Two samples through a single unit: x is a matrix of rank 1, and critical where it is the minimum (`which` = 0) or
    the saddle (1) among the rank-1 approximations of the targets. QN − rank(D) = num_outputs − 1."""
    rng = np.random.default_rng(3)
    inputs, targets = rng.normal(size=(2, 3)), rng.normal(size=(2, num_outputs))
    left, values, right = np.linalg.svd(targets)
    params = {"out": right[which], "w": rng.normal(size=(4, 3)), "v": np.zeros(4)}
    hidden = np.tanh(inputs @ params["w"].T)
    params["v"] = np.linalg.lstsq(hidden, values[which] * left[:, which])[0]
    problem = jg.Problem(narrow, jnp.asarray(inputs), jg.L2(jnp.asarray(targets)))
    name = f"{('minimum', 'saddle')[which]} of {num_outputs}"
    return Case(name, problem, jax.tree.map(jnp.asarray, params), num_outputs + 1)


@cache
def examples():
    found = [contradictory(1), contradictory(2), bottleneck(2, 0), bottleneck(3, 0), bottleneck(2, 1), bottleneck(3, 1)]
    return {case.name: case for case in found}
