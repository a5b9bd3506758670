"""The outputs at a point, linearised in a metric and in scaled parameters."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from jaxgeo._checks import is_trainable_leaf
from jaxgeo.costs import SampleWeighted
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.metric import factored, with_blocks
from jaxgeo.metrics import AbstractMetric
from jaxgeo.problem import Block, Problem


class Linearisation(eqx.Module):
    """x[θ + δ] ≈ x[θ] + Dδ, seen through a metric g = LᵀL.

    Of the rows LD, in place of D, every solver can make the lift in the metric, because they are the Jacobian of an
    ordinary problem: each sample's outputs times its L, which is held fixed.

    - `outputs`: x[θ].
    - `jacobian`: LD, or LDS in scaled parameters.
    - `residual`: b = (Lᵀ)⁺(w∇ₓC), w what C divides by; x − y for L2. A full step has LDδ = −b.
    - `scale`: S, a pytree like the trainable parameters; None for 1.
    """

    problem: Problem
    trainable: PyTree
    frozen: PyTree
    outputs: Float[Array, "N Q"]
    jacobian: Jacobian
    residual: Float[Array, "rows R"]
    scale: PyTree

    def __init__(self, problem: Problem, params: PyTree, metric: AbstractMetric):
        self.problem = problem
        self.trainable, self.frozen = problem.partition(params)
        with jax.default_matmul_precision("highest"):
            self.outputs = problem.outputs(params)
        gradient = problem.loss.gradient(self.outputs) * problem.loss.total_weight
        factor = metric.factor(problem.loss, self.outputs)
        if factor is None:
            self.jacobian = problem.jacobian(params)
            self.residual = gradient
        else:
            self.jacobian = factored(problem, factor).jacobian(params)
            dual = jax.vmap(lambda factor, row: factor.dual(row))(factor, gradient)
            self.residual = dual.reshape(self.jacobian.outputs.shape)
        self.scale = None

    def scaled(self, scale: PyTree) -> "Linearisation":
        """The same in parameters φ with θ = θ₀ + Sφ, S = diag(scale)."""
        problem = shifted(self.jacobian.problem, self.trainable, self.frozen, scale)
        jacobian = problem.jacobian(jax.tree.map(jnp.zeros_like, self.trainable))
        return eqx.tree_at(
            lambda self: (self.jacobian, self.scale), self, (jacobian, scale), is_leaf=lambda x: x is None
        )

    @property
    def total_weight(self) -> int | Float[Array, ""]:
        """What C divides by."""
        weight = self.problem.loss.total_weight
        return weight if isinstance(weight, int) else weight.astype(self.outputs.dtype)

    def relative(self, damping: Float[Array, ""]) -> Float[Array, ""]:
        """A damping relative to the mean of the diagonal of DDᵀ, as one relative to trace(DDᵀ)/rows.

        They differ where samples of weight 0, such as padding, have rows of 0.
        """
        loss = self.problem.loss
        if not isinstance(loss, SampleWeighted):
            return damping
        return damping / jnp.mean((loss.weights > 0).astype(damping.dtype))

    @property
    def cost(self) -> Float[Array, ""]:
        """C at θ."""
        return self.problem.loss(self.outputs)

    @property
    def gradient(self) -> PyTree:
        """∇C in the (scaled) parameters."""
        return self.jacobian.T.mv(self.residual / self.total_weight)

    def unscale(self, velocity: PyTree) -> PyTree:
        """A velocity of φ as one of θ."""
        return velocity if self.scale is None else jax.tree.map(jnp.multiply, self.scale, velocity)

    def rescale(self, velocity: PyTree) -> PyTree:
        """A velocity of θ as one of φ."""
        return velocity if self.scale is None else jax.tree.map(jnp.divide, velocity, self.scale)

    def predicted_decrease(self, velocity: PyTree) -> Float[Array, ""]:
        """By how much C falls in the step, if outputs and metric stayed as they are here; `velocity` is one of φ."""
        moved = self.jacobian.mv(velocity)
        return -0.5 * jnp.sum(moved * (2 * self.residual + moved)) / self.total_weight

    def slope(self, velocity: PyTree) -> Float[Array, ""]:
        """∇C·δ; `velocity` is one of φ."""
        return jnp.sum(self.residual * self.jacobian.mv(velocity)) / self.total_weight

    def move(self, step: PyTree) -> "Trial":
        """What θ + step comes to.

        The decrease is summed from output differences. Where even those are no larger than the round-off of the
        outputs, it is taken from the slopes at both ends, (∇C(x)·Dδ + ∇C(x′)·D′δ)/2, which round-off disturbs less
        by a factor |δ|: so the last digits of θ can still be judged when those of C are exhausted. At costs that are
        themselves round-off nothing is left to judge, and the difference stands.
        """
        loss = self.problem.loss

        def outputs_at(trainable: PyTree) -> Array:
            return self.problem.outputs(eqx.combine(trainable, self.frozen))

        with jax.default_matmul_precision("highest"):
            end = jax.tree.map(jnp.add, self.trainable, step)
            outputs, moving = jax.jvp(outputs_at, (end,), (step,))
            _, moved = jax.jvp(outputs_at, (self.trainable,), (step,))
        before, after = loss.gradient(self.outputs), loss.gradient(outputs)
        decrease = loss.decrease(self.outputs, outputs)
        noise = 8 * jnp.finfo(outputs.dtype).eps * jnp.sum(jnp.abs(before) * (jnp.abs(self.outputs) + jnp.abs(outputs)))
        by_slopes = -0.5 * (jnp.sum(before * moved) + jnp.sum(after * moving))
        finite = jnp.isfinite(decrease)
        judged = (jnp.abs(decrease) > noise) | (noise > 1e-3 * loss(self.outputs))
        decrease = jnp.where(judged, decrease, by_slopes)
        for leaf in jax.tree.leaves(step):
            finite &= jnp.all(jnp.isfinite(leaf))
        return Trial(step, step, loss(outputs), decrease, finite)

    def restrict(self, tree: PyTree) -> PyTree:
        """What a pytree like params has at the trainable leaves."""
        return jax.tree.map(
            lambda kept, value: None if kept is None else value, self.trainable, tree, is_leaf=lambda x: x is None
        )

    def embed(self, step: PyTree) -> PyTree:
        """A step of the trainable part as one of params: zero at frozen arrays."""
        still = jax.tree.map(lambda leaf: jnp.zeros_like(leaf) if eqx.is_array(leaf) else None, self.frozen)
        return eqx.combine(step, still)


class Trial(eqx.Module):
    """A step that was tried, and what is taken of it: the cost it leads to, and C before − C after.

    - `tried`, `step`: equal, until `taken_if` sets a rejected step to zero.
    - `finite`: whether the step and its cost are.
    """

    tried: PyTree
    step: PyTree
    cost: Float[Array, ""]
    decrease: Float[Array, ""]
    finite: Bool[Array, ""]

    def taken_if(self, accepted: Bool[Array, ""], linear: Linearisation) -> "Trial":
        """The same trial, with a step of zero and the cost of no step unless it is accepted."""
        step = jax.tree.map(lambda leaf: jnp.where(accepted, leaf, jnp.zeros_like(leaf)), self.step)
        cost = jnp.where(accepted, self.cost, linear.cost)
        return Trial(self.tried, step, cost, self.decrease, self.finite)


class ShiftedApply(eqx.Module):
    """The network at θ₀ + Sφ as a function of φ."""

    apply: Callable[[PyTree, PyTree], Array]
    origin: PyTree
    frozen: PyTree
    scale: PyTree

    def __call__(self, params: PyTree, sample: PyTree) -> Array:
        moved = jax.tree.map(lambda theta, scale, phi: theta + scale * phi, self.origin, self.scale, params)
        return self.apply(eqx.combine(moved, self.frozen), sample)


def shifted(problem: Problem, origin: PyTree, frozen: PyTree, scale: PyTree) -> Problem:
    """The problem as a function of φ, with θ = origin + scale · φ."""
    blocks = tuple(
        Block(ShiftedApply(block.apply, origin, frozen, scale), block.inputs, block.scale) for block in problem.blocks
    )
    changed = with_blocks(problem, blocks, problem.loss)
    return eqx.tree_at(lambda problem: problem.trainable, changed, is_trainable_leaf)


def shorten(
    linear: Linearisation, step: PyTree, max_growth: float | Float[Array, ""]
) -> tuple[Trial, Float[Array, ""]]:
    """The step, halved until the cost it leads to is finite and at most `max_growth` times that here.

    **Returns:** the last trial and the fraction of the step that it took; after 30 halvings a step of 0.
    """
    one = jnp.ones((), linear.outputs.dtype)
    limit = jnp.asarray(max_growth, one.dtype) * linear.cost + jnp.finfo(one.dtype).tiny

    def attempt(fraction: Float[Array, ""]) -> Trial:
        return linear.move(jax.tree.map(lambda leaf: fraction.astype(leaf.dtype) * leaf, step))

    def unbounded(carry: tuple[Float[Array, ""], Trial]) -> Bool[Array, ""]:
        fraction, trial = carry
        return ~(trial.finite & (trial.cost <= limit)) & (fraction > 2.0**-30)

    def halve(carry: tuple[Float[Array, ""], Trial]) -> tuple[Float[Array, ""], Trial]:
        fraction = carry[0] / 2
        return fraction, attempt(fraction)

    fraction, trial = jax.lax.while_loop(unbounded, halve, (one, attempt(one)))
    good = trial.finite & (trial.cost <= limit)
    return eqx.tree_at(lambda trial: trial.finite, trial.taken_if(good, linear), good), jnp.where(good, fraction, 0)
