"""How D is structured and how each leaf's part of G is computed, decided from shapes alone."""

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxgeo._trainable import path_name
from jaxgeo.linalg.gram.groups import Group, find_groups
from jaxgeo.linalg.gram.kronecker import Stack, stacks
from jaxgeo.linalg.gram.tracing import SampleTrace
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.one_way import in_reverse, said_of
from jaxgeo.outputs import Block

# Machine balance: flops of a matrix product in the time of moving one byte.
FLOPS_PER_BYTE = 4.0
# Rows of at least so many parameters stay apart from others, since putting them together would hold them twice.
LEAST_APART = 2**14
# Rows of a group of at least so many bytes are made for each block of G, from factors, if that adds at most an eighth
# to the work. A matrix of many samples has up to `MOST_BLOCKS` blocks on its diagonal.
LEAST_LATE_BYTES = 2**28
MOST_BLOCKS = 8


class Route(enum.Enum):
    """How a group's part of G is computed.

    - `FACTORED`: from products of Kronecker factors.
    - `MATERIALISED`: from rows of D, which are held.
    - `LATE`: from rows of D that are made of their factors for each block of G, and not held.
    """

    FACTORED = enum.auto()
    MATERIALISED = enum.auto()
    LATE = enum.auto()


class BlockFunction(eqx.Module):
    """(leaves, (arrays of the block and frozen leaves, sample)) → rows of the sample; holds no array."""

    static: PyTree = eqx.field(static=True)
    treedef: jax.tree_util.PyTreeDef = eqx.field(static=True)

    def __call__(self, leaves: Sequence[Array], sample: PyTree) -> Array:
        constants, point = sample
        block, frozen = eqx.combine(constants, self.static)
        return block.rows(eqx.combine(jax.tree.unflatten(self.treedef, leaves), frozen), point)


def _without_inputs(block: Block) -> Block:
    return eqx.tree_at(lambda block: block.inputs, block, None, is_leaf=lambda leaf: leaf is None)


@dataclass(frozen=True, eq=False)
class Layout:
    """The structure of D, known from shapes: traces of the blocks, groups, and the route of each.

    - `plain`: leaves in no group, whose rows come from a VJP.
    - `names`: the names of all leaves.
    - `num_samples`: samples of each block that one device holds, including padding; `num_shards`: how many devices.
    - `num_rows`: QN.
    - `activations`: bytes that a linearisation of the network keeps, on each device; 0 if D is held instead.
    - `held`: bytes of D if it is held because a network has derivatives in one mode only, as `derivatives` says.
    - `profiles`: for each group and block, (positions, whether δ is on the first leg, whether a lookup) of its stacks.
    """

    traces: tuple[SampleTrace, ...]
    num_samples: tuple[int, ...]
    groups: tuple[Group, ...]
    profiles: tuple[tuple[tuple[tuple[int, bool, bool], ...], ...], ...]
    routes: tuple[Route, ...]
    plain: tuple[int, ...]
    names: tuple[str, ...]
    num_rows: int
    num_shards: int
    activations: int
    held: int | None
    derivatives: str

    @property
    def from_held(self) -> bool:
        """Whether DDᵀ is computed from a held D, because for no leaf are products of factors cheaper."""
        return self.held is not None and not self.groups

    def factors_pull(self, dtype: jnp.dtype) -> bool:
        """Whether products with Dᵀ from held factors, in `dtype`, are worth more than VJPs."""
        height, own = [trace.num_rows for trace in self.traces], self.traces[0].dtype
        # In a lower precision they would be worse than VJPs.
        if self.num_shards > 1 or self.held is not None or dtype.itemsize < own.itemsize:
            return False
        each = zip(self.groups, self.profiles, self.routes, strict=True)
        costs = [pull_costs(*group, self.num_samples, height, dtype.itemsize) for group in each]
        plain = sum(math.prod(self.traces[0].leaves[index].shape) for index in self.plain)
        by_factors = sum(cost for cost, _ in costs) + FLOPS_PER_BYTE * dtype.itemsize * self.num_rows * plain
        by_vjp = sum(cost for _, cost in costs) + 4 * sum(self.num_samples) * plain
        # In a higher precision they also save a refinement, which takes a JVP and a VJP.
        return by_factors < by_vjp * (1 if dtype == own else 3)

    def constants(self, jacobian: Jacobian, block: int) -> PyTree:
        parts = (_without_inputs(in_reverse(jacobian.problem.blocks[block])), jacobian.frozen)
        return eqx.filter(parts, eqx.is_array)


def make_layout(jacobian: Jacobian, structured: bool = True) -> Layout:
    """Trace every block of the problem and choose a route for each leaf; VJPs for all unless `structured`."""
    leaves, treedef = jax.tree.flatten(jacobian.trainable)
    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    traces = []
    blocks = jacobian.problem.blocks
    for block in in_reverse(blocks):
        constants, static = eqx.partition((_without_inputs(block), jacobian.frozen), eqx.is_array)
        function = BlockFunction(static, treedef)
        constant_shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), constants)
        traces.append(SampleTrace(function, shapes, (constant_shapes, block.sample()), structured))
    groups = find_groups(traces)
    num_samples = tuple(block.num_samples for block in blocks)
    profiles = tuple(tuple(_profile(group, i, trace) for i, trace in enumerate(traces)) for group in groups)
    height = [trace.num_rows for trace in traces]
    itemsize, alone = jacobian.outputs.dtype.itemsize, blocks[0].num_shards == 1

    def route(group: Group, profile: Sequence) -> Route:
        sizes = group, profile, num_samples, height
        if kronecker_cost(*sizes) < materialised_cost(*sizes):
            return Route.FACTORED
        return Route.LATE if alone and _is_late(*sizes, itemsize) else Route.MATERIALISED

    in_groups = {leaf for group in groups for leaf in (group.leaf, group.bias)}
    names = tuple(path_name(path) or "params" for path, _ in jax.tree_util.tree_leaves_with_path(jacobian.trainable))
    plain = tuple(i for i in range(len(leaves)) if i not in in_groups)
    num_rows = sum(n * q for n, q in zip(num_samples, height, strict=True))
    shares = tuple((block.num_samples + block.padding) // block.num_shards for block in blocks)
    held = jacobian.held
    return Layout(
        tuple(traces),
        shares,
        tuple(groups),
        profiles,
        tuple(map(route, groups, profiles)),
        plain,
        names,
        num_rows,
        blocks[0].num_shards,
        0 if held is not None else jacobian.activations() // blocks[0].num_shards,
        None if held is None else held.size * itemsize,
        said_of(blocks, num_rows, jacobian.in_size(), itemsize),
    )


def _profile(group: Group, block: int, trace: SampleTrace) -> tuple[tuple[int, bool, bool], ...]:
    """(positions, whether δ is the first factor, whether the other is a lookup) of each stack, from shapes."""
    deltas = [jax.ShapeDtypeStruct((1, 2, *site.shape), site.dtype) for site in trace.sites]
    operands = [jax.ShapeDtypeStruct((1, *operand.shape), operand.dtype) for operand in trace.operands]
    found: list[Stack] = jax.eval_shape(
        lambda deltas, operands: stacks(group, block, deltas, operands), deltas, operands
    )
    return tuple(
        (
            stack.first.array.shape[2],
            stack.first.array.shape[1] == 2,
            stack.first.lookup is not None or stack.second.lookup is not None,
        )
        for stack in found
    )


def kronecker_cost(group: Group, profile: Sequence, num_samples: Sequence[int], height: Sequence[int]) -> float:
    """Flops for a group's part of G by products of factors, with bytes moved counted as flops; half for symmetry."""
    members = [(n, q, *stack) for n, q, block in zip(num_samples, height, profile, strict=True) for stack in block]
    total = 0.0
    for n, q, t, delta_first, lookup in members:
        for m, p, s, other_first, other_lookup in members:
            positions = n * t * m * s * group.batch
            first = positions * (q if delta_first else 1) * (p if other_first else 1)
            second = positions * (1 if delta_first else q) * (1 if other_first else p)
            flops = 2 * first * group.first + 2 * second * group.second
            if lookup and other_lookup:
                flops = 2 * first * group.first if delta_first else 2 * second * group.second
            moved = 8 * (first + second) if t * s * group.batch > 1 else 4 * (first + second)
            total += (flops + FLOPS_PER_BYTE * moved) / 2
    return total


def materialised_cost(group: Group, profile: Sequence, num_samples: Sequence[int], height: Sequence[int]) -> float:
    """Flops to build a group's rows of D and multiply them, with bytes moved counted as flops."""
    size = group.num_numbers
    num_rows = sum(n * q for n, q in zip(num_samples, height, strict=True))
    build = sum(
        2 * n * q * t * size for n, q, block in zip(num_samples, height, profile, strict=True) for t, _, _ in block
    )
    return num_rows**2 * size + build + FLOPS_PER_BYTE * 8 * num_rows * size


def pull_costs(
    group: Group,
    profile: Sequence,
    route: Route,
    num_samples: Sequence[int],
    height: Sequence[int],
    itemsize: int,
) -> tuple[float, float]:
    """Flops for a group's part of a product with Dᵀ, by its factors and by a VJP, with bytes moved counted as flops.

    Both multiply δ with operands; a VJP first multiplies the δ of the next layer with the kernel.
    """
    by_factors = by_vjp = 0.0
    for n, q, block in zip(num_samples, height, profile, strict=True):
        for t, delta_first, _ in block:
            delta, operand = (group.first, group.second) if delta_first else (group.second, group.first)
            product = 2 * n * t * group.num_numbers
            by_vjp += 2 * product
            by_factors += product + FLOPS_PER_BYTE * itemsize * n * t * group.batch * (q * delta + operand)
    if route is Route.MATERIALISED:
        rows = sum(n * q for n, q in zip(num_samples, height, strict=True))
        by_factors = FLOPS_PER_BYTE * itemsize * rows * group.num_numbers
    return by_factors, by_vjp


def _is_late(group: Group, profile: Sequence, num_samples: Sequence[int], height: Sequence[int], itemsize: int) -> bool:
    num_rows = [n * q for n, q in zip(num_samples, height, strict=True)]
    # For a block of G with s rows and columns, rows of D take 4·t·s flops for each parameter, and their product 2·s².
    cheap = all(
        16 * MOST_BLOCKS * group.batch * sum(t for t, _, _ in block) <= count
        for count, block in zip(num_rows, profile, strict=True)
    )
    return cheap and sum(num_rows) * group.num_numbers * itemsize >= LEAST_LATE_BYTES
