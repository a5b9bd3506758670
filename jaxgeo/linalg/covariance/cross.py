"""Blocks of DDᵀ between the samples of a problem and new inputs, from the factors of each leaf, without D."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo.costs import SumOfSquares
from jaxgeo.linalg.gram.assembly import (
    KroneckerFactors,
    Samples,
    block_product,
    blocks_of_gram,
    data_of,
    kronecker_factors,
)
from jaxgeo.linalg.gram.layout import Layout, make_layout
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.measured import with_blocks
from jaxgeo.outputs import AbstractProblem, Block, Params

# How many numbers in products of factors, and how many new inputs, at a time.
MOST_PRODUCTS = 2**23
MOST_INPUTS = 256
# Up to this many bytes, the factors of the problem's samples are held; otherwise each chunk computes them again.
MOST_BYTES = 2**28


class Products(eqx.Module):
    """jDᵀ and jjᵀ for a chunk of new inputs, from the factors of both sides."""

    layout: Layout = eqx.field(static=True)
    size: int = eqx.field(static=True)

    def __call__(
        self, factors: KroneckerFactors, old: list[Samples], dtype: jnp.dtype
    ) -> tuple[Float[Array, "m Q QN"], Float[Array, "m Q Q"]]:
        height = self.layout.traces[-1].num_rows
        new = Samples(factors, self.layout, len(old), self.size)
        between = blocks_of_gram([new], old, dtype).reshape(self.size, height, -1)

        def own(factors: KroneckerFactors) -> Array:
            alone = jax.tree.map(lambda leaf: leaf[None], factors)
            return block_product(alone, alone, (height, height), dtype)

        return between, jax.vmap(own)(factors)


class Cross(eqx.Module):
    """The new inputs as one more block of the problem, and how to cut both into chunks.

    - `old`: the factors of the problem's own samples, block by block, or the data to compute them from.
    """

    jacobian: Jacobian
    old: list[Samples]
    products: Products

    def __init__(
        self,
        problem: AbstractProblem,
        params: Params,
        apply: Callable[[PyTree, PyTree], Array],
        inputs: PyTree,
        most: int = MOST_INPUTS,
    ):
        """**Arguments:**

        - `most`: the largest number of new inputs at a time.
        """
        new = Block(apply, inputs)
        blocks = (*problem.blocks, new)
        total = sum(block.num_samples for block in blocks)
        self.jacobian = Jacobian(with_blocks(problem, blocks, SumOfSquares(total)), params)
        layout = make_layout(self.jacobian)
        height = max(trace.num_rows for trace in layout.traces)
        pairs = max(1, MOST_PRODUCTS // (height * _positions(layout)) ** 2)
        size = min(new.num_samples, most, max(1, int(pairs**0.5)))
        layout = dataclasses.replace(layout, num_samples=(*layout.num_samples[:-1], size))
        self.products = Products(layout, size)
        self.old = [
            _samples(self.jacobian, layout, index, max(1, pairs // size)) for index in range(len(problem.blocks))
        ]

    @property
    def size(self) -> int:
        """The number of new inputs in a chunk."""
        return self.products.size

    def factors(self, inputs: PyTree) -> KroneckerFactors:
        """The factors of a chunk of new inputs."""
        layout, block = self.products.layout, len(self.old)
        return kronecker_factors(layout, block, data_of(self.jacobian, layout, block)._replace(inputs=inputs))


def _positions(layout: Layout) -> int:
    """The largest number of positions at which a leaf is used for one sample, as with a convolution kernel."""
    return max(
        (
            t * group.batch
            for group, profile in zip(layout.groups, layout.profiles, strict=True)
            for block in profile
            for t, _, _ in block
        ),
        default=1,
    )


def _samples(jacobian: Jacobian, layout: Layout, block: int, most: int) -> Samples:
    data = data_of(jacobian, layout, block)
    shapes = jax.eval_shape(lambda data: kronecker_factors(layout, block, data), data)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    held = kronecker_factors(layout, block, data) if size <= MOST_BYTES else data
    return Samples(held, layout, block, min(most, layout.num_samples[block]))
