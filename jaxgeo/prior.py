"""A Gaussian prior on the parameters of a problem: rows √p θ after those of the data, as its last block."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo._trainable import partition
from jaxgeo.costs import AbstractCost
from jaxgeo.costs.regularised import Regularised
from jaxgeo.outputs import AbstractProblem, AnyProblem, Block, Params


class PriorRows(eqx.Module):
    """√p θ, for the single sample √p of the block; `groups` gives the index into p for each leaf."""

    trainable: PyTree
    groups: tuple[int, ...] = eqx.field(static=True)

    def __call__(self, params: Params, roots: Float[Array, " groups"]) -> Float[Array, " K"]:
        leaves = jax.tree.leaves(partition(params, self.trainable)[0])
        wide = jnp.result_type(*leaves)
        rows = [
            roots[group].astype(wide) * jnp.ravel(leaf).astype(wide)
            for group, leaf in zip(self.groups, leaves, strict=True)
        ]
        return jnp.concatenate(rows)


def with_prior(
    problem: AnyProblem, params: Params, precisions: Float[Array, " groups"], groups: Sequence[int]
) -> AnyProblem:
    """Add Σ p_k θ_k²/2 to the sum over samples in the cost of a problem, before it is divided by the weight.

    **Arguments:**

    - `precisions`: p of each group, relative to the precision of an observation of weight 1.
    - `groups`: the group of each trainable leaf.
    """
    if isinstance(problem.loss, Regularised):
        raise ValueError("the problem already has a prior; pass only one.")
    trainable, _ = problem.partition(params)
    leaves = jax.tree.leaves(trainable)
    block = Block(PriorRows(problem.trainable, tuple(groups)), jnp.sqrt(precisions)[None])
    loss = Regularised(problem.loss, sum(leaf.size for leaf in leaves), tuple(groups))
    return _with(problem, (*problem.blocks, block), loss)


def has_prior(problem: AbstractProblem) -> bool:
    """Whether the problem has a prior."""
    return isinstance(problem.loss, Regularised)


def without_prior(problem: AnyProblem) -> AnyProblem:
    """The problem of the data alone."""
    if not isinstance(problem.loss, Regularised):
        return problem
    return _with(problem, problem.blocks[:-1], problem.loss.cost)


def prior_of(problem: AbstractProblem) -> tuple[Float[Array, " groups"], tuple[int, ...]]:
    """The precisions of the groups, and the group of each trainable leaf."""
    assert isinstance(problem.loss, Regularised)
    return problem.blocks[-1].inputs[0] ** 2, problem.loss.groups


def _with(problem: AnyProblem, blocks: tuple[Block, ...], loss: AbstractCost) -> AnyProblem:
    return eqx.tree_at(lambda problem: (problem.blocks, problem.loss), problem, (blocks, loss))


def spread(prefix: PyTree, params: Params, trainable: PyTree, name: str) -> list[Any]:
    """The value of a pytree prefix of `params` for each trainable leaf.

    **Raises:** `ValueError` unless it is a prefix.
    """
    try:
        full = jax.tree.map(lambda value, part: jax.tree.map(lambda _: value, part), prefix, params)
    except (ValueError, TypeError) as error:
        raise ValueError(f"`{name}` must be a pytree prefix of `params`: {error}") from error
    found = []
    values = jax.tree.leaves(full, is_leaf=lambda leaf: leaf is None)
    masks = jax.tree.leaves(jax.tree.map(lambda _: True, trainable), is_leaf=lambda leaf: leaf is None)
    for value, mask in zip(values, masks, strict=True):
        if mask:
            found.append(value)
    return found


def number(labels: Sequence[Hashable]) -> list[int]:
    """Number labels 0, 1, … in the order of their first appearance."""
    order = {label: index for index, label in enumerate(dict.fromkeys(labels))}
    return [order[label] for label in labels]


def masks_of(params: Params, trainable: PyTree, groups: Sequence[int]) -> tuple[PyTree, ...]:
    """For each group, a pytree of bools like `params` that marks its leaves."""
    treedef = jax.tree.structure(params)
    present = iter(groups)
    held = jax.tree.map(lambda _: -1, params)
    marks = jax.tree.map(lambda _: next(present), trainable)
    values = jax.tree.leaves(eqx.combine(marks, held))
    return tuple(jax.tree.unflatten(treedef, [value == group for value in values]) for group in range(max(groups) + 1))


def with_trainable(problem: AnyProblem, mask: PyTree) -> AnyProblem:
    """The same problem with other leaves trainable."""
    return eqx.tree_at(lambda problem: problem.trainable, problem, mask)


class Scaled(eqx.Module):
    """A network with parameters in other units: each trainable leaf is multiplied by a number before use."""

    apply: Callable[[PyTree, PyTree], Array]
    trainable: PyTree
    factors: tuple[Float[Array, ""], ...]

    def __call__(self, params: Params, sample: PyTree) -> Array:
        moved, rest = partition(params, self.trainable)
        leaves, treedef = jax.tree.flatten(moved)
        own = [factor.astype(leaf.dtype) * leaf for factor, leaf in zip(self.factors, leaves, strict=True)]
        return self.apply(eqx.combine(jax.tree.unflatten(treedef, own), rest), sample)


def scaled_problem(
    problem: AnyProblem, params: Params, factors: Sequence[Float[Array, ""]]
) -> tuple[AnyProblem, Params]:
    """The same outputs as a function of θ/factor, and these parameters."""
    moved, rest = problem.partition(params)
    leaves, treedef = jax.tree.flatten(moved)
    own = [leaf / factor.astype(leaf.dtype) for factor, leaf in zip(factors, leaves, strict=True)]
    blocks = tuple(
        eqx.tree_at(lambda block: block.apply, block, Scaled(block.apply, problem.trainable, tuple(factors)))
        for block in problem.blocks
    )
    return _with(problem, blocks, problem.loss), eqx.combine(jax.tree.unflatten(treedef, own), rest)
