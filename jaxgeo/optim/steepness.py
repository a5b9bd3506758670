"""A metric on parameter space, from the past slopes of the cost, in which damped steps are short."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jaxgeo.linalg.cauchy import cauchy_step, sampled_trace
from jaxgeo.linalg.linearisation import Linearisation
from jaxgeo.linalg.solvers.base import FAILED, SOLVED, LiftInfo, is_finite, relative_norm
from jaxgeo.optim.attempt import scaled

# The fraction of the averages that is kept from step to step.
SQUARES_KEPT, TRACE_KEPT = 0.99, 0.9

# The smallest W, for parameters with hardly any gradient, relative to the root mean square of W.
LEAST_WEIGHT = 1e-3


class Steepness(NamedTuple):
    """W, Adam's diagonal of root mean squares of gradients, and the scale of DW⁻¹Dᵀ.

    Both averages start at 0 and are bias-corrected, as in Adam.

    - `squares`: average of the squared gradients, a pytree like the parameters.
    - `trace`: average of the trace of DW⁻¹Dᵀ per row.

    Reference: D. P. Kingma, J. Ba, Adam: a method for stochastic optimization, 2015, ICLR, arXiv 1412.6980
    """

    squares: PyTree
    trace: Float[Array, ""]

    def after(self, linear: Linearisation, count: Int[Array, ""], pulled: PyTree) -> "Steepness":
        """Update the averages by one step; `pulled` is Dᵀ times the rows."""
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
    ) -> tuple[PyTree, Float[Array, "rows R"], LiftInfo]:
        """The Cauchy step towards the damped lift of `missing`, with λ = damping · trace(DW⁻¹Dᵀ)/QN.

        **Returns:** the step, D times the step, and the report.
        """
        trace = self.trace / (1 - TRACE_KEPT ** (count.astype(self.trace.dtype) + 1))
        absolute = linear.relative(damping) * trace.astype(damping.dtype)
        solution = cauchy_step(linear.jacobian, _weights(self.squares, count), absolute, pulled)
        finite = is_finite(solution)
        solution, moved = jax.tree.map(lambda leaf: jnp.where(finite, leaf, jnp.zeros_like(leaf)), solution)
        residual = relative_norm(moved - missing, missing)
        residual = jnp.where(jnp.isfinite(residual), residual, jnp.ones_like(residual))
        outcome = jnp.where(finite, SOLVED, FAILED).astype(jnp.int32)
        report = LiftInfo(outcome, jnp.full((), -1, jnp.int32), residual, jnp.zeros_like(residual))
        return solution, moved, report


def _signs(linear: Linearisation, count: Int[Array, ""]) -> Float[Array, "rows R"]:
    """Random signs for the rows: new in every step, and independent of the padding of the batch."""
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
    # The derivative at 0 is infinite, and 0 times it would be NaN.
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
