"""Run functions on the samples that each device of a mesh holds."""

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
    """Call `local` on each device, with the parts of the argument that it holds.

    XLA handles the mesh's other axes, so parameters that are sharded over them stay sharded.

    **Arguments:**

    - `specs`: how the arrays of the argument are laid out.
    - `summed`: sum the results of the devices, instead of concatenating them along the first axis.
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
        # Loops start from constants, which count as equal on all devices; marking each as varying would be noise.
        check_vma=False,
    )
    return mapped(arrays)


def samples_axis(block: Block) -> str:
    """The name of the mesh axis that the samples are spread over."""
    assert block.sharding is not None
    return block.sharding.spec[0]


def sharded(tree: PyTree, block: Block) -> PyTree:
    """Specs of arrays that have one entry per sample."""
    return jax.tree.map(lambda _: PartitionSpec(samples_axis(block)), eqx.filter(tree, eqx.is_array))


def replicated(tree: PyTree) -> PyTree:
    """Specs of arrays that are whole on every device, apart from the mesh's other axes."""
    return jax.tree.map(lambda _: PartitionSpec(), eqx.filter(tree, eqx.is_array))
