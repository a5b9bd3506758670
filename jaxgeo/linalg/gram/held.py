"""D as the factors of its rows, held: products with Dᵀ that compute no derivative again."""

import itertools
import math
from collections.abc import Iterable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo.linalg.gram.assembly import KroneckerFactors, data_of, joined, kronecker_factors
from jaxgeo.linalg.gram.kronecker import Stack, kernel, pulled
from jaxgeo.linalg.gram.layout import Layout, Route
from jaxgeo.linalg.jacobian import Jacobian


class HeldFactors(eqx.Module):
    """The factors of all rows of D.

    A VJP propagates a derivative back through the network, and multiplies it with what each leaf was multiplied with.
    The factors are both, already propagated, so half of its work remains. And their products can be summed in float64,
    where those of float32 factors are exact.

    - `leaves`, `treedef`: shapes and dtypes of the trainable parameters, and their structure.
    """

    blocks: list[KroneckerFactors]
    layout: Layout = eqx.field(static=True)
    leaves: tuple[jax.ShapeDtypeStruct, ...] = eqx.field(static=True)
    treedef: jax.tree_util.PyTreeDef = eqx.field(static=True)

    def pull(self, velocity: Float[Array, " QN"]) -> PyTree:
        """Dᵀ times an output velocity, computed in the dtype of the velocity. It has no derivative in D."""
        shapes = [jax.ShapeDtypeStruct(leaf.shape, velocity.dtype) for leaf in self.leaves]
        with jax.default_matmul_precision("highest"):
            # The numbers of each group, and all others, are linear in the leaves.
            (found,) = jax.linear_transpose(self._numbers, shapes)(self._pulled(velocity))
        return self.treedef.unflatten(
            [array.astype(leaf.dtype) for array, leaf in zip(found, self.leaves, strict=True)]
        )

    def _numbers(self, leaves: Sequence[Array]) -> tuple[list[Array], ...]:
        """What the factors multiply: numbers of factored groups, of those whose rows are made late, and all others."""
        layout = self.layout
        of: dict[Route, list[Array]] = {route: [] for route in Route}
        for group, route in zip(layout.groups, layout.routes, strict=True):
            of[route].append(kernel(group, leaves))
        dense = [*(leaves[index] for index in layout.plain), *of[Route.MATERIALISED]]
        return of[Route.FACTORED], of[Route.LATE], joined([numbers.reshape(-1) for numbers in dense])

    def _pulled(self, velocity: Float[Array, " QN"]) -> tuple[list[Array], ...]:
        """The products for `_numbers`."""
        layout = self.layout
        shapes = [(count, trace.num_rows) for count, trace in zip(layout.num_samples, layout.traces, strict=True)]
        ends = list(itertools.accumulate(math.prod(shape) for shape in shapes))
        parts = [part.reshape(shape) for part, shape in zip(jnp.split(velocity, ends[:-1]), shapes, strict=True)]

        def of_stacks(blocks: Iterable[list[list[Stack]]]) -> list[Array]:
            return [
                _sum(pulled(stack, part) for part, stacks in zip(parts, members, strict=True) for stack in stacks)
                for members in zip(*blocks, strict=True)
            ]

        of_rows = [
            _sum(jnp.einsum("nq,nqk->k", part, rows.astype(part.dtype)) for part, rows in zip(parts, each, strict=True))
            for each in zip(*(factors.rows for factors in self.blocks), strict=True)
        ]
        late = of_stacks(factors.late for factors in self.blocks)
        return of_stacks(factors.groups for factors in self.blocks), late, of_rows


def _sum(terms: Iterable[Array]) -> Array:
    first, *others = terms
    return sum(others, start=first)


def held_factors(jacobian: Jacobian, layout: Layout) -> HeldFactors:
    """The factors of all samples of all blocks of the problem."""
    indices = range(len(layout.traces))
    blocks = [kronecker_factors(layout, block, data_of(jacobian, layout, block)) for block in indices]
    leaves, treedef = jax.tree.flatten(jacobian.in_structure())
    return HeldFactors(blocks, layout, tuple(leaves), treedef)
