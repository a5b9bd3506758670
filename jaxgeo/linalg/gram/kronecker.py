"""The Kronecker factors of a group's rows of D, and products of such rows, without forming D or any of its rows.

The rows are Σ_t F[t, b, ·] ⊗ S[t, b, ·], see `groups`, and their products are Σ_{t,t',b} (F·F')(S·S').
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxgeo.linalg.gram.groups import Group, split_axes
from jaxgeo.linalg.gram.uses import Label, Use


class Leg(eqx.Module):
    """One factor of a stack of uses, (samples, outputs or 1, positions, batch, size).

    A lookup holds positions instead of one-hot vectors, (samples, 1, positions, 1).
    """

    array: Array
    lookup: int | None = eqx.field(static=True, default=None)  # the length of the one-hot vectors

    def dense(self, dtype: jnp.dtype) -> Array:
        if self.lookup is None:
            return self.array
        return jax.nn.one_hot(self.array, self.lookup, dtype=dtype)


class Stack(NamedTuple):
    """Uses of a group with δ on the same leg, their positions one after another."""

    first: Leg
    second: Leg


def _aligned(array: Array, labels: Sequence[Label], lead: int, order: Sequence[Label], sizes: Sequence[int]) -> Array:
    """`array`, whose axes after the first `lead` carry `labels`, with axes in `order`; missing ones are broadcast."""
    array = jnp.transpose(array, (*range(lead), *(lead + labels.index(label) for label in order if label in labels)))
    present = iter(array.shape[lead:])
    own = [next(present) if label in labels else 1 for label in order]
    return jnp.broadcast_to(array.reshape(*array.shape[:lead], *own), (*array.shape[:lead], *sizes))


def _factors(group: Group, use: Use, delta: Array, operand: Array | None, bias: Array | None) -> tuple[Leg, Leg]:
    """(factor from δ, factor from the operand) of one use, over all samples."""
    axes = split_axes(use)
    sizes: dict = dict(zip(use.delta, delta.shape[2:], strict=True))
    if operand is not None:
        sizes.update(
            (label, size)
            for label, size in zip(use.operand_labels, operand.shape[1:], strict=True)
            if sizes.get(label, 1) == 1
        )
    positions = sorted((label for label in sizes if label not in axes.batch + axes.delta + axes.operand), key=str)
    num_positions = math.prod(sizes[label] for label in positions)
    batch = math.prod(sizes[label] for label in axes.batch)

    def bring(array: Array, labels: Sequence[Label], lead: int, rest: Sequence[int]) -> Array:
        order = [*positions, *axes.batch, *rest]
        array = _aligned(array, labels, lead, order, [sizes[label] for label in order])
        lead_shape = (array.shape[0], array.shape[1] if lead == 2 else 1)
        return array.reshape(*lead_shape, num_positions, batch, -1)

    first = Leg(bring(delta, use.delta, 2, axes.delta))
    if use.lookup and operand is not None:
        # A one-hot vector is 0 in the column of a bias.
        length = use.shape[0] + (bias is not None)
        return first, Leg(bring(operand, use.operand_labels, 1, ()).squeeze(-1), length)
    if operand is None:
        second = jnp.ones((delta.shape[0], 1, num_positions, batch, 1), delta.dtype)
    else:
        second = bring(operand, use.operand_labels, 1, axes.operand)
    if bias is not None:
        column = jnp.broadcast_to(bias.astype(second.dtype), (*second.shape[:-1], 1))
        second = jnp.concatenate([second, column], axis=-1)
    return first, Leg(second)


def _concatenate(legs: Sequence[Leg], dtype: jnp.dtype) -> Leg:
    if all(leg.lookup is not None for leg in legs):
        return Leg(jnp.concatenate([leg.array for leg in legs], axis=2), legs[0].lookup)
    return Leg(jnp.concatenate([leg.dense(dtype) for leg in legs], axis=2))


def stacks(group: Group, block: int, deltas: Sequence[Array], operands: Sequence[Array]) -> list[Stack]:
    """The factors of a group in one block of the problem: at most two stacks, one for each leg that δ can be on."""
    legs: dict[bool, list[tuple[Leg, Leg]]] = {}
    for use in group.uses[block]:
        straight = split_axes(use) == group.axes
        bias = None
        if group.bias is not None:
            bias = jnp.asarray(straight and use.site in group.bias_sites[block])
        operand = None if use.operand is None else operands[use.operand]
        delta, other = _factors(group, use, deltas[use.site], operand, bias if straight else None)
        if group.bias is not None and not straight:
            # With δ on the other leg, δ is the factor that lacks the column of the bias.
            delta = Leg(jnp.pad(delta.array, [(0, 0)] * 4 + [(0, 1)]))
        legs.setdefault(straight, []).append((delta, other) if straight else (other, delta))
    found = []
    for members in legs.values():
        dtype = next(leg.array.dtype for member in members for leg in member if leg.lookup is None)
        first, second = zip(*members, strict=True)
        found.append(Stack(_concatenate(first, dtype), _concatenate(second, dtype)))
    return found


def _inner(x: Leg, y: Leg) -> Array:
    """Products of two factors: (batch, samples, outputs, positions, samples', outputs', positions')."""
    if x.lookup is not None and y.lookup is not None:
        return (x.array[..., 0][:, :, :, None, None, None] == y.array[..., 0][None, None, None])[None]
    if y.lookup is not None:
        return _inner(y, x).transpose(0, 4, 5, 6, 1, 2, 3)
    if x.lookup is not None:
        picked = jnp.take(y.array, x.array[:, 0, :, 0], axis=4, mode="clip")[:, :, :, 0]
        return picked.transpose(3, 4, 0, 1, 2)[None, :, None]
    return jnp.einsum("nqtbd,mpsbd->bnqtmps", x.array, y.array)


def product(left: Stack, right: Stack) -> Array:
    """Σ_{t,t',b} (F·F')(S·S'), the part of G from two stacks: (samples, outputs, samples', outputs')."""
    first, second = _inner(left.first, right.first), _inner(left.second, right.second)
    dtype = jnp.result_type(*(leg.array for leg in (*left, *right) if leg.lookup is None))
    return jnp.sum(first.astype(dtype) * second.astype(dtype), axis=(0, 3, 6))


def diagonal(left: Stack, right: Stack) -> Array:
    """The entries of `product` with equal samples and outputs, (samples, outputs), computed without the others."""

    def entry(*arrays: Array) -> Array:
        legs = [Leg(array[None, None], leg.lookup) for array, leg in zip(arrays, (*left, *right), strict=True)]
        return product(Stack(*legs[:2]), Stack(*legs[2:])).reshape(())

    arrays = [leg.array for leg in (*left, *right)]
    per_output = jax.vmap(entry, in_axes=[None if array.shape[1] == 1 else 0 for array in arrays])
    squeezed = [array[:, 0] if array.shape[1] == 1 else array for array in arrays]
    if all(array.shape[1] == 1 for array in arrays):
        return jax.vmap(entry)(*squeezed)[:, None]
    return jax.vmap(per_output)(*squeezed)


def rows(stack: Stack) -> Array:
    """The rows of D from a stack, for its group: (samples, outputs, size of the group)."""
    dtype = jnp.result_type(*(leg.array for leg in stack if leg.lookup is None))
    first, second = stack.first.dense(dtype), stack.second.dense(dtype)
    # Not by `einsum`, which may exchange the two, and would then copy all rows to put them in order.
    if first.shape[1] == 1:
        found = jax.lax.dot_general(first[:, 0], second, (([1], [2]), ([0, 2], [0, 3]))).transpose(0, 3, 1, 2, 4)
    else:
        found = jax.lax.dot_general(first, second[:, 0], (([2], [1]), ([0, 3], [0, 2]))).transpose(0, 2, 1, 3, 4)
    return found.reshape(*found.shape[:2], -1)


def kernel(group: Group, leaves: Sequence[Array]) -> Array:
    """The numbers of a group, (batch, first, second), with its bias as the last column; linear in the leaves."""
    axes = group.axes
    order = (*axes.batch, *axes.delta, *axes.operand)
    starts, ends = [start for start, _ in group.part], [start + size for start, size in group.part]
    numbers = jax.lax.slice(leaves[group.leaf].reshape(group.shape), starts, ends)
    numbers = numbers.reshape([group.part[axis][1] for axis in sorted(order)])
    numbers = numbers.transpose([sorted(order).index(axis) for axis in order])
    numbers = numbers.reshape(group.batch, group.first, group.size(axes.operand))
    if group.bias is None:
        return numbers
    column = leaves[group.bias].reshape([group.part[axis][1] for axis in group.bias_axes])
    column = column.transpose([group.bias_axes.index(axis) for axis in (*axes.batch, *axes.delta)])
    return jnp.concatenate([numbers, column.reshape(*numbers.shape[:2], 1)], axis=-1)


def pulled(stack: Stack, velocity: Array) -> Array:
    """A velocity, (samples, outputs), times the rows of D from a stack, for its group: (batch, first, second).

    Computed in the dtype of the velocity, without these rows: δ is summed over outputs first.
    """
    straight = stack.second.array.shape[1] == 1 and stack.first.lookup is None
    delta, other = stack if straight else stack[::-1]
    moved = jnp.sum(delta.array.astype(velocity.dtype) * velocity[:, :, None, None, None], axis=1)
    if other.lookup is not None:
        found = jnp.zeros((other.lookup, moved.shape[-1]), moved.dtype)
        found = found.at[other.array[:, 0, :, 0]].add(moved[:, :, 0], mode="drop").T[None]
    else:
        found = jnp.einsum("ntbf,ntbs->bfs", moved, other.array[:, 0].astype(moved.dtype))
    return found if straight else found.swapaxes(1, 2)
