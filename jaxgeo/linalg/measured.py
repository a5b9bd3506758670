"""A problem measured in a metric LᵀL on output space: its outputs are Lx, so its Jacobian is LD."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxgeo._checks import check_kind, is_concrete
from jaxgeo.costs import AbstractCost, AbstractRoot, DiagonalRoot, SumOfSquares, WeightedRoot
from jaxgeo.metrics import AbstractMetric, CostHessian
from jaxgeo.outputs import AbstractProblem, Block
from jaxgeo.prior import has_prior, without_prior


def counted_root(metric: AbstractMetric, cost: AbstractCost, outputs: Float[Array, "N Q"]) -> AbstractRoot | None:
    """L of the metric for every sample, but 0 for a sample that the cost does not depend on.

    Otherwise the lift would try to keep the outputs of such a sample fixed.
    """
    root, counted = metric.root(cost, outputs), cost.counted
    # The curvature of the cost is 0 there by itself.
    if counted is None or isinstance(metric, CostHessian) or (is_concrete(counted) and np.asarray(counted).all()):
        return root
    if root is None:
        root = DiagonalRoot(jnp.ones_like(outputs))
    return WeightedRoot(counted.astype(outputs.dtype), root)


class MeasuredApply(eqx.Module):
    """Lx for one sample and its root, or for all samples and their roots if the network couples the samples."""

    apply: Callable[[PyTree, PyTree], Array]
    per_sample: bool = eqx.field(static=True)

    def __call__(self, params: PyTree, sample: tuple[PyTree, AbstractRoot]) -> Array:
        inputs, root = sample
        outputs = self.apply(params, inputs)
        if self.per_sample:
            return root(jnp.ravel(outputs))
        rows = outputs.reshape(jax.tree.leaves(root)[0].shape[0], -1)
        return jax.vmap(lambda root, row: root(row))(root, rows)


def measured(problem: AbstractProblem, root: AbstractRoot) -> AbstractProblem:
    """The problem whose outputs are Lx, for L held fixed."""
    if has_prior(problem):
        # The rows of the prior are already scaled.
        data = measured(without_prior(problem), root)
        loss = eqx.tree_at(lambda loss: loss.cost, problem.loss, data.loss)
        return with_blocks(problem, (*data.blocks, problem.blocks[-1]), loss)
    if len(problem.blocks) != 1:
        raise ValueError(
            f"a metric other than `Euclidean()` needs a problem of one block; this one has {len(problem.blocks)}. "
            "Weight the blocks through `residual_problem`."
        )
    (block,) = problem.blocks
    # Coupled samples are a batch of one to the linear algebra.
    root = block.pad(root) if problem.per_sample else jax.tree.map(lambda leaf: leaf[None], root)
    apply = MeasuredApply(block.apply, problem.per_sample)
    block = Block(apply, (block.inputs, root), block.scale, block.sharding, block.padding)
    return with_blocks(problem, (block,), SumOfSquares(problem.num_samples))


def with_blocks(problem: AbstractProblem, blocks: tuple[Block, ...], loss: AbstractCost) -> AbstractProblem:
    """The same problem with other blocks and another cost."""
    return eqx.tree_at(lambda problem: (problem.blocks, problem.loss), problem, (blocks, loss))


def check_metric(metric: Any) -> None:
    """Raise `ValueError` unless `metric` is an `AbstractMetric`."""
    check_kind("metric", metric, AbstractMetric, "a metric, such as `jaxgeo.metrics.Euclidean()`")
