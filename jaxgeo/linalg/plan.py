"""The choice, for each leaf, of how its part of G is computed, and the memory plan: from shapes alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxgeo.linalg.factors import Group, Stack, find_groups, stacks
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.memory import free_memory
from jaxgeo.linalg.tracing import SampleTrace
from jaxgeo.outputs import Block

# Flops in the time of moving one byte: what an elementwise product costs beside a matrix product.
FLOPS_PER_BYTE = 4.0
# Blocks of G: enough that leaving out those above the diagonal saves work, and large enough for matrix products.
MOST_BLOCKS = 8
LEAST_BLOCK_ROWS = 256
# Products of factors before they are multiplied and summed over positions, at a time.
PRODUCT_BYTES = 32 * 2**20
# Copies of the factors that are held while they are computed, and with several devices while they travel.
WORKING_COPIES = 2
TRAVELLING_COPIES = 3


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
    """What is known of D before any number: traces of the blocks, groups, and which of them are factored.

    - `plain`: leaves in no group, whose rows are a VJP's.
    - `names`: of all leaves.
    - `num_samples`: of each block, those that one device holds, padding among them; `num_shards`: how many devices.
    - `num_rows`: QN.
    - `profiles`: for each group and block, (positions, whether δ is on the first side, whether a lookup) of its stacks.
    """

    traces: tuple[SampleTrace, ...]
    num_samples: tuple[int, ...]
    groups: tuple[Group, ...]
    profiles: tuple[tuple[tuple[tuple[int, bool, bool], ...], ...], ...]
    factored: tuple[bool, ...]
    plain: tuple[int, ...]
    names: tuple[str, ...]
    num_rows: int
    num_shards: int

    def constants(self, jacobian: Jacobian, block: int) -> PyTree:
        parts = (_without_inputs(jacobian.problem.blocks[block]), jacobian.frozen)
        return eqx.filter(parts, eqx.is_array)


def make_layout(jacobian: Jacobian, structured: bool = True) -> Layout:
    """Trace every block of the problem and choose a route for each leaf; VJPs for all unless `structured`."""
    leaves, treedef = jax.tree.flatten(jacobian.trainable)
    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    traces = []
    for block in jacobian.problem.blocks:
        constants, static = eqx.partition((_without_inputs(block), jacobian.frozen), eqx.is_array)
        function = BlockFunction(static, treedef)
        constant_shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), constants)
        traces.append(SampleTrace(function, shapes, (constant_shapes, block.sample()), structured))
    groups = find_groups(traces)
    blocks = jacobian.problem.blocks
    num_samples = tuple(block.num_samples for block in blocks)
    profiles = tuple(tuple(_profile(group, i, trace) for i, trace in enumerate(traces)) for group in groups)
    height = [trace.num_rows for trace in traces]
    factored = tuple(
        factored_cost(group, profile, num_samples, height) < materialised_cost(group, profile, num_samples, height)
        for group, profile in zip(groups, profiles, strict=True)
    )
    in_groups = {leaf for group in groups for leaf in (group.leaf, group.bias)}
    names = tuple(jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(jacobian.trainable))
    plain = tuple(i for i in range(len(leaves)) if i not in in_groups)
    num_rows = sum(n * q for n, q in zip(num_samples, height, strict=True))
    shares = tuple((block.num_samples + block.padding) // block.num_shards for block in blocks)
    return Layout(
        tuple(traces), shares, tuple(groups), profiles, factored, plain, names, num_rows, blocks[0].num_shards
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


def factored_cost(group: Group, profile: Sequence, num_samples: Sequence[int], height: Sequence[int]) -> float:
    """Flops, with bytes moved counted as flops, of G's part from products of factors; half for symmetry."""
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
    """Flops, with bytes moved counted as flops, of building the group's rows of D and multiplying them."""
    size = group.num_numbers
    num_rows = sum(n * q for n, q in zip(num_samples, height, strict=True))
    build = sum(
        2 * n * q * t * size for n, q, block in zip(num_samples, height, profile, strict=True) for t, _, _ in block
    )
    return num_rows**2 * size + build + FLOPS_PER_BYTE * 8 * num_rows * size


@dataclass(frozen=True)
class LeafPlan:
    """How one leaf's part of G is computed.

    - `name`: its path in params.
    - `route`: "factored", "materialised" (its rows from its factors) or "vjp" (its rows by a VJP).
    - `uses`: how often the traced function multiplies with it.
    - `flops`, `bytes`: of its part of G, over all devices, and of what is held for it on each.
    """

    name: str
    uses: int
    route: str
    flops: float
    bytes: int


@dataclass(frozen=True)
class GramPlan:
    """How G is assembled, decided before anything is allocated.

    - `num_rows`: QN.
    - `leaves`: one entry a leaf (a bias together with the kernel whose products it is added to).
    - `stored`: whether the factors of all samples are held, or computed again for each block of G.
    - `block_samples`: samples a block, for each block of the problem.
    - `bytes`: what the assembly holds at its peak, on each device; `budget`: what it may.
    """

    num_rows: int
    leaves: tuple[LeafPlan, ...]
    stored: bool
    block_samples: tuple[int, ...]
    bytes: int
    budget: int

    def __str__(self) -> str:
        width = max([4, *(len(leaf.name) for leaf in self.leaves)])
        lines = [f"{'leaf':<{width}}  uses  route         Gflop      MiB"]
        lines += [
            f"{leaf.name:<{width}}  {leaf.uses:4d}  {leaf.route:<12}  {leaf.flops / 1e9:5.3g}  "
            f"{leaf.bytes / 2**20:7.3g}"
            for leaf in self.leaves
        ]
        how = "factors held" if self.stored else "factors computed again for each block"
        lines.append(
            f"G of {self.num_rows}² in blocks of {', '.join(map(str, self.block_samples))} samples, {how}; "
            f"{self.bytes / 2**20:.3g} MiB at the peak, {self.budget / 2**20:.3g} allowed"
        )
        return "\n".join(lines)


def make_plan(layout: Layout, dtype: jnp.dtype, memory: int | None, *, matrix: bool = True) -> GramPlan:
    """Block sizes within the memory budget, for G or, without `matrix`, for its diagonal.

    **Raises:** `MemoryError` if not even G and one sample at a time fit.
    """
    budget = free_memory() // 2 if memory is None else memory
    height = [trace.num_rows for trace in layout.traces]
    entries, per_sample, products = [], [0.0] * len(height), [0.0] * len(height)
    itemsize = layout.traces[0].dtype.itemsize
    for group, profile, factored in zip(layout.groups, layout.profiles, layout.factored, strict=True):
        held = 0.0
        for b, block in enumerate(profile):
            for t, delta_first, lookup in block:
                delta, operand = (group.first, group.second) if delta_first else (group.second, group.first)
                numbers = t * group.batch * (height[b] * delta + (1 if lookup else operand))
                held += layout.num_samples[b] * numbers * itemsize
                per_sample[b] += numbers * itemsize
                if factored:
                    products[b] = max(products[b], group.batch * (height[b] * t) ** 2 * dtype.itemsize)
            if not factored:
                size = group.num_numbers * height[b] * itemsize
                held += layout.num_samples[b] * size
                per_sample[b] += size
        cost = factored_cost if factored else materialised_cost
        name = layout.names[group.leaf] + ("" if group.bias is None else f" + {layout.names[group.bias]}")
        if any(size != full for (_, size), full in zip(group.part, group.shape, strict=True)):
            name += "[" + ", ".join(f"{start}:{start + size}" for start, size in group.part) + "]"
        uses = sum(len(block) for block in group.uses)
        flops = cost(group, profile, [n * layout.num_shards for n in layout.num_samples], height)
        entries.append(LeafPlan(name, uses, "factored" if factored else "materialised", flops, int(held)))
    for index in layout.plain:
        size = math.prod(layout.traces[0].leaves[index].shape)
        for b, q in enumerate(height):
            per_sample[b] += q * size * itemsize
        flops = layout.num_rows**2 * size
        held = sum(n * q for n, q in zip(layout.num_samples, height, strict=True)) * size * itemsize
        entries.append(LeafPlan(layout.names[index], 0, "vjp", flops, held))

    copies = WORKING_COPIES if layout.num_shards == 1 else TRAVELLING_COPIES
    square = square_bytes(layout.num_rows, layout.num_shards, dtype) if matrix else 0
    all_samples = sum(n * b for n, b in zip(layout.num_samples, per_sample, strict=True))
    stored = matrix and square + copies * all_samples <= budget
    sizes = []
    for n, q, sample_bytes, product_bytes in zip(layout.num_samples, height, per_sample, products, strict=True):
        size = n
        if matrix:
            size = math.ceil(n / max(1, min(MOST_BLOCKS, n * q // LEAST_BLOCK_ROWS)))
            if product_bytes:
                size = min(size, int(math.sqrt(PRODUCT_BYTES / product_bytes)))
        if not stored:
            room = (budget - square) / (2 * copies * max(sample_bytes, 1.0) * len(height))
            size = min(size, int(room))
            if size < 1:
                needed = square + 2 * copies * sample_bytes * len(height)
                raise MemoryError(
                    f"G = DDᵀ of {layout.num_rows} rows in {dtype} needs {_mib(square)}, and {_mib(needed)} with the "
                    f"factors of one sample at a time; {_mib(budget)} may be used. Pass a larger `memory`, use fewer "
                    "samples, a smaller dtype, or a solver that needs only products with G."
                )
        sizes.append(max(size, 1))
    held = all_samples if stored else 2 * sum(b * s for b, s in zip(sizes, per_sample, strict=True))
    return GramPlan(layout.num_rows, tuple(entries), stored, tuple(sizes), int(square + copies * held), int(budget))


def square_bytes(num_rows: int, num_shards: int, dtype: jnp.dtype) -> int:
    """What one device holds of G while it is assembled; between devices also what is sent and what arrives."""
    copies = 1 if num_shards == 1 else 3
    return copies * num_rows**2 * dtype.itemsize // num_shards


def _mib(size: float) -> str:
    return f"{size / 2**20:.4g} MiB"
