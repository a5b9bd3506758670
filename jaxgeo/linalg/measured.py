"""A problem measured in a metric LᵀL on output space: its outputs are Lx, and so its Jacobian is LD."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxgeo._checks import check_kind, is_concrete
from jaxgeo.costs import AbstractCost, AbstractFactor, DiagonalFactor, SumOfSquares, WeightedFactor
from jaxgeo.metrics import AbstractMetric, CostHessian
from jaxgeo.outputs import AbstractProblem, Block


def counted_root(metric: AbstractMetric, cost: AbstractCost, outputs: Float[Array, "N Q"]) -> AbstractFactor | None:
    """L for every sample as the metric gives it, and 0 for a sample that the cost does not depend on.

    Without that the lift would hold the outputs of such a sample still.
    """
    factor, counted = metric.factor(cost, outputs), cost.counted
    # The curvature of the cost is 0 there by itself.
    if counted is None or isinstance(metric, CostHessian) or (is_concrete(counted) and np.asarray(counted).all()):
        return factor
    if factor is None:
        factor = DiagonalFactor(jnp.ones_like(outputs))
    return WeightedFactor(counted.astype(outputs.dtype), factor)


class MeasuredApply(eqx.Module):
    """Lx for one sample and its root; for all samples at once and theirs where the network couples them."""

    apply: Callable[[PyTree, PyTree], Array]
    per_sample: bool = eqx.field(static=True)

    def __call__(self, params: PyTree, sample: tuple[PyTree, AbstractFactor]) -> Array:
        inputs, factor = sample
        outputs = self.apply(params, inputs)
        if self.per_sample:
            return factor(jnp.ravel(outputs))
        rows = outputs.reshape(jax.tree.leaves(factor)[0].shape[0], -1)
        return jax.vmap(lambda factor, row: factor(row))(factor, rows)


def measured(problem: AbstractProblem, factor: AbstractFactor) -> AbstractProblem:
    """The problem whose outputs are Lx, for L held fixed."""
    if len(problem.blocks) != 1:
        raise ValueError(
            f"a metric other than `Euclidean()` needs a problem of one block; this one has {len(problem.blocks)}. "
            "Weight the blocks through `residual_problem`."
        )
    (block,) = problem.blocks
    # What couples the samples is to the linear algebra a batch of one.
    factor = block.pad(factor) if problem.per_sample else jax.tree.map(lambda leaf: leaf[None], factor)
    apply = MeasuredApply(block.apply, problem.per_sample)
    block = Block(apply, (block.inputs, factor), block.scale, block.sharding, block.padding)
    return with_blocks(problem, (block,), SumOfSquares(problem.num_samples))


def with_blocks(problem: AbstractProblem, blocks: tuple[Block, ...], loss: AbstractCost) -> AbstractProblem:
    """The same problem with other blocks and another cost."""
    return eqx.tree_at(lambda problem: (problem.blocks, problem.loss), problem, (blocks, loss))


def check_metric(metric: Any) -> None:
    """Raise `ValueError` unless `metric` is an `AbstractMetric`."""
    check_kind("metric", metric, AbstractMetric, "a metric, such as `jaxgeo.metrics.Euclidean()`")
