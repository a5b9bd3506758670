"""Blocks of per-sample functions, which map θ to the outputs x[θ] and their cost C(x[θ]), with counts and checks.

This is all that the linear algebra needs to know about a problem; `jaxgeo.problem` has what users build and call.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, PyTree

from jaxgeo._checks import as_samples, check_finite, leading_size
from jaxgeo._compiled import compiled
from jaxgeo._trainable import APART, partition, tell_of_frozen
from jaxgeo._training_mode import cannot_evaluate, check_networks
from jaxgeo.costs import AbstractCost

Params = PyTree[Any, "params"]


class Block(eqx.Module):
    """One per-sample function over its own points: rows `scale * apply(params, x_j)`, j = 1…N.

    - `sharding`: how the samples lie on a mesh, None for one device; see `jaxgeo.shard_samples`.
    - `padding`: how many `inputs` at the end only fill up the last shard; they have no rows.
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
        inputs = as_samples("inputs", inputs)
        leading_size("inputs", inputs)
        check_finite("inputs", inputs)
        if not callable(apply):
            raise ValueError(f"`apply` must be a function of params and one sample; got {apply!r}. {APART}")
        self.apply = apply
        self.inputs = inputs
        self.scale = scale
        self.sharding = sharding
        self.padding = padding

    @property
    def num_samples(self) -> int:
        return leading_size("inputs", self.inputs) - self.padding

    @property
    def num_shards(self) -> int:
        """The number of devices that the samples are spread over."""
        return 1 if self.sharding is None else self.sharding.mesh.shape[self.sharding.spec[0]]

    def pad(self, tree: PyTree) -> PyTree:
        """Pad arrays of N samples as `inputs` are padded, by repeating the last sample."""
        return jax.tree.map(lambda leaf: repeat_last(leaf, self.padding), tree)

    def sample(self) -> PyTree[jax.ShapeDtypeStruct]:
        """Shapes and dtypes of one sample, without the sample axis."""
        return jax.eval_shape(lambda inputs: jax.tree.map(lambda leaf: leaf[0], inputs), self.inputs)

    def outputs(self, params: Params, sample: PyTree) -> Float[Array, "..."]:
        """The scaled outputs of one sample, in the shape that `apply` returns."""
        outputs = self.apply(params, sample)
        if not isinstance(outputs, jax.Array) or outputs.size == 0:
            raise ValueError(f"`apply` must return the outputs of a sample as an array; {_instead(outputs)}")
        if not jnp.issubdtype(outputs.dtype, jnp.floating):
            raise ValueError(f"`apply` must return real floating-point outputs; got dtype {outputs.dtype}.")
        return outputs * self.scale

    def rows(self, params: Params, sample: PyTree) -> Float[Array, " Q"]:
        """The outputs of one sample, flattened and scaled."""
        return jnp.ravel(self.outputs(params, sample))


def repeat_last(array: Array, times: int) -> Array:
    """The array with its last entry repeated at its end."""
    return array if times == 0 else jnp.concatenate([array, jnp.repeat(array[-1:], times, axis=0)])


class AbstractProblem(eqx.Module):
    """x[θ] = (apply(θ, x_1), …, apply(θ, x_N)) and C(x[θ]), for the parameters that are trained.

    - `blocks`: the per-sample functions with their samples.
    - `loss`: C, a function of the outputs.
    - `trainable`: which leaves of params are θ.
    - `per_sample`: False if the samples are coupled; all of them are then the one sample of the one block.
    """

    blocks: eqx.AbstractVar[tuple[Block, ...]]
    loss: eqx.AbstractVar[AbstractCost]
    trainable: eqx.AbstractVar[PyTree]
    per_sample: eqx.AbstractVar[bool]

    @property
    def inputs(self) -> PyTree:
        """The samples of the only block, with leading axis N.

        **Raises:** `ValueError` if there are several blocks.
        """
        if len(self.blocks) != 1:
            raise ValueError(f"this problem has {len(self.blocks)} blocks of samples; use `problem.blocks[i].inputs`.")
        inputs = self.blocks[0].inputs
        return inputs if self.per_sample else jax.tree.map(lambda leaf: leaf[0], inputs)

    @property
    def num_samples(self) -> int:
        """N, which sets the unit of flow time: the cost decays as e^{-2s/N}."""
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

    @compiled
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

    @compiled
    def cost(self, params: Params) -> Float[Array, ""]:
        """C(x[θ])."""
        return self.loss(self.outputs(params))  # pyright: ignore[reportCallIssue]

    def check(self, params: Params) -> None:
        """Raise `ValueError` if this problem cannot train `params`; looks at shapes alone and compiles nothing.

        Warns if running statistics are frozen by default.
        """
        trainable, _ = self.partition(params)
        check_finite("params", trainable, "start from finite parameters")
        tell_of_frozen(params, self.trainable)
        try:
            self.check_samples(params)
            outputs = eqx.filter_eval_shape(self.outputs, eqx.combine(trainable, params))
        except ValueError:
            raise
        except Exception as error:  # Flax has errors of its own, which are none of Python's.
            raise cannot_evaluate(error, self.blocks[0].sample()) from error
        dtype = jnp.result_type(*jax.tree.leaves(trainable))
        if jnp.promote_types(dtype, outputs.dtype) != dtype:
            raise ValueError(
                f"`params` are {dtype}, but `apply` returns {outputs.dtype} outputs, perhaps because `inputs` have a "
                f"wider dtype. Cast the inputs with `.astype({dtype})`, or the parameters to {outputs.dtype}."
            )

    def check_samples(self, params: Params) -> None:
        """Raise `ValueError` if the network is in training mode but is evaluated one sample at a time.

        This is read off its jaxpr, also under `jax.jit`; the network is traced once for each shape.
        """
        if not self.per_sample or self.num_samples == 1:
            return
        networks = tuple((block.apply, block.sample()) for block in self.blocks)
        eqx.filter_eval_shape(check_networks, networks, params)


AnyProblem = TypeVar("AnyProblem", bound=AbstractProblem)


def _instead(outputs: Any) -> str:
    """What `apply` returned in place of an array, and what to write."""
    leaves = jax.tree.leaves(outputs)
    if isinstance(outputs, jax.Array) or not leaves or not all(isinstance(leaf, jax.Array) for leaf in leaves):
        return f"got {outputs!r}."
    return (
        f"got a {type(outputs).__name__} of {len(leaves)}. Choose one of them, or join them as by "
        "`jax.flatten_util.ravel_pytree(outputs)[0]`, and the targets in the same order."
    )
