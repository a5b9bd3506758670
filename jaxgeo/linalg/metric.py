"""D seen through a metric LᵀL on output space: LD, the Jacobian of an ordinary problem."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo._checks import check_kind
from jaxgeo.costs import AbstractCost, AbstractFactor, SumOfSquares
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.metrics import AbstractMetric
from jaxgeo.problem import Block, Problem


def descent(jacobian: Jacobian, metric: AbstractMetric) -> tuple[Jacobian, Float[Array, "rows R"]]:
    """LD and −(Lᵀ)⁺∇ₓC, whose lift through LD is the parameter velocity of steepest descent in the metric.

    Paper: Section 2.3
    """
    loss = jacobian.problem.loss
    gradient = loss.gradient(jacobian.outputs)
    factor = metric.factor(loss, jacobian.outputs)
    if factor is None:
        return jacobian, -gradient
    rows = jax.vmap(lambda factor, row: factor.dual(row))(factor, gradient)
    measured = factored(jacobian.problem, factor).jacobian(eqx.combine(jacobian.trainable, jacobian.frozen))
    return measured, -rows.reshape(measured.outputs.shape)


class FactoredApply(eqx.Module):
    """Lx for one sample and its factor."""

    apply: Callable[[PyTree, PyTree], Array]

    def __call__(self, params: PyTree, sample: tuple[PyTree, AbstractFactor]) -> Array:
        inputs, factor = sample
        return factor(jnp.ravel(self.apply(params, inputs)))


def factored(problem: Problem, factor: AbstractFactor) -> Problem:
    """The problem whose outputs are Lx, for L held fixed."""
    if len(problem.blocks) != 1:
        raise ValueError(
            f"a metric other than `Euclidean()` needs a problem of one block; this one has {len(problem.blocks)}. "
            "Weight the blocks through `residual_problem`."
        )
    (block,) = problem.blocks
    inputs = (block.inputs, block.pad(factor))
    block = Block(FactoredApply(block.apply), inputs, block.scale, block.sharding, block.padding)
    return with_blocks(problem, (block,), SumOfSquares(block.num_samples))


def with_blocks(problem: Problem, blocks: tuple[Block, ...], loss: AbstractCost) -> Problem:
    """The same problem with other blocks and another cost."""
    return eqx.tree_at(lambda problem: (problem.blocks, problem.loss), problem, (blocks, loss))


def check_metric(metric: Any) -> None:
    """`ValueError` for what is no metric."""
    check_kind("metric", metric, AbstractMetric, "a metric, such as `jaxgeo.metrics.Euclidean()`")
