"""Bytes that one device holds for a lift by each route. `Auto` chooses by them, and `Problem.plan` prints them.

They count what XLA allocates for the compiled lift; the factors 4, 2.5, … are numbers of buffers alive at once.
"""

from typing import NamedTuple

import jax.numpy as jnp

from jaxgeo.linalg.gram.plan import square_bytes
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.memory import array_bytes


class Sizes(NamedTuple):
    """What shapes alone tell about a lift.

    - `rows`, `columns`: QN and K; `shards`: the number of devices that the samples are spread over.
    - `activations`: bytes that the linearisation keeps, on all devices together; `data`: bytes of the samples, on one.
    - `dtype`: the dtype of the outputs.
    """

    rows: int
    columns: int
    shards: int
    activations: int
    data: int
    dtype: jnp.dtype

    @property
    def linearisation(self) -> int:
        """The parameters, the samples, and what a linearisation keeps."""
        return self.columns * self.dtype.itemsize + self.activations // self.shards + self.data

    @property
    def lifts(self) -> int:
        """The lift, its correction and its gradient."""
        return 3 * self.columns * self.dtype.itemsize


def sizes_of(jacobian: Jacobian) -> Sizes:
    """The sizes of a lift; values are not read, so they may be traced."""
    blocks = jacobian.problem.blocks
    data = sum(array_bytes(block.inputs) // block.num_shards for block in blocks) + array_bytes(jacobian.problem.loss)
    dtype = jnp.dtype(jacobian.outputs.dtype)
    return Sizes(jacobian.out_size(), jacobian.in_size(), blocks[0].num_shards, jacobian.activations(), data, dtype)


def gram_matrices(sizes: Sizes, dtype: jnp.dtype, damped: bool) -> int:
    """DDᵀ, its factorisation, and the fallback for a failure; over several devices in block rows until factorised."""
    alone = 5 if damped else 4
    copies = alone if sizes.shards == 1 else 2 + 2 / sizes.shards
    return int(copies * sizes.rows**2 * dtype.itemsize)


def held_gram(sizes: Sizes) -> int:
    """DDᵀ in the parameters' dtype, in block rows if there are several devices."""
    return square_bytes(sizes.rows, sizes.shards, sizes.dtype)


def dense_matrices(sizes: Sizes, dtype: jnp.dtype) -> int:
    """D and a factorisation of the smaller Gram matrix, whole on every device."""
    return int(2.5 * sizes.rows * sizes.columns + 4 * min(sizes.rows, sizes.columns) ** 2) * dtype.itemsize


def normal_matrices(sizes: Sizes, dtype: jnp.dtype) -> int:
    """DᵀD, its factorisation, and the fallback for a failure, whole on every device."""
    return int(3.5 * sizes.columns**2) * dtype.itemsize


def products(sizes: Sizes, vectors: int) -> int:
    """What products of this many vectors at a time with D and Dᵀ take while they run, besides the linearisation.

    With several vectors, the activations of all layers are kept for each; with one, those of some layers at a time.
    """
    kept = 3 * vectors if vectors > 1 else 1
    return vectors * sizes.columns * sizes.dtype.itemsize + kept * sizes.activations // (2 * sizes.shards)


def sketch(sizes: Sizes, rank: int) -> int:
    """The columns of a Nyström preconditioner, whole on every device."""
    return 2 * min(rank, sizes.rows) * sizes.rows * sizes.dtype.itemsize
