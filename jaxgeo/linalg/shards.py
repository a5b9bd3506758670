"""Functions of the samples that each device of a mesh holds."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jax.sharding import PartitionSpec
from jaxtyping import PyTree

from jaxgeo.outputs import Block


def on_shards(
    local: Callable[[PyTree], Any], block: Block, argument: PyTree, specs: PyTree, *, summed: bool = False
) -> PyTree:
    """`local` on each device, of the parts of the argument that it holds.

    The mesh's other axes are left to XLA, so that parameters sharded over them stay so.

    **Arguments:**

    - `specs`: how the arrays of the argument are laid out.
    - `summed`: add up what the devices found, in place of putting it one after another along the first axis.
    """
    arrays, static = eqx.partition(argument, eqx.is_array)
    axis = samples_axis(block)

    def run(arrays: PyTree) -> PyTree:
        found = local(eqx.combine(arrays, static))
        return jax.lax.psum(found, axis) if summed else found

    assert block.sharding is not None
    mapped = jax.shard_map(
        run,
        mesh=block.sharding.mesh,
        in_specs=(specs,),
        out_specs=PartitionSpec() if summed else PartitionSpec(axis),
        axis_names={axis},
        # Loops start from constants, which count as the same on all devices; marking each as varying says nothing.
        check_vma=False,
    )
    return mapped(arrays)


def samples_axis(block: Block) -> str:
    """The name of the axis of the mesh that the samples are spread over."""
    assert block.sharding is not None
    return block.sharding.spec[0]


def sharded(tree: PyTree, block: Block) -> PyTree:
    """Specs of arrays that have one entry a sample."""
    return jax.tree.map(lambda _: PartitionSpec(samples_axis(block)), eqx.filter(tree, eqx.is_array))


def replicated(tree: PyTree) -> PyTree:
    """Specs of arrays that are whole on every device, but for the mesh's other axes."""
    return jax.tree.map(lambda _: PartitionSpec(), eqx.filter(tree, eqx.is_array))
