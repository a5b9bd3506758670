"""The factors of ranges of samples, and the blocks of G that follow from them."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo.linalg.gram.kronecker import Stack, diagonal, product, rows, stacks
from jaxgeo.linalg.gram.layout import LEAST_APART, Layout, Route
from jaxgeo.linalg.jacobian import Jacobian


class KroneckerFactors(NamedTuple):
    """The factors of some samples of one block.

    - `groups`: stacks for each factored group; `late`: stacks of those whose rows are made for each block of G.
    - `rows`: rows of D for all other leaves.
    """

    groups: list[list[Stack]]
    late: list[list[Stack]]
    rows: list[Array]


class BlockData(NamedTuple):
    """The data behind the factors of one block: leaves, other arrays of the block's function, and samples."""

    leaves: list[Array]
    constants: PyTree
    inputs: PyTree


def data_of(jacobian: Jacobian, layout: Layout, block: int) -> BlockData:
    inputs = jacobian.problem.blocks[block].inputs
    return BlockData(jax.tree.leaves(jacobian.trainable), layout.constants(jacobian, block), inputs)


def kronecker_factors(layout: Layout, block: int, data: BlockData) -> KroneckerFactors:
    """The factors of D for these samples of a block: one forward and Q backward passes."""
    trace = layout.traces[block]
    epsilons = [jnp.zeros(site.shape, site.dtype) for site in trace.sites]

    def one(sample: PyTree) -> tuple:
        def function(epsilons: list[Array], plain: list[Array]) -> tuple[Array, list[Array]]:
            values = list(data.leaves)
            for index, value in zip(layout.plain, plain, strict=True):
                values[index] = value
            return trace(values, epsilons, (data.constants, sample))

        plain = [data.leaves[index] for index in layout.plain]
        _, pullback, operands = jax.vjp(function, epsilons, plain, has_aux=True)
        deltas, plain_rows = jax.vmap(pullback)(jnp.eye(trace.num_rows, dtype=trace.dtype))
        return deltas, plain_rows, operands

    with jax.default_matmul_precision("highest"):
        deltas, plain_rows, operands = jax.vmap(one)(data.inputs)
        found, late, columns = [], [], [leaf.reshape(*leaf.shape[:2], -1) for leaf in plain_rows]
        for group, route in zip(layout.groups, layout.routes, strict=True):
            members = stacks(group, block, deltas, operands)
            if route is not Route.MATERIALISED:
                (found if route is Route.FACTORED else late).append(members)
            elif members:
                columns.append(_rows_of(members))
            else:
                num_samples = jax.tree.leaves(data.inputs)[0].shape[0]
                columns.append(jnp.zeros((num_samples, trace.num_rows, group.num_numbers), trace.dtype))
    return KroneckerFactors(found, late, joined(columns))


def joined(columns: list[Array]) -> list[Array]:
    """Arrays put together along the last axis where they are short, so that they make one product."""
    small = [column for column in columns if column.shape[-1] < LEAST_APART]
    apart = [column for column in columns if column.shape[-1] >= LEAST_APART]
    return [*([jnp.concatenate(small, axis=-1)] if small else []), *apart]


def _rows_of(members: list[Stack]) -> Float[Array, "samples Q numbers"]:
    return sum(map(rows, members[1:]), start=rows(members[0]))


def block_product(left: KroneckerFactors, right: KroneckerFactors, shape: tuple[int, int], dtype: jnp.dtype) -> Array:
    """The block of G for two sets of samples; 0 if they have no leaf in common."""
    left, right = (
        jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, each)
        for each in (left, right)
    )
    terms = [
        product(mine, its)
        for my_stacks, its_stacks in zip(left.groups, right.groups, strict=True)
        for mine in my_stacks
        for its in its_stacks
    ]
    made = [(_rows_of(mine), _rows_of(its)) for mine, its in zip(left.late, right.late, strict=True) if mine and its]
    pairs = [*made, *zip(left.rows, right.rows, strict=True)]
    terms += [jnp.einsum("nqk,mpk->nqmp", mine, its) for mine, its in pairs]
    return _total(terms, shape, dtype)


def _total(terms: list[Array], shape: tuple[int, int], dtype: jnp.dtype) -> Array:
    return sum(terms[1:], start=terms[0]).reshape(shape) if terms else jnp.zeros(shape, dtype)


class Samples(eqx.Module):
    """The factors of a range of samples of one block, either held or computed on demand."""

    held: KroneckerFactors | BlockData
    layout: Layout = eqx.field(static=True)
    block: int = eqx.field(static=True)
    size: int = eqx.field(static=True)

    def __call__(self, start: Array) -> KroneckerFactors:
        def cut(array: Array) -> Array:
            return jax.lax.dynamic_slice_in_dim(array, start, self.size)

        if isinstance(self.held, KroneckerFactors):
            return jax.tree.map(cut, self.held)
        part = self.held._replace(inputs=jax.tree.map(cut, self.held.inputs))
        return kronecker_factors(self.layout, self.block, part)

    @property
    def travelling(self) -> PyTree:
        """The arrays that have one entry per sample."""
        return self.held if isinstance(self.held, KroneckerFactors) else self.held.inputs

    def replaced(self, arrays: PyTree) -> "Samples":
        """The same samples with `arrays` in place of `travelling`."""
        held = arrays if isinstance(self.held, KroneckerFactors) else self.held._replace(inputs=arrays)
        return Samples(held, self.layout, self.block, self.size)

    @property
    def starts(self) -> list[int]:
        """Where the ranges start; the last one is moved back to end with the last sample."""
        num_samples = self.layout.num_samples[self.block]
        return [min(start, num_samples - self.size) for start in range(0, num_samples, self.size)]

    @property
    def num_rows(self) -> int:
        """Q, the number of rows per sample."""
        return self.layout.traces[self.block].num_rows

    @property
    def height(self) -> int:
        """The number of rows of D for all these samples."""
        return self.layout.num_samples[self.block] * self.num_rows

    def squares(self) -> Float[Array, "samples Q"]:
        """The squared norms of the rows of D."""
        pieces = jax.lax.map(Squares(self), jnp.array(self.starts))
        # The last range starts within the one before it: take only its end.
        whole = pieces[:-1].reshape(-1, self.num_rows)
        return jnp.concatenate([whole, pieces[-1][len(whole) - self.starts[-1] :]])


class Squares(eqx.Module):
    """The squared norms of the rows of D for a range of samples, (samples, Q)."""

    samples: Samples

    def __call__(self, start: Array) -> Array:
        factors = self.samples(start)
        terms = [diagonal(left, right) for members in factors.groups for left in members for right in members]
        of_rows = [*map(_rows_of, filter(None, factors.late)), *factors.rows]
        terms += [jnp.sum(rows**2, axis=-1) for rows in of_rows]
        trace = self.samples.layout.traces[self.samples.block]
        return _total(terms, (self.samples.size, trace.num_rows), trace.dtype)


def blocks_of_gram(left: list[Samples], right: list[Samples], dtype: jnp.dtype) -> Float[Array, "rows columns"]:
    """The part of G between two sets of samples of all blocks of the problem."""
    if len(left) == len(right) == 1 and len(left[0].starts) == len(right[0].starts) == 1:
        shape = (left[0].height, right[0].height)
        return block_product(left[0](jnp.array(0)), right[0](jnp.array(0)), shape, dtype)
    matrix = jnp.zeros((sum(each.height for each in left), sum(each.height for each in right)), dtype)
    for mine, row in zip(left, _offsets(left), strict=True):
        for its, column in zip(right, _offsets(right), strict=True):
            matrix = _fill(matrix, mine, its, (row, column))
    return matrix


class Assemble(eqx.Module):
    """G from the factors of all blocks of the problem; blocks above the diagonal are mirrored, not computed."""

    dtype: jnp.dtype = eqx.field(static=True)

    def __call__(self, samples: list[Samples]) -> Float[Array, "QN QN"]:
        if len(samples) == 1 and len(samples[0].starts) == 1:
            return blocks_of_gram(samples, samples, self.dtype)
        size = sum(each.height for each in samples)
        matrix = jnp.zeros((size, size), self.dtype)
        for i, (mine, row) in enumerate(zip(samples, _offsets(samples), strict=True)):
            for its, column in zip(samples[: i + 1], _offsets(samples), strict=False):
                matrix = _fill(matrix, mine, its, (row, column), mirrored=True)
        return matrix


def _offsets(samples: list[Samples]) -> list[int]:
    return [sum(each.height for each in samples[:i]) for i in range(len(samples))]


def _fill(matrix: Array, left: Samples, right: Samples, corner: tuple[int, int], *, mirrored: bool = False) -> Array:
    """Write the blocks of G between two blocks of the problem.

    The last range of samples may overlap the one before; the shared entries are written twice, with equal values.

    - `mirrored`: also write the transposed blocks on the other side of the diagonal, so that no second matrix is held.
    """
    within = mirrored and corner[0] == corner[1]
    pairs = [
        (start, other)
        for i, start in enumerate(left.starts)
        for j, other in enumerate(right.starts)
        if not within or j <= i
    ]

    shape = (left.size * left.num_rows, right.size * right.num_rows)

    def body(matrix: Array, pair: Array) -> tuple[Array, None]:
        block = block_product(left(pair[0]), right(pair[1]), shape, matrix.dtype)
        row, column = corner[0] + pair[0] * left.num_rows, corner[1] + pair[1] * right.num_rows
        if mirrored:
            # Otherwise XLA computes it again for the other side, against the memory order of the factors.
            block = jax.lax.optimization_barrier(block)
            matrix = jax.lax.dynamic_update_slice(matrix, block.T, (column, row))
        return jax.lax.dynamic_update_slice(matrix, block, (row, column)), None

    matrix, _ = jax.lax.scan(body, matrix, jnp.array(pairs))
    return matrix
