"""The factors of D, leaf by leaf: uses of a leaf brought to one form, and products of their rows.

A leaf, reshaped to (batch, first, second), has the rows Σ_t F[t, b, ·] ⊗ S[t, b, ·] for one sample and output. One of
F and S comes from the δ of its uses and so depends on the output, the other from the operands. The products of such
rows are Σ_{t,t',b} (F·F')(S·S'): neither D nor a row of it is formed.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxgeo.linalg.tracing import SampleTrace
from jaxgeo.linalg.uses import Label, Use


class Axes(NamedTuple):
    """Which axes of a leaf are summed with which factor: with both (batch), δ, or the operand."""

    batch: tuple[int, ...]
    delta: tuple[int, ...]
    operand: tuple[int, ...]


class Group(NamedTuple):
    """A leaf, or a part of one, all of whose uses split its axes alike; and the bias added to its products, if any.

    The bias is one more column of `second`, which the factor from the operands holds 1 in where it is added.
    """

    leaf: int
    shape: tuple[int, ...]
    part: tuple[tuple[int, int], ...]
    axes: Axes
    uses: tuple[tuple[Use, ...], ...]  # for each block of the problem
    bias: int | None = None
    bias_sites: tuple[frozenset[int], ...] = ()

    def size(self, axes: Sequence[int]) -> int:
        return math.prod(self.part[axis][1] for axis in axes)

    @property
    def num_numbers(self) -> int:
        return self.batch * self.first * self.second

    @property
    def batch(self) -> int:
        return self.size(self.axes.batch)

    @property
    def first(self) -> int:
        return self.size(self.axes.delta)

    @property
    def second(self) -> int:
        return self.size(self.axes.operand) + (self.bias is not None)


class Side(eqx.Module):
    """One factor of a stack of uses, (samples, outputs or 1, positions, batch, size).

    As a lookup it holds positions in place of one-hot vectors, (samples, 1, positions, 1).
    """

    array: Array
    lookup: int | None = eqx.field(static=True, default=None)  # the length of the one-hot vectors

    def dense(self, dtype: jnp.dtype) -> Array:
        if self.lookup is None:
            return self.array
        return jax.nn.one_hot(self.array, self.lookup, dtype=dtype)


class Stack(NamedTuple):
    """Uses of a group with δ on the same side, their positions one after another."""

    first: Side
    second: Side


def split_axes(use: Use) -> Axes:
    long = [axis for axis, (_, size) in enumerate(use.part) if size != 1]
    operand = set(use.operand_labels) | ({0} if use.lookup else set())
    return Axes(
        tuple(axis for axis in long if axis in use.delta and axis in operand),
        tuple(axis for axis in long if axis in use.delta and axis not in operand),
        tuple(axis for axis in long if axis not in use.delta),
    )


def _disjoint(first: Use, second: Use) -> bool:
    return any(a + m <= b or b + n <= a for (a, m), (b, n) in zip(first.part, second.part, strict=True))


def _groups_of_leaf(uses: Sequence[Sequence[Use]]) -> list[Group] | None:
    """The groups of one leaf from its uses in each block; None if its uses do not fit together."""
    every = [use for block in uses for use in block]
    parts: dict[tuple, list[Use]] = {}
    for use in every:
        parts.setdefault(use.part, []).append(use)
    representatives = [members[0] for members in parts.values()]
    if len({use.shape for use in every}) > 1 or any(
        not _disjoint(first, second) for i, first in enumerate(representatives) for second in representatives[:i]
    ):
        return None
    groups = []
    for part, members in parts.items():
        axes = split_axes(members[0])
        swapped = Axes(axes.batch, axes.operand, axes.delta)
        if any(split_axes(use) not in (axes, swapped) for use in members):
            return None
        of_part = tuple(tuple(use for use in block if use.part == part) for block in uses)
        groups.append(Group(members[0].leaf, members[0].shape, part, axes, of_part))
    return groups


def _attach(bias: Group, groups: list[Group]) -> bool:
    """Make `bias` a column of the group to all of whose sites it is added, if there is one.

    A column of the group has the rows Σ_t δ[t], over the sites at which it holds 1. Those are the rows of the bias
    if it is added once at each of these sites, if one product of the group is made there, with an operand that can
    take a column, and if the axes of the bias are those of the kernel in an order that is the same everywhere.
    """
    for index, group in enumerate(groups):
        if group.bias is not None or bias.batch * bias.first != group.batch * group.first:
            continue
        beside: set[tuple[Label, ...] | None] = set()
        for mine, its in zip(bias.uses, group.uses, strict=True):
            straight = [use for use in its if split_axes(use) == group.axes]
            for use in mine:
                products = [product for product in straight if product.site == use.site]
                once = sum(other.site == use.site for other in mine) == 1
                fits = once and len(products) == 1 and products[0].operand is not None and not products[0].lookup
                beside.add(_axes_beside(use, products[0]) if fits else None)
        if len(beside) == 1 and None not in beside:
            sites = tuple(frozenset(use.site for use in block) for block in bias.uses)
            groups[index] = group._replace(bias=bias.leaf, bias_sites=sites)
            return True
    return False


def _axes_beside(bias: Use, product: Use) -> tuple[Label, ...] | None:
    """For each axis of a bias, the axis of the kernel that makes the same axis of the site; None if one has none."""
    axes = split_axes(product)
    kept = (*axes.batch, *axes.delta)
    found = tuple(product.delta[bias.delta.index(axis)] for axis in split_axes(bias).delta)
    return found if sorted(found, key=str) == sorted(kept) else None


def find_groups(traces: Sequence[SampleTrace]) -> list[Group]:
    """Mark in every trace the leaves whose uses are understood in all of them, and group their uses.

    A leaf in no group is left unmarked: its rows are a VJP's.
    """
    marked = frozenset.intersection(*(trace.marked - trace.opaque for trace in traces))
    while True:
        for trace in traces:
            trace.mark(marked)
        kernels: list[Group] = []
        biases: list[Group] = []
        dropped: set[int] = set()
        for leaf in sorted(marked):
            uses = [[use for use in trace.uses if use.leaf == leaf] for trace in traces]
            every = [use for block in uses for use in block]
            groups = _groups_of_leaf(uses) if every else []
            if groups is None or any(leaf in trace.opaque for trace in traces):
                dropped.add(leaf)
            elif every and all(use.operand is None for use in every):
                biases.extend(groups)
            else:
                kernels.extend(groups)
        for bias in biases:
            whole = all(size == full for (_, size), full in zip(bias.part, bias.shape, strict=True))
            if not (whole and _attach(bias, kernels)):
                dropped.add(bias.leaf)
        if not dropped:
            return kernels
        # What shared a site with a dropped leaf may have changed: look again without it.
        marked -= dropped


def _aligned(array: Array, labels: Sequence[Label], lead: int, order: Sequence[Label], sizes: Sequence[int]) -> Array:
    """`array`, whose axes after the first `lead` carry `labels`, with axes `order`; a missing one is broadcast."""
    array = jnp.transpose(array, (*range(lead), *(lead + labels.index(label) for label in order if label in labels)))
    present = iter(array.shape[lead:])
    own = [next(present) if label in labels else 1 for label in order]
    return jnp.broadcast_to(array.reshape(*array.shape[:lead], *own), (*array.shape[:lead], *sizes))


def _factors(group: Group, use: Use, delta: Array, operand: Array | None, bias: Array | None) -> tuple[Side, Side]:
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

    first = Side(bring(delta, use.delta, 2, axes.delta))
    if use.lookup and operand is not None:
        # A one-hot vector is 0 in the column of a bias.
        length = use.shape[0] + (bias is not None)
        return first, Side(bring(operand, use.operand_labels, 1, ()).squeeze(-1), length)
    if operand is None:
        second = jnp.ones((delta.shape[0], 1, num_positions, batch, 1), delta.dtype)
    else:
        second = bring(operand, use.operand_labels, 1, axes.operand)
    if bias is not None:
        column = jnp.broadcast_to(bias.astype(second.dtype), (*second.shape[:-1], 1))
        second = jnp.concatenate([second, column], axis=-1)
    return first, Side(second)


def _concatenate(sides: Sequence[Side], dtype: jnp.dtype) -> Side:
    if all(side.lookup is not None for side in sides):
        return Side(jnp.concatenate([side.array for side in sides], axis=2), sides[0].lookup)
    return Side(jnp.concatenate([side.dense(dtype) for side in sides], axis=2))


def stacks(group: Group, block: int, deltas: Sequence[Array], operands: Sequence[Array]) -> list[Stack]:
    """The factors of a group in one block of the problem: at most two stacks, by the side that δ is on."""
    sides: dict[bool, list[tuple[Side, Side]]] = {}
    for use in group.uses[block]:
        straight = split_axes(use) == group.axes
        bias = None
        if group.bias is not None:
            bias = jnp.asarray(straight and use.site in group.bias_sites[block])
        operand = None if use.operand is None else operands[use.operand]
        delta, other = _factors(group, use, deltas[use.site], operand, bias if straight else None)
        if group.bias is not None and not straight:
            # Seen from the other side δ is what lacks the bias's column.
            delta = Side(jnp.pad(delta.array, [(0, 0)] * 4 + [(0, 1)]))
        sides.setdefault(straight, []).append((delta, other) if straight else (other, delta))
    found = []
    for members in sides.values():
        dtype = next(side.array.dtype for member in members for side in member if side.lookup is None)
        first, second = zip(*members, strict=True)
        found.append(Stack(_concatenate(first, dtype), _concatenate(second, dtype)))
    return found


def _inner(x: Side, y: Side) -> Array:
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
    """Σ_{t,t',b} (F·F')(S·S'): the part of G from two stacks, (samples, outputs, samples', outputs')."""
    first, second = _inner(left.first, right.first), _inner(left.second, right.second)
    dtype = jnp.result_type(*(side.array for side in (*left, *right) if side.lookup is None))
    return jnp.sum(first.astype(dtype) * second.astype(dtype), axis=(0, 3, 6))


def diagonal(left: Stack, right: Stack) -> Array:
    """The entries of `product` with equal samples and outputs, (samples, outputs), without the others."""

    def entry(*arrays: Array) -> Array:
        sides = [Side(array[None, None], side.lookup) for array, side in zip(arrays, (*left, *right), strict=True)]
        return product(Stack(*sides[:2]), Stack(*sides[2:])).reshape(())

    arrays = [side.array for side in (*left, *right)]
    per_output = jax.vmap(entry, in_axes=[None if array.shape[1] == 1 else 0 for array in arrays])
    squeezed = [array[:, 0] if array.shape[1] == 1 else array for array in arrays]
    if all(array.shape[1] == 1 for array in arrays):
        return jax.vmap(entry)(*squeezed)[:, None]
    return jax.vmap(per_output)(*squeezed)


def rows(stack: Stack) -> Array:
    """The rows of D that a stack gives for its group, (samples, outputs, size of the group)."""
    dtype = jnp.result_type(*(side.array for side in stack if side.lookup is None))
    first, second = stack.first.dense(dtype), stack.second.dense(dtype)
    if first.shape[1] == 1:
        found = jnp.einsum("ntbc,nqtbd->nqbcd", first[:, 0], second)
    else:
        found = jnp.einsum("nqtbc,ntbd->nqbcd", first, second[:, 0])
    return found.reshape(*found.shape[:2], -1)
