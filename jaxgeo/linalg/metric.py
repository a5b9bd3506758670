"""D seen through a metric LᵀL on output space: LD, the Jacobian of an ordinary problem."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxgeo._checks import check_kind, is_concrete
from jaxgeo.costs import AbstractCost, AbstractFactor, DiagonalFactor, SumOfSquares, WeightedFactor
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.metrics import AbstractMetric, CostHessian, Euclidean
from jaxgeo.outputs import AbstractProblem, Block


def descent(jacobian: Jacobian, metric: AbstractMetric) -> tuple[Jacobian, Float[Array, "rows R"]]:
    """LD and −(Lᵀ)⁺∇ₓC, whose lift through LD is the parameter velocity of steepest descent in the metric.

    Paper: Section 2.3
    """
    loss = jacobian.problem.loss
    gradient = loss.gradient(jacobian.outputs)
    factor = counted_factor(metric, loss, jacobian.outputs)
    if factor is None:
        return jacobian, -gradient
    rows = jax.vmap(lambda factor, row: factor.dual(row))(factor, gradient)
    measured = _measured(jacobian, factor)
    return measured, -rows.reshape(measured.outputs.shape)


def counted(jacobian: Jacobian, velocity: Float[Array, "N Q"]) -> tuple[Jacobian, Float[Array, "rows R"]]:
    """D and an output velocity, with rows of 0 for samples that the cost does not depend on."""
    factor = counted_factor(Euclidean(), jacobian.problem.loss, jacobian.outputs)
    if factor is None:
        return jacobian, velocity
    rows = jax.vmap(lambda factor, row: factor(row))(factor, velocity)
    measured = _measured(jacobian, factor)
    return measured, rows.reshape(measured.outputs.shape)


def counted_factor(metric: AbstractMetric, cost: AbstractCost, outputs: Float[Array, "N Q"]) -> AbstractFactor | None:
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


def _measured(jacobian: Jacobian, factor: AbstractFactor) -> Jacobian:
    """LD at the same point."""
    return Jacobian(factored(jacobian.problem, factor), eqx.combine(jacobian.trainable, jacobian.frozen))


class FactoredApply(eqx.Module):
    """Lx for one sample and its factor; for all samples at once and theirs where the network couples them."""

    apply: Callable[[PyTree, PyTree], Array]
    per_sample: bool = eqx.field(static=True)

    def __call__(self, params: PyTree, sample: tuple[PyTree, AbstractFactor]) -> Array:
        inputs, factor = sample
        outputs = self.apply(params, inputs)
        if self.per_sample:
            return factor(jnp.ravel(outputs))
        rows = outputs.reshape(jax.tree.leaves(factor)[0].shape[0], -1)
        return jax.vmap(lambda factor, row: factor(row))(factor, rows)


def factored(problem: AbstractProblem, factor: AbstractFactor) -> AbstractProblem:
    """The problem whose outputs are Lx, for L held fixed."""
    if len(problem.blocks) != 1:
        raise ValueError(
            f"a metric other than `Euclidean()` needs a problem of one block; this one has {len(problem.blocks)}. "
            "Weight the blocks through `residual_problem`."
        )
    (block,) = problem.blocks
    # What couples the samples is to the linear algebra a batch of one.
    factor = block.pad(factor) if problem.per_sample else jax.tree.map(lambda leaf: leaf[None], factor)
    apply = FactoredApply(block.apply, problem.per_sample)
    block = Block(apply, (block.inputs, factor), block.scale, block.sharding, block.padding)
    return with_blocks(problem, (block,), SumOfSquares(problem.num_samples))


def with_blocks(problem: AbstractProblem, blocks: tuple[Block, ...], loss: AbstractCost) -> AbstractProblem:
    """The same problem with other blocks and another cost."""
    return eqx.tree_at(lambda problem: (problem.blocks, problem.loss), problem, (blocks, loss))


def check_metric(metric: Any) -> None:
    """`ValueError` for what is no metric."""
    check_kind("metric", metric, AbstractMetric, "a metric, such as `jaxgeo.metrics.Euclidean()`")
