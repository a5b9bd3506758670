"""The outputs at a point, linearised in a metric, and the effect of steps from there."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PyTree

from jaxgeo._sums import total
from jaxgeo.costs import AbstractRoot, WeightedRoot
from jaxgeo.costs.regularised import Regularised
from jaxgeo.linalg.jacobian import Jacobian, embed, rows_and_outputs
from jaxgeo.linalg.measured import counted_root, measured
from jaxgeo.linalg.one_way import both_ways, one_ways, pulled
from jaxgeo.linalg.precision import rescue_if, without_tf32
from jaxgeo.linalg.solvers.base import DECOMPOSED, SOLVED, LiftInfo, is_finite
from jaxgeo.linalg.tangents import dot
from jaxgeo.linalg.trials import for_trials
from jaxgeo.linalg.vectors import OfVector, is_small, of_vector
from jaxgeo.metrics import AbstractMetric, Euclidean
from jaxgeo.outputs import AbstractProblem, Params


class Linearisation(eqx.Module):
    """x[θ + δ] ≈ x[θ] + Dδ, in a metric g = LᵀL.

    With the rows LD in place of D, every solver computes lifts in the metric, because LD is the Jacobian of an ordinary
    problem: the outputs of each sample times its L, which is held fixed.

    Paper: Section 2.3

    A small problem becomes a function of one vector, and D is held: `trainable` and every step are then vectors, which
    `restrict` and `embed` translate from and to pytrees.

    - `network`: the network of this vector; None if the parameters stay a pytree.
    - `outputs`: x[θ].
    - `jacobian`: LD.
    - `root`: L for each sample; None for the identity.
    - `residual`: b = (Lᵀ)⁺(w∇ₓC), where C divides by w; x − y for L2. A full step has LDδ = −b.
    """

    problem: AbstractProblem
    network: OfVector | None
    trainable: PyTree
    frozen: PyTree
    outputs: Float[Array, "N Q"]
    jacobian: Jacobian
    root: AbstractRoot | None
    residual: Float[Array, "rows R"]

    def __init__(self, problem: AbstractProblem, params: Params, metric: AbstractMetric, known: Jacobian | None = None):
        """**Arguments:**

        - `known`: D at `params` if it is already known, as along a flow; its outputs are then reused.
        """
        problem, self.network = both_ways(problem, params), None
        if known is None:
            problem.check_samples(params)
            if is_small(problem, params):
                found = rows_and_outputs(problem, *problem.partition(params))
                problem, params, self.network = of_vector(problem, params)
                known = Jacobian(problem, params, found)
            elif one_ways(problem.blocks):
                known = Jacobian(problem, params)
        self.problem = problem
        if known is None:
            self.trainable, self.frozen = problem.partition(params)
            with jax.default_matmul_precision("highest"):
                self.outputs = problem.outputs(params)
        else:
            self.trainable, self.frozen, self.outputs = known.trainable, known.frozen, known.outputs
        cost, own = problem.loss, self.outputs
        if isinstance(cost, Regularised):
            cost, own = cost.cost, cost.data(own)
        self.root = counted_root(metric, cost, own)
        if self.root is None:
            self.jacobian = Jacobian(problem, params) if known is None else known
        else:
            rows = None if known is None or known.held is None else self._measured(known.held, known.outputs)
            self.jacobian = Jacobian(measured(problem, self.root), params, rows)
        self.residual = self._dual(problem.loss.gradient(self.outputs) * problem.loss.total_weight)

    def _measured(
        self, rows: Float[Array, "QN K"], outputs: Float[Array, "N Q"]
    ) -> tuple[Float[Array, "rows K"], Float[Array, "rows 1"]]:
        """LD and Lx, from D and x."""
        columns = rows.T.reshape(-1, *outputs.shape)
        return jax.vmap(self.measure, out_axes=1)(columns)[..., 0], self.measure(outputs)

    def holding(self) -> "Linearisation":
        """The same, with D held as a matrix: where D is needed anyway, its products are cheaper than the network's.

        Samples on several devices stay as they are.
        """
        jacobian = self.jacobian
        if jacobian.held is not None or any(block.sharding is not None for block in jacobian.problem.blocks):
            return self
        params = eqx.combine(self.trainable, self.frozen)
        known = rows_and_outputs(jacobian.problem, self.trainable, self.frozen)
        return eqx.tree_at(lambda linear: linear.jacobian, self, Jacobian(jacobian.problem, params, known))

    @property
    def descent(self) -> Float[Array, "rows R"]:
        """−(Lᵀ)⁺∇ₓC, whose lift through LD is the parameter velocity of steepest descent in the metric."""
        return -self._dual(self.problem.loss.gradient(self.outputs))

    def measure(self, velocity: Float[Array, "N Q"]) -> Float[Array, "rows R"]:
        """Lv for an output velocity v."""
        if self.root is None:
            return velocity
        return self._of_data(lambda rows: jax.vmap(lambda root, row: root(row))(self.root, rows), velocity)

    def _dual(self, gradient: Float[Array, "N Q"]) -> Float[Array, "rows R"]:
        """(Lᵀ)⁺ times an output gradient."""
        if self.root is None:
            return gradient
        return self._of_data(lambda rows: jax.vmap(lambda root, row: root.dual(row))(self.root, rows), gradient)

    def _of_data(self, function: Callable[[Array], Array], rows: Array) -> Float[Array, "rows R"]:
        """Apply a function to the rows of the data; those of a prior stay as they are. The result is one column."""
        loss = self.problem.loss
        if not isinstance(loss, Regularised):
            return function(rows).reshape(-1, 1)
        return loss.join(function(loss.data(rows)), rows[-loss.size :])

    @property
    def rows_of_data(self) -> int:
        """The number of rows, without those of a prior."""
        loss = self.problem.loss
        return self.jacobian.out_size() - (loss.size if isinstance(loss, Regularised) else 0)

    @property
    def total_weight(self) -> int | Float[Array, ""]:
        """The number that C divides by."""
        weight = self.problem.loss.total_weight
        return weight if isinstance(weight, int) else weight.astype(self.outputs.dtype)

    def relative(self, damping: Float[Array, ""]) -> Float[Array, ""]:
        """Convert a damping relative to the mean square of the rows of D into one relative to trace(DDᵀ)/rows.

        The two differ if samples have weights: a sample of weight 2 counts as two rows, and one of weight 0, such as
        padding, as none. The unit of weights is the smallest but 0, and no less than a sixteenth of their mean, so
        that weights of another scale make the same steps.
        """
        if not isinstance(self.root, WeightedRoot):
            return damping
        rows, of_data = self.jacobian.out_size(), self.rows_of_data
        weights = (self.root.scale**2).astype(damping.dtype)
        mean = jnp.mean(weights)
        unit = jnp.maximum(jnp.min(jnp.where(weights > 0, weights, jnp.inf)), mean / 16)
        return damping * (rows * unit / (of_data * mean + (rows - of_data) * unit))

    def is_trusted(self, lift: LiftInfo) -> Bool[Array, ""]:
        """Whether a lift used a factorisation that is accurate for every row.

        Samples of weight 0 have rows of 0, for which a Cholesky factorisation fails. A lift by eigenvalues is as good,
        provided that it loses no other row.
        """
        solved, counted = lift.outcome == SOLVED, self.problem.loss.counted
        if counted is None:
            return solved
        rows = jnp.sum(counted, dtype=lift.rank.dtype) * (self.jacobian.out_size() // counted.size)
        return solved | ((lift.outcome == DECOMPOSED) & (lift.rank == rows))

    @property
    def cost(self) -> Float[Array, ""]:
        """C at θ."""
        return self.problem.loss(self.outputs)

    @property
    def gradient(self) -> PyTree:
        """∇C."""
        return self.jacobian.T.mv(self.residual / self.total_weight)

    def outputs_at(self, step: PyTree) -> Float[Array, "N Q"]:
        """x at θ + step."""
        return self._evaluated(self.problem, step)

    def rows_at(self, step: PyTree) -> Float[Array, "rows R"]:
        """Lx at θ + step, with the L of θ."""
        return self._evaluated(self.jacobian.problem, step)

    def _evaluated(self, problem: AbstractProblem, step: PyTree) -> Array:
        """The outputs of a problem at θ + step; NaN where the network raises an error, so that the step is rejected."""
        params = eqx.combine(jax.tree.map(jnp.add, self.trainable, step), self.frozen)
        with jax.default_matmul_precision("highest"):
            return for_trials(problem, params).outputs(params)

    def bend(self, velocity: PyTree) -> Float[Array, "rows R"]:
        """∂²(Lx)/∂t² at θ + t·velocity, t = 0: how the rows bend away from the straight line that D predicts."""
        if any(network.reverse for network in one_ways(self.problem.blocks)):
            # No second derivatives: compare the outputs a tenth of the way with the prediction of D.
            part = jax.tree.map(lambda leaf: 0.1 * leaf, velocity)
            moved = self.rows_at(part) - self.jacobian.outputs
            return (moved - self.jacobian.mv(part)) / (0.5 * 0.1**2)

        def speed(step: PyTree) -> Array:
            return jax.jvp(self.rows_at, (step,), (velocity,))[1]

        return jax.jvp(speed, (jax.tree.map(jnp.zeros_like, velocity),), (velocity,))[1]

    def predicted_decrease(self, moved: Float[Array, "rows R"]) -> Float[Array, ""]:
        """How much C would fall if the rows moved by `moved` and the metric stayed the same."""
        return -total(moved * (self.residual + 0.5 * moved)) / self.total_weight

    def move(
        self, step: PyTree, aim: Float[Array, "rows R"] | None = None, outputs: Float[Array, "N Q"] | None = None
    ) -> "Trial":
        """Try θ + step: its cost, and the true and predicted decrease of C.

        `aim` is how far the step should move the rows, by default LD times the step. `outputs` are the outputs at
        θ + step, if they are known.

        The decrease is summed from output differences. If these are no larger than the round-off of the outputs, the
        slopes at both ends give it instead, (∇C(x)·Dδ + ∇C(x′)·D′δ)/2, with a round-off smaller by a factor |δ|. So
        steps in the last digits of θ can still be judged when those of C are exhausted. If the cost itself is
        round-off, the difference is kept. If a network has derivatives in one mode only, the slopes take a gradient at
        each end, computed only when needed.
        """
        loss = self.problem.loss
        outputs = self.outputs_at(step) if outputs is None else outputs
        before, decrease = loss.gradient(self.outputs), loss.decrease(self.outputs, outputs)
        noise = 8 * jnp.finfo(outputs.dtype).eps * total(jnp.abs(before * self.outputs) + jnp.abs(before * outputs))
        finite = jnp.isfinite(decrease)
        judged = (jnp.abs(decrease) > noise) | (noise > 1e-3 * loss(self.outputs)) | ~finite
        decrease = rescue_if(~judged, _by_slopes, decrease, self, step, outputs)
        finite &= is_finite(step)
        predicted = self.predicted_decrease(self.jacobian.mv(step) if aim is None else aim)
        return Trial(step, loss(outputs), decrease, predicted, finite)

    def restrict(self, tree: PyTree, missing: PyTree = None) -> PyTree:
        """The trainable leaves of a pytree like params as a step, with those of `missing`, a step, in place of None."""
        own = self.as_tree(self.trainable if missing is None else missing)
        kept = jax.tree.map(
            lambda own, value: own if own is None or value is None else value.astype(own.dtype),
            own,
            tree,
            is_leaf=lambda x: x is None,
        )
        return kept if self.network is None else ravel_pytree(kept)[0]

    def as_tree(self, step: PyTree) -> PyTree:
        """A step as a pytree like the trainable part of params."""
        return step if self.network is None else self.network.unravel(step)

    def embed(self, step: PyTree) -> PyTree:
        """A step as one of params: zero at frozen arrays."""
        return embed(self.as_tree(step), self.frozen if self.network is None else self.network.frozen)


# Compiled by itself so that it is traced only once: the loop over fractions of a step traces each trial twice.
@eqx.filter_jit
@without_tf32
def _by_slopes(
    decrease: Float[Array, ""], linear: Linearisation, step: PyTree, outputs: Float[Array, "N Q"]
) -> Float[Array, ""]:
    """−(∇C(x)·Dδ + ∇C(x′)·D′δ)/2, instead of a decrease that is round-off; x′ = `outputs`."""
    problem, one_way = linear.problem, bool(one_ways(linear.problem.blocks))

    def slope(start: PyTree, outputs: Array) -> Float[Array, ""]:
        rows = problem.loss.gradient(outputs)
        if one_way:
            point = jax.tree.map(jnp.add, linear.trainable, start)
            return dot(pulled(problem, point, linear.frozen, rows), step)
        return total(rows * jax.jvp(linear.outputs_at, (start,), (step,))[1])

    if linear.root is None:
        first = total(linear.residual * linear.jacobian.mv(step)) / linear.total_weight
    else:
        first = slope(jax.tree.map(jnp.zeros_like, step), linear.outputs)
    return -0.5 * (first + slope(step, outputs))


class Trial(eqx.Module):
    """A step that was tried, the cost it leads to, and the decrease, C before minus C after.

    - `step`: `taken_if` sets it to zero if it is rejected.
    - `predicted`: the decrease according to the linearised outputs.
    - `finite`: whether the step and its cost are finite.
    """

    step: PyTree
    cost: Float[Array, ""]
    decrease: Float[Array, ""]
    predicted: Float[Array, ""]
    finite: Bool[Array, ""]

    @property
    def gain_ratio(self) -> Float[Array, ""]:
        """The decrease over the predicted decrease: 0 if none was predicted, −∞ if the step is not finite."""
        ratio = jnp.where(self.predicted > 0, self.decrease / jnp.where(self.predicted > 0, self.predicted, 1), 0)
        return jnp.where(self.finite, ratio, -jnp.inf)

    def taken_if(self, accepted: Bool[Array, ""], linear: Linearisation) -> "Trial":
        """The same trial, with a step of zero and the cost of no step unless it is accepted."""
        step = jax.tree.map(lambda leaf: jnp.where(accepted, leaf, jnp.zeros_like(leaf)), self.step)
        cost = jnp.where(accepted, self.cost, linear.cost)
        return Trial(step, cost, self.decrease, self.predicted, self.finite)


def linearised(jacobian: Jacobian, metric: AbstractMetric) -> Linearisation:
    """The `Linearisation` at a point whose D is already known."""
    params = eqx.combine(jacobian.trainable, jacobian.frozen)
    return Linearisation(jacobian.problem, params, metric, jacobian)


def counted(jacobian: Jacobian, velocity: Float[Array, "N Q"]) -> tuple[Jacobian, Float[Array, "rows R"]]:
    """D and an output velocity, with rows of 0 for samples that the cost does not depend on."""
    linear = linearised(jacobian, Euclidean())
    return linear.jacobian, linear.measure(velocity)
