"""The memory plan of G: block sizes within a budget, decided before anything is allocated."""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp

from jaxgeo.linalg.gram.layout import LEAST_APART, MOST_BLOCKS, Layout, Route, kronecker_cost, materialised_cost
from jaxgeo.linalg.memory import free_memory

# Enough blocks of G that skipping those above the diagonal saves work, each large enough for matrix products.
LEAST_BLOCK_ROWS = 256
# Bytes of products of factors at a time, before they are multiplied and summed over positions.
PRODUCT_BYTES = 32 * 2**20
# Factors are held for products with Dᵀ if they take at most so many times what G takes; its factorisation takes five.
MOST_KEPT = 8
# Copies of the factors if they are computed again for each block and, with several devices, while they travel.
WORKING_COPIES = 2
TRAVELLING_COPIES = 3


@dataclass(frozen=True)
class LeafPlan:
    """How one leaf's part of G is computed.

    - `name`: its path in params.
    - `route`: "factored", "materialised" (its rows from its factors), "vjp" (its rows by a VJP) or "held" (with D).
    - `uses`: how often the traced function multiplies with it.
    - `flops`: for its part of G, over all devices; `bytes`: held for it on each device.
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
    - `leaves`: one entry per leaf (a bias together with the kernel whose products it is added to).
    - `stored`: whether the factors of all samples are held, rather than computed again for each block of G.
    - `block_samples`: samples per block of G, for each block of the problem.
    - `bytes`: what the assembly holds at its peak, on each device; `budget`: what it may hold.
    - `kept`: what products with Dᵀ hold of the factors in a lift; 0 if VJPs are cheaper, or the factors take too much.
    - `derivatives`: which mode of derivatives a network lacks, and what this costs; empty if it lacks none.
    """

    num_rows: int
    leaves: tuple[LeafPlan, ...]
    stored: bool
    block_samples: tuple[int, ...]
    bytes: int
    budget: int
    kept: int = 0
    derivatives: str = ""

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
        return "\n".join([*lines, *([self.derivatives] if self.derivatives else [])])


def plan_assembly(layout: Layout, dtype: jnp.dtype, memory: int | None, *, matrix: bool = True) -> GramPlan:
    """Choose block sizes within the memory budget, for G or, without `matrix`, for its diagonal.

    **Raises:** `MemoryError` if not even G and one sample at a time fit.
    """
    budget = free_memory() // 2 if memory is None else memory
    height = [trace.num_rows for trace in layout.traces]
    entries, products = [], [0.0] * len(height)
    # For one sample of each block: factors that are held, factors that rows are made of, rows, those put together, the
    # largest of those apart, and the largest that are made for a block of G.
    factors, sources, rows, joined, apart, late = ([0.0] * len(height) for _ in range(6))
    itemsize = layout.traces[0].dtype.itemsize
    for group, profile, route in zip(layout.groups, layout.profiles, layout.routes, strict=True):
        by_factors, held = route is Route.FACTORED, 0.0
        for b, block in enumerate(profile):
            for t, delta_first, lookup in block:
                delta, operand = (group.first, group.second) if delta_first else (group.second, group.first)
                numbers = t * group.batch * (height[b] * delta + (1 if lookup else operand))
                held += layout.num_samples[b] * numbers * itemsize
                (sources if route is Route.MATERIALISED else factors)[b] += numbers * itemsize
                if by_factors:
                    products[b] = max(products[b], group.batch * (height[b] * t) ** 2 * dtype.itemsize)
            size = group.num_numbers * height[b] * itemsize
            if route is Route.LATE:
                late[b] = max(late[b], size)
            elif not by_factors:
                held += layout.num_samples[b] * size
                rows[b] += size
                if group.num_numbers < LEAST_APART:
                    joined[b] += size
                else:
                    apart[b] = max(apart[b], size)
        cost = kronecker_cost if by_factors else materialised_cost
        name = layout.names[group.leaf] + ("" if group.bias is None else f" + {layout.names[group.bias]}")
        if any(size != full for (_, size), full in zip(group.part, group.shape, strict=True)):
            name += "[" + ", ".join(f"{start}:{start + size}" for start, size in group.part) + "]"
        uses = sum(len(block) for block in group.uses)
        flops = cost(group, profile, [n * layout.num_shards for n in layout.num_samples], height)
        entries.append(LeafPlan(name, uses, "factored" if by_factors else "materialised", flops, int(held)))
    of_plain = "held" if layout.from_held else "vjp"
    for index in layout.plain:
        size = math.prod(layout.traces[0].leaves[index].shape)
        for b, q in enumerate(height):
            rows[b] += q * size * itemsize
            if size < LEAST_APART:
                joined[b] += q * size * itemsize
            else:
                apart[b] = max(apart[b], q * size * itemsize)
        flops = layout.num_rows**2 * size
        held = sum(n * q for n, q in zip(layout.num_samples, height, strict=True)) * size * itemsize
        entries.append(LeafPlan(layout.names[index], 0, of_plain, flops, held))

    copies = WORKING_COPIES if layout.num_shards == 1 else TRAVELLING_COPIES
    square = square_bytes(layout.num_rows, layout.num_shards, dtype) if matrix else 0
    per_sample = [sum(each) for each in zip(factors, sources, rows, late, strict=True)]
    largest = [_block_size(*each) for each in zip(layout.num_samples, height, products, strict=True)]
    peak = square + copies * _total(per_sample, layout.num_samples)
    if layout.num_shards == 1:
        made, held = ([f + other for f, other in zip(factors, each, strict=True)] for each in (sources, rows))
        # Two blocks of rows are copied, in `dtype` and in the layout of a product; factors only if their dtype changes.
        copied = list(map(max, joined, apart))
        if dtype != layout.traces[0].dtype:
            copied = list(map(operator.add, copied, factors))
        cast = 2 * max(map(operator.mul, copied, largest)) * dtype.itemsize / itemsize
        cast += 4 * max(map(operator.mul, late, largest)) * dtype.itemsize / itemsize
        peak = max(
            # The network runs once more for its factors, …
            layout.activations + _total(made, layout.num_samples),
            # … their rows are made, and small ones put together, …
            _total(made, layout.num_samples) + _total(rows, layout.num_samples) + _total(joined, layout.num_samples),
            # … and multiplied, while XLA keeps what the linearisation holds in the layout of Dᵀ too.
            layout.activations + square + _total(held, layout.num_samples) + cast,
        )
    stored = matrix and peak <= budget
    sizes = []
    for n, most, sample_bytes in zip(layout.num_samples, largest, per_sample, strict=True):
        size = most if matrix else n
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
    if not stored:
        peak = square + 2 * copies * _total(per_sample, sizes)
    kept = sum(entry.bytes for entry in entries)
    if dtype != layout.traces[0].dtype:
        kept += kept * dtype.itemsize // itemsize
    if not stored or kept > MOST_KEPT * square or not layout.factors_pull(dtype):
        kept = 0
    return GramPlan(
        layout.num_rows, tuple(entries), stored, tuple(sizes), int(peak), int(budget), kept, layout.derivatives
    )


def _block_size(num_samples: int, num_rows: int, product_bytes: float) -> int:
    """Samples per block of G, if memory is not short."""
    size = math.ceil(num_samples / max(1, min(MOST_BLOCKS, num_samples * num_rows // LEAST_BLOCK_ROWS)))
    return min(size, int(math.sqrt(PRODUCT_BYTES / product_bytes))) if product_bytes else size


def _total(per_sample: Sequence[float], num_samples: Sequence[int]) -> float:
    return sum(map(operator.mul, per_sample, num_samples))


def square_bytes(num_rows: int, num_shards: int, dtype: jnp.dtype) -> int:
    """Bytes of G that one device holds during assembly; with several devices, including what it sends and receives."""
    copies = 1 if num_shards == 1 else 3
    return copies * num_rows**2 * dtype.itemsize // num_shards


def _mib(size: float) -> str:
    return f"{size / 2**20:.4g} MiB"
