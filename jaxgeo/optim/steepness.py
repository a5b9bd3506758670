"""A metric on parameter space by how steep the cost was along each parameter, in which damped steps are short."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jaxgeo.linalg.few_products import approximate_lift, sampled_trace
from jaxgeo.linalg.linearisation import Linearisation
from jaxgeo.linalg.solvers.base import FAILED, SOLVED, LiftInfo, is_finite, relative_norm
from jaxgeo.optim.attempt import scaled

# How much of the averages is kept from step to step.
SQUARES_KEPT, TRACE_KEPT = 0.99, 0.9

# W where hardly any gradient was seen, in units of its root mean square.
LEAST_WEIGHT = 1e-3


class Steepness(NamedTuple):
    """W, the diagonal of roots of mean squares of gradients, as Adam has it, and the scale of DW⁻¹Dᵀ.

    Both averages start at 0, and are divided by the weight that the steps so far have in them.

    - `squares`: of the gradients, averaged, a pytree like the parameters.
    - `trace`: of DW⁻¹Dᵀ per row, averaged.

    Reference: D. P. Kingma, J. Ba, Adam: a method for stochastic optimization, 2015, ICLR, arXiv 1412.6980
    """

    squares: PyTree
    trace: Float[Array, ""]

    def after(self, linear: Linearisation, count: Int[Array, ""], pulled: PyTree) -> "Steepness":
        """With a step more, for which Dᵀ took the rows to `pulled`."""
        mean = scaled(1 / jnp.asarray(linear.total_weight, linear.outputs.dtype), pulled)
        squares = jax.tree.map(
            lambda before, leaf: SQUARES_KEPT * before + (1 - SQUARES_KEPT) * leaf**2, self.squares, mean
        )
        trace = sampled_trace(linear.jacobian, _weights(squares, count), _signs(linear, count))
        trace = trace / linear.jacobian.out_size()
        return Steepness(squares, TRACE_KEPT * self.trace + (1 - TRACE_KEPT) * trace.astype(self.trace.dtype))

    def lift(
        self,
        linear: Linearisation,
        count: Int[Array, ""],
        damping: Float[Array, ""],
        missing: Float[Array, "rows R"],
        pulled: PyTree,
        products: int,
    ) -> tuple[PyTree, Float[Array, "rows R"], LiftInfo]:
        """About W⁻¹Dᵀ(DW⁻¹Dᵀ + λ)⁻¹ times the rows that are `missing`, λ = damping · trace(DW⁻¹Dᵀ)/QN.

        **Returns:** that, what D makes of it, and how it went.
        """
        trace = self.trace / (1 - TRACE_KEPT ** (count.astype(self.trace.dtype) + 1))
        absolute = linear.relative(damping) * trace.astype(damping.dtype)
        solution = approximate_lift(linear.jacobian, _weights(self.squares, count), absolute, pulled, products)
        finite = is_finite(solution)
        solution, moved = jax.tree.map(lambda leaf: jnp.where(finite, leaf, jnp.zeros_like(leaf)), solution)
        residual = relative_norm(moved - missing, missing)
        residual = jnp.where(jnp.isfinite(residual), residual, jnp.ones_like(residual))
        outcome = jnp.where(finite, SOLVED, FAILED).astype(jnp.int32)
        report = LiftInfo(outcome, jnp.full((), -1, jnp.int32), residual, jnp.zeros_like(residual))
        return solution, moved, report


def _signs(linear: Linearisation, count: Int[Array, ""]) -> Float[Array, "rows R"]:
    """Random signs for the rows: others in every step, and for a sample the same whatever pads the batch."""
    rows, counted, samples = linear.jacobian.outputs, linear.problem.loss.counted, linear.outputs.shape[0]
    key = jax.random.fold_in(jax.random.key(0), count)
    place = jnp.arange(samples) if counted is None else jnp.cumsum(counted) - 1

    def of_sample(place: Int[Array, ""]) -> Float[Array, " R"]:
        return jax.random.rademacher(jax.random.fold_in(key, place), (rows.size // samples,), rows.dtype)

    return jax.vmap(of_sample)(place).reshape(rows.shape)


def _weights(squares: PyTree, count: Int[Array, ""]) -> PyTree:
    leaves = jax.tree.leaves(squares)
    seen = 1 - SQUARES_KEPT ** (count.astype(leaves[0].dtype) + 1)
    total = jnp.sum(jnp.stack([jnp.sum(leaf) for leaf in leaves])) / seen
    least = LEAST_WEIGHT * _root(total / sum(leaf.size for leaf in leaves))

    def weight(leaf: Array) -> Array:
        return _root(leaf / seen.astype(leaf.dtype)) + least.astype(leaf.dtype) + jnp.finfo(leaf.dtype).tiny ** 0.5

    return jax.tree.map(weight, squares)


def _root(square: Array) -> Array:
    # The derivative at 0 is infinite, and times 0 it would be NaN.
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
