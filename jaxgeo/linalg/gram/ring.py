"""G in block rows over the devices of a mesh: each device keeps the rows of its samples; factors travel in a ring."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo.linalg.gram.assembly import Samples, blocks_of_gram
from jaxgeo.linalg.precision import in_dtype
from jaxgeo.linalg.shards import on_shards, replicated, samples_axis, sharded
from jaxgeo.outputs import Block


def block_rows(samples: list[Samples], blocks: Sequence[Block], dtype: jnp.dtype) -> Float[Array, "QN QN"]:
    """G, sharded by rows as the samples are."""
    arrays, static = eqx.partition(samples, eqx.is_array)
    sizes = [block.num_samples * each.num_rows for block, each in zip(blocks, samples, strict=True)]

    def run(arrays: PyTree) -> Array:
        samples = eqx.combine(arrays, static)
        local = _BlockRows(dtype, samples_axis(blocks[0]), blocks[0].num_shards)
        pieces = on_shards(local, blocks[0], samples, [_specs(part, blocks[0]) for part in samples])
        # Drop the rows and columns of padding.
        cut = [[pieces[i][j][:n, :m] for j, m in enumerate(sizes)] for i, n in enumerate(sizes)]
        return cut[0][0] if len(sizes) == 1 else jnp.block(cut)

    return in_dtype(run, dtype)(arrays)


def squares(samples: Samples, block: Block) -> Float[Array, "N Q"]:
    """The squared norms of a block's rows of D, each on the device of its sample."""
    if block.num_shards == 1:
        return samples.squares()
    return on_shards(Samples.squares, block, samples, _specs(samples, block))[: block.num_samples]


def _specs(samples: Samples, block: Block) -> PyTree:
    """Specs that shard the arrays with one entry per sample."""
    return replicated(samples).replaced(sharded(samples.travelling, block))


class _BlockRows(eqx.Module):
    """The block row of G for the samples of this device, cut by the blocks of the problem.

    Each device computes its blocks with the samples of the k-th device before it, for k up to half the number of
    devices. The other blocks are transposes of blocks that other devices compute and send.
    """

    dtype: jnp.dtype = eqx.field(static=True)
    axis: str = eqx.field(static=True)
    num_shards: int = eqx.field(static=True)

    def __call__(self, samples: list[Samples]) -> list[list[Array]]:
        count = self.num_shards
        height = sum(each.height for each in samples)
        here = jax.lax.axis_index(self.axis)
        onwards = [(i, (i + 1) % count) for i in range(count)]

        def step(carry: tuple[Array, list], behind: Array) -> tuple[tuple[Array, list], None]:
            matrix, visitors = carry
            others = [each.replaced(arrays) for each, arrays in zip(samples, visitors, strict=True)]
            block = blocks_of_gram(samples, others, self.dtype)
            start = (jnp.zeros((), here.dtype), (here - behind) % count, jnp.zeros((), here.dtype))
            matrix = jax.lax.dynamic_update_slice(matrix, block[:, None], start)
            return (matrix, jax.lax.ppermute(visitors, self.axis, onwards)), None

        empty = jnp.zeros((height, count, height), self.dtype)
        visitors = [each.travelling for each in samples]
        steps = jnp.arange(count // 2 + 1, dtype=here.dtype)
        (computed, _), _ = jax.lax.scan(step, (empty, visitors), steps)
        sent = jax.lax.all_to_all(computed, self.axis, 1, 1, tiled=True).transpose(2, 1, 0)
        behind = (here - jnp.arange(count, dtype=here.dtype)) % count
        whole = jnp.where((behind <= count // 2)[None, :, None], computed, sent)
        bounds = [sum(each.height for each in samples[:i]) for i in range(len(samples) + 1)]
        return [
            [whole[i:j, :, k:m].reshape(j - i, -1) for k, m in zip(bounds, bounds[1:], strict=False)]
            for i, j in zip(bounds, bounds[1:], strict=False)
        ]
