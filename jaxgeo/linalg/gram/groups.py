"""Group the uses of leaves that can be multiplied without D, by which axes of a leaf go with δ and with the operand.

A leaf, reshaped to (batch, first, second), has the rows Σ_t F[t, b, ·] ⊗ S[t, b, ·] for one sample and output. One of
F and S comes from the δ of the uses, so it depends on the output; the other comes from the operands. A group is a leaf,
or a part of one, whose uses all split its axes in the same way.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from jaxgeo.linalg.gram.tracing import SampleTrace
from jaxgeo.linalg.gram.uses import Use


class Axes(NamedTuple):
    """Which axes of a leaf belong to both factors (batch), to δ, or to the operand."""

    batch: tuple[int, ...]
    delta: tuple[int, ...]
    operand: tuple[int, ...]


class Group(NamedTuple):
    """A leaf, or a part of one, whose uses all split its axes in the same way, and the bias of its products, if any.

    The bias is one more column of `second`, in which the factor from the operands holds 1 where the bias is added. Its
    axes are the axes `bias_axes` of the leaf, in this order.
    """

    leaf: int
    shape: tuple[int, ...]
    part: tuple[tuple[int, int], ...]
    axes: Axes
    uses: tuple[tuple[Use, ...], ...]  # for each block of the problem
    bias: int | None = None
    bias_axes: tuple[int, ...] = ()
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
    """The groups of one leaf, from its uses in each block; None if the uses do not fit together."""
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
    """Make `bias` a column of the group whose products it is always added to, if there is one.

    A column of the group has the rows Σ_t δ[t], over the sites at which it holds 1. These are the rows of the bias if
    it is added once at each of these sites, if the group has one product there, with an operand that can take a column,
    and if the axes of the bias are those of the kernel, in the same order everywhere.
    """
    for index, group in enumerate(groups):
        if group.bias is not None or bias.batch * bias.first != group.batch * group.first:
            continue
        beside: set[tuple[int, ...] | None] = set()
        for mine, its in zip(bias.uses, group.uses, strict=True):
            straight = [use for use in its if split_axes(use) == group.axes]
            for use in mine:
                products = [product for product in straight if product.site == use.site]
                once = sum(other.site == use.site for other in mine) == 1
                fits = once and len(products) == 1 and products[0].operand is not None and not products[0].lookup
                beside.add(_axes_beside(use, products[0]) if fits else None)
        axes = beside.pop() if len(beside) == 1 else None
        if axes is not None:
            sites = tuple(frozenset(use.site for use in block) for block in bias.uses)
            groups[index] = group._replace(bias=bias.leaf, bias_axes=axes, bias_sites=sites)
            return True
    return False


def _axes_beside(bias: Use, product: Use) -> tuple[int, ...] | None:
    """For each axis of a bias, the kernel axis that gives the same axis of the site; None if one has no such axis."""
    axes = split_axes(product)
    kept = (*axes.batch, *axes.delta)
    found = tuple(product.delta[bias.delta.index(axis)] for axis in split_axes(bias).delta)
    of_kernel = tuple(label for label in found if isinstance(label, int))
    return of_kernel if len(of_kernel) == len(found) and sorted(of_kernel) == sorted(kept) else None


def find_groups(traces: Sequence[SampleTrace]) -> list[Group]:
    """Mark in every trace the leaves whose uses are understood in all of them, and group their uses.

    A leaf in no group stays unmarked: its rows come from a VJP.
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
        # Uses that shared a site with a dropped leaf may have changed: search again without it.
        marked -= dropped
