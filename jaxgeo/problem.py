"""The training problem that a user builds from a network, samples and a cost, with its D, DDᵀ and plan of a lift."""

import math
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from jaxgeo._checks import MOST, as_samples, check_number, check_positive, is_trainable_leaf, leading_size
from jaxgeo._trainable import Restricted, partition, tell_of_frozen
from jaxgeo.costs import L2, AbstractCost, SumOfSquares
from jaxgeo.costs.base import check_cost
from jaxgeo.costs.samples import without_ignored
from jaxgeo.linalg.gram.gram import Gram
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.planning.routes import LiftPlan, plan_lift
from jaxgeo.outputs import AbstractProblem, Block, Params
from jaxgeo.prior import number, spread, with_prior


class Problem(AbstractProblem):
    """A network, samples and a cost: the outputs are x[θ] = (apply(θ, x_1), …, apply(θ, x_N)).

    **Arguments:**

    - `apply`: the network; `apply(params, x_j)` returns Q numbers, in any shape, for one sample x_j.
    - `inputs`: the samples, an array or pytree of arrays with leading axis N; lists of numbers and tables such as a
        DataFrame become arrays.
    - `cost`: a cost on outputs of shape (N, Q), such as `jaxgeo.L2(targets)`.
    - `trainable`: which leaves of params to train: a function leaf → bool, or a pytree prefix of params with bools.
        By default all real floating-point arrays except running statistics, which lie under the name `batch_stats`,
        in a `BatchStat` of Flax or in a `State` of Equinox. All other leaves stay as they are.
    - `per_sample`: pass False if the network couples the samples, as batch normalisation does in training mode.
        `apply(params, inputs)` then takes all samples at once and returns (N, Q) outputs. The linear algebra treats
        such a batch as one sample with NQ outputs, which needs N times as many backward passes.

    **Raises:** `ValueError` if inputs are empty or not finite, or if the cost is for another number of samples.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> def line(params, x):
    ...     return params["w"] * x + params["b"]
    >>> params = {"w": jnp.array(0.0), "b": jnp.array(0.0)}
    >>> problem = jg.Problem(line, jnp.array([0.0, 1.0]), jg.L2(jnp.array([1.0, 3.0])))
    >>> float(problem.cost(params)), problem.num_params(params)
    (2.5, 2)

    ```
    """

    blocks: tuple[Block, ...]
    loss: AbstractCost
    trainable: PyTree
    per_sample: bool = eqx.field(static=True)

    def __init__(
        self,
        apply: Callable[[PyTree, PyTree], Array],
        inputs: PyTree,
        cost: AbstractCost,
        *,
        trainable: PyTree = is_trainable_leaf,
        per_sample: bool = True,
    ):
        block = Block(apply, inputs)
        check_cost(cost)
        if block.num_samples != cost.num_samples:
            raise ValueError(
                f"`inputs` and `targets` must have the same number of samples; got {block.num_samples} inputs and "
                f"{cost.num_samples} targets."
            )
        if not per_sample:
            block = Block(apply, jax.tree.map(lambda leaf: leaf[None], block.inputs))
        self.blocks = (block,)
        self.loss = cost
        self.trainable = trainable
        self.per_sample = bool(per_sample)

    def jacobian(self, params: Params) -> Jacobian:
        """D = ∂x/∂θ at `params`, a lineax operator.

        Paper: (1.17)
        """
        return Jacobian(self, params)

    def gram(self, params: Params) -> Gram:
        """G = DDᵀ at `params`, a lineax operator that never holds D."""
        return Gram(self.jacobian(params))

    def plan(
        self, params: Params, *, damping: float | Float[Array, ""] | None = None, memory: int | None = None
    ) -> LiftPlan:
        """How much memory each way to lift would need on each device, and which one `Auto` takes and why.

        Computes nothing.

        **Arguments:**

        - `damping`: as for `jaxgeo.lift`; the dtype depends on whether it is given.
        - `memory`: bytes that matrices may take on each device; by default a quarter of its memory.

        ```python
        >>> import jax.numpy as jnp, jaxgeo as jg
        >>> problem = jg.Problem(lambda a, x: a @ x, jnp.eye(2), jg.L2(jnp.zeros(2)))
        >>> plan = problem.plan(jnp.zeros(2))
        >>> plan.chosen.label, plan.routes[0].matrices
        ('GramCholesky, float64, D if that fails', 128)

        ```
        """
        return plan_lift(self, params, damping=damping, memory=memory)

    def restrict(self, params: Params) -> tuple["Problem", PyTree]:
        """The same problem as a function of the trainable part of `params` alone, and that part.

        Frozen leaves become constants of the network. If nothing is frozen, the problem is returned as it is.

        **Raises:** `ValueError` as for `partition`.

        ```python
        >>> import jax.numpy as jnp, jaxgeo as jg
        >>> choice = {"w": True, "b": False}
        >>> line = lambda params, x: params["w"] * x + params["b"]
        >>> problem = jg.Problem(line, jnp.ones(1), jg.L2(jnp.zeros(1)), trainable=choice)
        >>> restricted, trainable = problem.restrict({"w": jnp.array(2.0), "b": jnp.array(1.0)})
        >>> float(restricted.cost(trainable)), restricted.extend(trainable)[1]["b"].tolist()
        (4.5, 1.0)

        ```
        """
        trainable, frozen = self.partition(params)
        if not jax.tree.leaves(frozen):
            return self, trainable
        networks = [Restricted(block.apply, frozen, self.trainable) for block in self.blocks]
        # The choice has been made: all that is left is trained.
        return eqx.tree_at(_networks_and_choice, self, [*networks, eqx.is_array]), trainable

    def extend(self, trainable: PyTree) -> tuple["Problem", Params]:
        """Undo `restrict`: the original problem, and all of its parameters."""
        network = self.blocks[0].apply
        if not isinstance(network, Restricted):
            return self, trainable
        networks = [block.apply.apply for block in self.blocks if isinstance(block.apply, Restricted)]
        problem = eqx.tree_at(_networks_and_choice, self, [*networks, network.trainable])
        return problem, eqx.combine(trainable, network.frozen)

    def with_prior(self, params: Params, precision: PyTree) -> "Problem":
        """The same problem with a Gaussian prior on the parameters: C + Σ_k p_k θ_k²/(2W), where C divides by W.

        The outputs become those of the data followed by √p_k θ_k, so every flow, optimizer and solver handles the
        prior. For K ≥ QN, lifts still factorise a matrix of size QN (`jaxgeo.linalg.PriorLift`). For L2 an adapted
        flow is then θ̇ = −(DᵀD + P)⁻¹(Dᵀ(x − y) + Pθ)/N. If the model is linear in θ, the gradient of the cost decays
        as e^{−s/N}; for other models no law is known.

        **Arguments:**

        - `precision`: p ≥ 0 in units of the precision of a target of weight 1, that is α/β: one number, or a pytree
            prefix of `params` with a number for each leaf.

        **Raises:** `ValueError` if a number is negative or infinite, if `precision` is not a prefix of `params`, or if
        the problem already has a prior.

        ```python
        >>> import jax.numpy as jnp, jaxgeo as jg
        >>> problem = jg.Problem(lambda a, x: a * x, jnp.ones(1), jg.L2(jnp.ones(1)))
        >>> round(float(problem.with_prior(jnp.array(1.0), 0.5).cost(jnp.array(1.0))), 12)
        0.25

        ```
        """
        trainable, _ = self.partition(params)
        values, treedef = jax.tree.flatten(precision)
        for value in values:
            check_number("precision", value, least=0, most=MOST)
        indices = spread(jax.tree.unflatten(treedef, range(len(values))), params, trainable, "precision")
        dtype = jnp.result_type(*jax.tree.leaves(trainable))
        used = jnp.stack([jnp.asarray(values[index], dtype) for index in dict.fromkeys(indices)])
        return with_prior(self, params, used, number(indices))

    def without_ignored(self) -> "Problem":
        """The same problem without the samples of weight 0.

        They stay if the weights are traced, if the network couples its samples, or if the samples lie on a mesh.
        """
        block = self.blocks[0]
        found = None if not self.per_sample or block.sharding is not None else without_ignored(self.loss)
        if found is None or len(self.blocks) != 1:
            return self
        cost, kept = found
        inputs = jax.tree.map(lambda leaf: leaf[kept], block.inputs)
        return eqx.tree_at(lambda problem: (problem.blocks[0].inputs, problem.loss), self, (inputs, cost))


def _networks_and_choice(problem: Problem) -> list[PyTree]:
    return [*(block.apply for block in problem.blocks), problem.trainable]


def supervised(
    model: PyTree,
    inputs: PyTree,
    targets: ArrayLike | AbstractCost,
    *,
    trainable: PyTree = is_trainable_leaf,
    per_sample: bool = True,
) -> tuple[Problem, PyTree]:
    """Make a problem with the L2 cost from an Equinox model, its samples and targets.

    Paper: (1.3)–(1.7)

    **Arguments:**

    - `model`: a callable pytree, `model(x_j)` for one sample, or `model(inputs)` for all with `per_sample=False`.
    - `inputs`: samples with leading axis N; floating-point ones are cast to the parameters' dtype.
    - `targets`: y of shape (N, …), or a cost such as `L2.from_labels(labels)`.
    - `trainable`: which leaves to train, as for `jaxgeo.Problem`; the others become part of the network.
    - `per_sample`: as for `jaxgeo.Problem`.

    **Returns:** `(problem, params)`; `eqx.combine(params, model)` is the model again.

    **Raises:** `ValueError` if the data are empty or not finite, if there are not as many targets as inputs, if the
    outputs differ in shape from the targets, or if nothing is trainable.

    ```python
    >>> import equinox as eqx, jax, jax.numpy as jnp, jaxgeo as jg
    >>> model = eqx.nn.MLP(2, 1, 8, 1, key=jax.random.key(0))
    >>> problem, params = jg.supervised(model, jnp.ones((3, 2)), jnp.zeros((3, 1)))
    >>> problem.num_rows(params), problem.num_params(params)
    (3, 33)

    ```
    """
    params, static = partition(model, trainable)
    tell_of_frozen(model, trainable)
    dtype = jnp.result_type(*jax.tree.leaves(params))
    inputs = as_samples("inputs", inputs)
    leading_size("inputs", inputs)
    inputs = jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, inputs)
    cost = targets if isinstance(targets, AbstractCost) else L2(targets)
    problem = Problem(ModelApply(static), inputs, cost, per_sample=per_sample)
    problem.check(params)
    return problem, params


class ModelApply(eqx.Module):
    """`apply(params, x)` for an Equinox model; holds the leaves that are not in `params`."""

    static: PyTree

    def __call__(self, params: PyTree, sample: PyTree) -> Array:
        return eqx.combine(params, self.static)(sample)


def residual_problem(
    blocks: Sequence[tuple[Callable[[PyTree, PyTree], Array], PyTree, float]], *, trainable: PyTree = is_trainable_leaf
) -> Problem:
    """Least squares over several kinds of points, such as the interior and the boundary of a PDE's domain.

    The cost is Σ_b weight_b · mean_j |fn_b(params, x_j)|² / 2. The outputs are the scaled residuals of all blocks
    in order, of shape (rows, 1), and the targets are 0. The law of the flows holds, with N the number of points.

    **Arguments:**

    - `blocks`: `(fn, points, weight)` for each block; `fn(params, x_j)` returns the residual(s) at one point.
    - `trainable`: as for `jaxgeo.Problem`.

    **Raises:** `ValueError` if there is no block, if points are empty or not finite, or if a weight is not positive.
    """
    if not isinstance(blocks, Sequence) or not blocks:
        raise ValueError(f"`blocks` is empty or not a list; pass at least one (fn, points, weight); got {blocks!r}.")
    for index, block in enumerate(blocks):
        if not isinstance(block, tuple) or len(block) != 3:
            raise ValueError(f"`blocks[{index}]` must be (fn, points, weight); got {block!r}.")
        weight = block[2]
        if not callable(block[0]):
            raise ValueError(f"`blocks[{index}][0]` must be a function of params and one point; got {block[0]!r}.")
        check_positive(f"blocks[{index}][2]", weight)
    sizes = [leading_size("points", points) for _, points, _ in blocks]
    total = sum(sizes)
    scaled = tuple(
        Block(fn, points, math.sqrt(weight * total / size))
        for (fn, points, weight), size in zip(blocks, sizes, strict=True)
    )
    first = Problem(scaled[0].apply, scaled[0].inputs, SumOfSquares(sizes[0]), trainable=trainable)
    return eqx.tree_at(lambda problem: (problem.blocks, problem.loss), first, (scaled, SumOfSquares(total)))
