"""Spread samples over the devices of a mesh. JAX's own runtime moves the data."""

import equinox as eqx
import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from jaxgeo._checks import check_kind
from jaxgeo.outputs import Block, repeat_last
from jaxgeo.problem import Problem


def shard_samples(problem: Problem, mesh: Mesh, axis: str = "samples") -> Problem:
    """Spread the samples of a problem over one axis of a mesh, and copy all else that it holds to every device.

    Flows, lifts and optimizers take the result like any other problem. Outputs, D and its products, and the block rows
    of DDᵀ stay where their samples are; DDᵀ is gathered only to be factorised. If N is not a multiple of the number of
    devices, samples without rows fill up the last device's share, so results do not change. Parameters may lie on the
    mesh in any way: `jax.device_put(params, NamedSharding(mesh, …))` shards wide layers over another axis, and they
    are not gathered.

    With several processes (`jax.distributed.initialize()`), every process calls this with the same data, or with
    arrays that already span the processes, such as those of `jax.make_array_from_process_local_data`. Put the
    parameters on the mesh with `jax.device_put` too.

    **Arguments:**

    - `mesh`: with axes of `AxisType.Auto`, such as `jax.make_mesh(shape, names, axis_types=(AxisType.Auto,))`.
    - `axis`: the name of the axis to spread the samples over.

    **Raises:** `ValueError` unless `mesh` is a mesh that has this axis and only axes of type Auto, if the problem
    couples its samples, or if it has fewer samples than the axis has devices.

    ```python
    >>> import jax, jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: a @ x, jnp.eye(2), jg.L2(jnp.zeros(2)))
    >>> mesh = jax.make_mesh((1,), ("samples",), axis_types=(jax.sharding.AxisType.Auto,))
    >>> sharded = jg.shard_samples(problem, mesh)
    >>> sharded.gram(jnp.zeros(2)).as_matrix().tolist()
    [[1.0, 0.0], [0.0, 1.0]]

    ```
    """
    check_kind("problem", problem, Problem, "a `jaxgeo.Problem`")
    check_kind("mesh", mesh, Mesh, "a mesh of devices, such as that of `jax.make_mesh`")
    if axis not in mesh.axis_names:
        raise ValueError(
            f"`axis` must name an axis of the mesh; got {axis!r}, and the mesh has {', '.join(mesh.axis_names)}."
        )
    if len(problem.blocks) == 1 and problem.blocks[0].num_samples != problem.num_samples:
        raise ValueError(
            "a problem with `per_sample=False` couples its samples, so they cannot be spread over devices; shard its "
            "parameters instead, or write the network for one sample."
        )
    if any(kind is not AxisType.Auto for kind in mesh.axis_types):
        raise ValueError(
            "the axes of `mesh` must be of the type Auto, so that the network need not say how its arrays are sharded; "
            f"got {', '.join(map(str, mesh.axis_types))}. Make it with "
            "`jax.make_mesh(shape, names, axis_types=(jax.sharding.AxisType.Auto,) * len(names))`."
        )
    blocks = tuple(_shard(block, NamedSharding(mesh, PartitionSpec(axis))) for block in problem.blocks)
    everywhere = NamedSharding(mesh, PartitionSpec())
    return eqx.tree_at(
        lambda problem: (problem.blocks, problem.loss, problem.trainable),
        problem,
        (blocks, put(problem.loss, everywhere), put(problem.trainable, everywhere)),
    )


def _shard(block: Block, sharding: NamedSharding) -> Block:
    num_shards = sharding.mesh.shape[sharding.spec[0]]
    if block.num_samples < num_shards:
        raise ValueError(
            f"{block.num_samples} samples cannot be spread over {num_shards} devices; use a mesh with a shorter "
            "samples axis, or more samples."
        )
    padding = -block.num_samples % num_shards
    inputs = jax.tree.map(lambda leaf: repeat_last(leaf[: block.num_samples], padding), block.inputs)
    apply = put(block.apply, NamedSharding(sharding.mesh, PartitionSpec()))
    return Block(apply, put(inputs, sharding), block.scale, sharding, padding)


def put(tree: PyTree, sharding: NamedSharding) -> PyTree:
    """Lay out the arrays of a tree in this way; everything else stays as it is."""
    return jax.tree.map(lambda leaf: jax.device_put(leaf, sharding) if eqx.is_array(leaf) else leaf, tree)
