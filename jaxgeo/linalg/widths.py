"""Use one dtype for networks with several dtypes, or with one too narrow for linear algebra."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxgeo._checks import is_trainable_leaf
from jaxgeo.outputs import AnyProblem, Params


class Narrowed(eqx.Module):
    """A network that takes wide parameters, evaluates each in its original dtype, and returns wide outputs.

    - `dtypes`: the original dtypes of the parameters' leaves, None for those that stay as they are.
    - `wide`: the dtype of the outputs.
    """

    apply: Callable[[PyTree, PyTree], Array]
    dtypes: tuple[jnp.dtype | None, ...] = eqx.field(static=True)
    wide: jnp.dtype = eqx.field(static=True)

    def __call__(self, params: Params, sample: PyTree) -> Array:
        leaves, treedef = jax.tree.flatten(params)
        own = [leaf if dtype is None else leaf.astype(dtype) for leaf, dtype in zip(leaves, self.dtypes, strict=True)]
        outputs = self.apply(jax.tree.unflatten(treedef, own), sample)
        return outputs.astype(self.wide) if eqx.is_inexact_array(outputs) else outputs


def widened(problem: AnyProblem, params: Params) -> tuple[AnyProblem, Params]:
    """The problem and its parameters, with the trained ones in the widest of their dtypes and those of the outputs.

    This is at least float32. The network still evaluates each leaf in its own dtype, so a trial step evaluates exactly
    the parameters that an update produces. If all dtypes agree, only weak types change.
    """
    trainable, frozen = problem.partition(params)
    strong = eqx.combine(cast_like(trainable, trainable), frozen)
    outputs = [eqx.filter_eval_shape(block.outputs, strong, block.sample()).dtype for block in problem.blocks]
    leaves, treedef = jax.tree.flatten(params)
    moved = treedef.flatten_up_to(trainable)
    dtypes = tuple(None if leaf is None else leaf.dtype for leaf in moved)
    wide = widest(*(dtype for dtype in dtypes if dtype is not None), *outputs)
    if all(dtype in (None, wide) for dtype in (*dtypes, *outputs)):
        return problem, strong
    blocks = tuple(
        eqx.tree_at(lambda block: block.apply, block, Narrowed(block.apply, dtypes, wide)) for block in problem.blocks
    )
    whole = [leaf if mine is None else mine.astype(wide) for leaf, mine in zip(leaves, moved, strict=True)]
    return eqx.tree_at(lambda problem: problem.blocks, problem, blocks), jax.tree.unflatten(treedef, whole)


def promoted(problem: AnyProblem, params: Params) -> tuple[AnyProblem, Params]:
    """The problem, its inputs and its parameters in the widest dtype of the trained leaves, at least float32.

    Unlike with `widened`, the network is evaluated in this dtype, so its outputs are as smooth as a step-size
    controller expects.
    """
    trainable, frozen = problem.partition(params)
    wide = widest(*(leaf.dtype for leaf in jax.tree.leaves(trainable)))
    if all(leaf.dtype == wide for leaf in jax.tree.leaves(trainable)):
        return problem, eqx.combine(cast_like(trainable, trainable), frozen)
    params = cast_up(params, wide)
    whole = (None,) * len(jax.tree.leaves(params))
    blocks = tuple(
        eqx.tree_at(
            lambda block: (block.apply, block.inputs),
            block,
            (Narrowed(block.apply, whole, wide), cast_up(block.inputs, wide)),
        )
        for block in problem.blocks
    )
    return eqx.tree_at(lambda problem: problem.blocks, problem, blocks), params


def widest(*dtypes: jnp.dtype) -> jnp.dtype:
    """The widest of these floating-point dtypes, at least float32."""
    return max([jnp.dtype(jnp.float32), *map(jnp.dtype, dtypes)], key=lambda dtype: dtype.itemsize)


def cast_like(like: PyTree, tree: PyTree) -> PyTree:
    """The floating-point arrays of `tree` in the dtypes of those of `like`, without weak types."""

    def cast(old: PyTree, new: PyTree) -> PyTree:
        return new.astype(old.dtype) if eqx.is_inexact_array(old) and eqx.is_inexact_array(new) else new

    return jax.tree.map(cast, like, tree)


def cast_up(tree: PyTree, dtype: jnp.dtype) -> PyTree:
    """The floating-point arrays of `tree`, cast to `dtype` if they are narrower."""
    return jax.tree.map(
        lambda leaf: leaf.astype(dtype) if is_trainable_leaf(leaf) and leaf.dtype.itemsize < dtype.itemsize else leaf,
        tree,
    )
