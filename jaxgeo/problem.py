"""A training problem: the outputs x[θ] of a network on its samples, and the cost of them."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from jaxgeo._checks import as_array, check_finite, check_positive, is_trainable_leaf, leading_size
from jaxgeo.costs import L2, AbstractCost, SumOfSquares
from jaxgeo.costs.base import check_cost

if TYPE_CHECKING:
    from jaxgeo.linalg.gram import Gram
    from jaxgeo.linalg.jacobian import Jacobian
    from jaxgeo.linalg.routes import LiftPlan

Params = PyTree[Any, "params"]


class Block(eqx.Module):
    """One per-sample function over its own points: rows `scale * apply(params, x_j)`, j = 1…N.

    - `sharding`: how the samples lie on a mesh, None for one device; see `jaxgeo.shard_samples`.
    - `padding`: how many of `inputs`, at the end, only fill up the last shard; they have no rows.
    """

    apply: Callable[[PyTree, PyTree], Array]
    inputs: PyTree
    scale: float
    sharding: NamedSharding | None = eqx.field(static=True)
    padding: int = eqx.field(static=True)

    def __init__(
        self,
        apply: Callable[[PyTree, PyTree], Array],
        inputs: PyTree,
        scale: float = 1.0,
        sharding: NamedSharding | None = None,
        padding: int = 0,
    ):
        leading_size("inputs", inputs)
        check_finite("inputs", inputs)
        if not callable(apply):
            raise ValueError(f"`apply` must be a function of params and one sample; got {apply!r}.")
        self.apply = apply
        self.inputs = jax.tree.map(lambda leaf: as_array("inputs", leaf), inputs)
        self.scale = scale
        self.sharding = sharding
        self.padding = padding

    @property
    def num_samples(self) -> int:
        return leading_size("inputs", self.inputs) - self.padding

    @property
    def num_shards(self) -> int:
        """Over how many devices the samples are spread."""
        return 1 if self.sharding is None else self.sharding.mesh.shape[self.sharding.spec[0]]

    def pad(self, tree: PyTree) -> PyTree:
        """Arrays of N samples, with as much padding as `inputs` have: the last sample again."""
        return jax.tree.map(lambda leaf: repeat_last(leaf, self.padding), tree)

    def sample(self) -> PyTree[jax.ShapeDtypeStruct]:
        """Shapes and dtypes of one sample, without the sample axis."""
        return jax.eval_shape(lambda inputs: jax.tree.map(lambda leaf: leaf[0], inputs), self.inputs)

    def outputs(self, params: Params, sample: PyTree) -> Float[Array, "..."]:
        """The outputs of one sample, scaled, in the shape that `apply` gives them."""
        outputs = self.apply(params, sample)
        if not isinstance(outputs, jax.Array) or outputs.size == 0:
            raise ValueError(f"`apply` must return the outputs of a sample as an array; got {outputs!r}.")
        if not jnp.issubdtype(outputs.dtype, jnp.floating):
            raise ValueError(f"`apply` must return real floating-point outputs; got dtype {outputs.dtype}.")
        return outputs * self.scale

    def rows(self, params: Params, sample: PyTree) -> Float[Array, " Q"]:
        """The outputs of one sample, flattened and scaled."""
        return jnp.ravel(self.outputs(params, sample))


def repeat_last(array: Array, times: int) -> Array:
    """The array with its last entry repeated at its end."""
    return array if times == 0 else jnp.concatenate([array, jnp.repeat(array[-1:], times, axis=0)])


class Problem(eqx.Module):
    """Outputs x[θ] = (apply(θ, x_1), …, apply(θ, x_N)) and a cost of them.

    **Arguments:**

    - `apply`: the network, `apply(params, x_j)` for one sample x_j, giving Q numbers of any shape.
    - `inputs`: the samples, an array or pytree of arrays with leading axis N.
    - `cost`: a cost on outputs of shape (N, Q), such as `jaxgeo.L2(targets)`.
    - `trainable`: which leaves of params the flows move: a function leaf → bool, or a pytree prefix of
        params holding bools. By default every real floating-point array. All other leaves stay untouched.
    - `per_sample`: pass False for a network that couples the samples, as batch normalisation does: then `apply(params,
        inputs)` is given all samples at once and gives (N, Q) outputs. To the linear algebra such a batch is one
        sample with NQ outputs, which costs N times the backward passes.

    **Raises:** `ValueError` if inputs are empty, not finite, or not as many as the cost's samples.

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

    @property
    def num_samples(self) -> int:
        """N, in the unit of flow time: the cost decays as e^{-2s/N}."""
        return self.loss.num_samples

    def num_rows(self, params: Params) -> int:
        """QN, the dimension of output space, from shapes alone."""
        return eqx.filter_eval_shape(self.outputs, params).size

    def num_params(self, params: Params) -> int:
        """K, the number of trainable numbers in `params`.

        Paper: (1.5)
        """
        trainable, _ = self.partition(params)
        return sum(leaf.size for leaf in jax.tree.leaves(trainable))

    def partition(self, params: Params) -> tuple[PyTree, PyTree]:
        """Split `params` into (trainable, frozen), each with None where the other has a leaf.

        **Raises:** `ValueError` if no leaf is trainable, or a leaf chosen as trainable is complex or integer.
        """
        return partition(params, self.trainable)

    @eqx.filter_jit
    def outputs(self, params: Params) -> Float[Array, "N Q"]:
        """x[θ], the outputs of every sample.

        Paper: (1.6), (1.8); all of them together are (5.13)
        """
        outputs = [
            jax.vmap(block.outputs, in_axes=(None, 0))(params, block.inputs)[: block.num_samples]
            for block in self.blocks
        ]
        for output in outputs:
            self.loss.check_shape(output.shape)
        return self.loss.arrange(jnp.concatenate([output.reshape(-1) for output in outputs]))

    @eqx.filter_jit
    def cost(self, params: Params) -> Float[Array, ""]:
        """C(x[θ])."""
        return self.loss(self.outputs(params))  # pyright: ignore[reportCallIssue]

    def jacobian(self, params: Params) -> "Jacobian":
        """D = ∂x/∂θ at `params`, a lineax operator.

        Paper: (1.17)
        """
        from jaxgeo.linalg.jacobian import Jacobian

        return Jacobian(self, params)

    def gram(self, params: Params) -> "Gram":
        """G = DDᵀ at `params`, a lineax operator that never holds D."""
        from jaxgeo.linalg.gram import Gram

        return Gram(self.jacobian(params))

    def plan(
        self, params: Params, *, damping: float | Float[Array, ""] | None = None, memory: int | None = None
    ) -> "LiftPlan":
        """What every way to lift would hold on each device, and which one `Auto` takes and why; computes nothing.

        **Arguments:**

        - `damping`: as for `jaxgeo.lift`; whether there is any decides about the dtype.
        - `memory`: bytes that matrices may take on each device; by default a quarter of what it has.

        ```python
        >>> import jax.numpy as jnp, jaxgeo as jg
        >>> problem = jg.Problem(lambda a, x: a @ x, jnp.eye(2), jg.L2(jnp.zeros(2)))
        >>> plan = problem.plan(jnp.zeros(2))
        >>> plan.chosen.label, plan.routes[0].matrices
        ('GramCholesky, float64, D if that fails', 128)

        ```
        """
        from jaxgeo.linalg.routes import plan_lift

        return plan_lift(self, params, damping=damping, memory=memory)

    def check(self, params: Params) -> None:
        """Raise `ValueError` if `params` cannot be trained here, from shapes alone, compiling nothing."""
        trainable, _ = self.partition(params)
        check_finite("params", trainable)
        try:
            outputs = eqx.filter_eval_shape(self.outputs, eqx.combine(trainable, params))
        except (TypeError, KeyError, IndexError, AttributeError) as error:
            sample = jax.tree.map(lambda leaf: leaf.shape, self.blocks[0].sample())
            raise ValueError(
                f"`apply` could not be evaluated on `params` and a sample of `inputs` of shape {sample}: "
                f"{type(error).__name__}: {error}"
            ) from error
        except NameError as error:
            # JAX's error for a collective, such as a mean over the batch, outside the axis it names.
            if "axis name" not in str(error):
                raise
            raise ValueError(
                f"the network couples its samples, as batch normalisation does ({error}), but is evaluated one sample "
                "at a time. Pass `per_sample=False` and a function of all samples at once, or freeze its statistics."
            ) from error
        dtype = jnp.result_type(*jax.tree.leaves(trainable))
        if jnp.promote_types(dtype, outputs.dtype) != dtype:
            raise ValueError(
                f"`params` are {dtype}, but `apply` makes outputs of {outputs.dtype} of them, as `inputs` of a wider "
                f"dtype do. Cast the inputs with `.astype({dtype})`, or the parameters to {outputs.dtype}."
            )


def partition(params: Params, is_trainable: PyTree) -> tuple[PyTree, PyTree]:
    """Split `params` as `Problem.partition` does, by a function leaf → bool or a pytree prefix of bools."""
    try:
        trainable, frozen = eqx.partition(params, is_trainable)
    except ValueError as error:
        raise ValueError(
            f"`trainable` must be a function leaf → bool, or a pytree of bools shaped like `params` or its upper "
            f"part: {error}"
        ) from error
    if not jax.tree.leaves(trainable):
        kinds = sorted({str(leaf.dtype) for leaf in jax.tree.leaves(params) if eqx.is_array(leaf)})
        raise ValueError(
            "`params` has no trainable leaf: a flow moves real floating-point arrays; got "
            + (f"only dtypes {', '.join(kinds)}" if kinds else "no arrays")
            + " (after freezing, if any). Convert integers with `.astype(float)`; split complex parameters "
            "into real and imaginary parts."
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path(trainable):
        if not is_trainable_leaf(leaf):
            raise ValueError(
                f"`params{jax.tree_util.keystr(path)}` is marked trainable but is not a real floating-point "
                f"array: got {leaf.dtype if eqx.is_array(leaf) else type(leaf).__name__}. Freeze it through "
                "`trainable`."
            )
    for path, leaf in jax.tree_util.tree_leaves_with_path(frozen):
        if is_trainable is is_trainable_leaf and eqx.is_array(leaf) and jnp.iscomplexobj(leaf):
            raise ValueError(
                f"`params{jax.tree_util.keystr(path)}` is complex ({leaf.dtype}); split it into real and "
                "imaginary parts, or freeze it on purpose through `trainable`."
            )
    return trainable, frozen


def supervised(
    model: PyTree, inputs: PyTree, targets: ArrayLike | AbstractCost, *, trainable: PyTree = is_trainable_leaf
) -> tuple[Problem, PyTree]:
    """An Equinox model, its samples and targets as a problem with the L2 cost.

    Paper: (1.3)–(1.7)

    **Arguments:**

    - `model`: a callable pytree, `model(x_j)` for one sample.
    - `inputs`: samples with leading axis N; cast to the parameters' dtype where floating point.
    - `targets`: y of shape (N, …), or a cost such as `L2.from_labels(labels)`.
    - `trainable`: which leaves to train, as for `jaxgeo.Problem`; the others become part of the network.

    **Returns:** `(problem, params)`; `eqx.combine(params, model)` is the model again.

    **Raises:** `ValueError` on empty or non-finite data, on as many inputs as targets not being given, on
    outputs whose shape differs from the targets', and where nothing is trainable.

    ```python
    >>> import equinox as eqx, jax, jax.numpy as jnp, jaxgeo as jg
    >>> model = eqx.nn.MLP(2, 1, 8, 1, key=jax.random.key(0))
    >>> problem, params = jg.supervised(model, jnp.ones((3, 2)), jnp.zeros((3, 1)))
    >>> problem.num_rows(params), problem.num_params(params)
    (3, 33)

    ```
    """
    params, static = partition(model, trainable)
    dtype = jnp.result_type(*jax.tree.leaves(params))
    leading_size("inputs", inputs)
    inputs = jax.tree.map(
        lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf,
        jax.tree.map(lambda leaf: as_array("inputs", leaf), inputs),
    )
    cost = targets if isinstance(targets, AbstractCost) else L2(targets)
    problem = Problem(ModelApply(static), inputs, cost)
    problem.check(params)
    return problem, params


class ModelApply(eqx.Module):
    """`apply(params, x)` of an Equinox model whose other leaves are kept here."""

    static: PyTree

    def __call__(self, params: PyTree, sample: PyTree) -> Array:
        return eqx.combine(params, self.static)(sample)


def residual_problem(
    blocks: Sequence[tuple[Callable[[PyTree, PyTree], Array], PyTree, float]], *, trainable: PyTree = is_trainable_leaf
) -> Problem:
    """Least squares over several kinds of points, such as the interior and the boundary of a PDE's domain.

    The cost is Σ_b weight_b · mean_j |fn_b(params, x_j)|² / 2. Outputs are the scaled residuals of all blocks
    in order, of shape (rows, 1), and the targets 0: the law of the flows holds with N the number of points.

    **Arguments:**

    - `blocks`: `(fn, points, weight)` for each block; `fn(params, x_j)` gives the residual(s) at one point.
    - `trainable`: as for `jaxgeo.Problem`.

    **Raises:** `ValueError` if there is no block, points are empty or not finite, or a weight is not positive.
    """
    if not isinstance(blocks, Sequence) or not blocks:
        raise ValueError(f"`blocks` is empty or no list; pass at least one (fn, points, weight); got {blocks!r}.")
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
