"""G = DDᵀ without D: assembled from the factors of each leaf, block by block, within a memory budget."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PyTree

from jaxgeo.linalg.factors import Stack, diagonal, product, rows, stacks
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.plan import GramPlan, Layout, make_layout, make_plan
from jaxgeo.linalg.precision import in_dtype


class Gram(lx.AbstractLinearOperator):
    """G = DDᵀ, the empirical neural tangent kernel, as a positive semidefinite operator on (N, Q).

    Paper: (1.22), (2.12)

    `mv` is one VJP and one JVP. `as_matrix` multiplies the factors of D leaf by leaf; D is never formed.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: a @ x, jnp.eye(2), jg.L2(jnp.zeros(2)))
    >>> problem.gram(jnp.zeros(2)).as_matrix().tolist()
    [[1.0, 0.0], [0.0, 1.0]]

    ```
    """

    jacobian: Jacobian
    memory: int | None = eqx.field(static=True)

    def __init__(self, jacobian: Jacobian, *, memory: int | None = None):
        """**Arguments:**

        - `jacobian`: D.
        - `memory`: bytes that the assembly may take, G among them; by default half of what the device has free.
        """
        self.jacobian = jacobian
        self.memory = memory

    def mv(self, vector: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return self.jacobian.mv(self.jacobian.T.mv(vector))

    def as_matrix(self, dtype: jnp.dtype | None = None) -> Float[Array, "QN QN"]:
        """G as one array.

        **Arguments:**

        - `dtype`: in which the factors are multiplied and summed; that of the outputs by default. float64 makes
            the products of float32 factors exact.

        **Raises:** `MemoryError`, before anything is allocated, if G does not fit in `memory`.
        """
        return _matrix(self, jnp.dtype(self.jacobian.outputs.dtype if dtype is None else dtype))

    def diagonal(self) -> Float[Array, "N Q"]:
        """The diagonal of G, the squared norm of each row of D, without the rest of it."""
        return _diagonal(self)

    def trace(self) -> Float[Array, ""]:
        """The trace of G, |D|² in the Frobenius norm, without G."""
        return jnp.sum(self.diagonal())

    def plan(self, dtype: jnp.dtype | None = None) -> GramPlan:
        """How `as_matrix` goes about it: for each leaf its uses, route, flops and bytes. Allocates nothing."""
        layout = make_layout(self.jacobian)
        return make_plan(layout, jnp.dtype(self.jacobian.outputs.dtype if dtype is None else dtype), self.memory)

    def transpose(self) -> "Gram":
        return self

    def in_structure(self) -> jax.ShapeDtypeStruct:
        return self.jacobian.out_structure()

    def out_structure(self) -> jax.ShapeDtypeStruct:
        return self.jacobian.out_structure()


class Factors(NamedTuple):
    """The factors of some samples of one block: stacks of each factored group, and rows of all other leaves."""

    groups: list[list[Stack]]
    rows: Array | None


class _Source(NamedTuple):
    """What the factors of one block are computed from: leaves, other arrays of the block's function, samples."""

    leaves: list[Array]
    constants: PyTree
    inputs: PyTree


def _source(jacobian: Jacobian, layout: Layout, block: int) -> _Source:
    inputs = jacobian.problem.blocks[block].inputs
    return _Source(jax.tree.leaves(jacobian.trainable), layout.constants(jacobian, block), inputs)


def _factors(layout: Layout, block: int, source: _Source) -> Factors:
    """The factors of D for these samples of a block: one forward and Q backward passes."""
    trace = layout.traces[block]
    epsilons = [jnp.zeros(site.shape, site.dtype) for site in trace.sites]

    def one(sample: PyTree) -> tuple:
        def function(epsilons: list[Array], plain: list[Array]) -> tuple[Array, list[Array]]:
            values = list(source.leaves)
            for index, value in zip(layout.plain, plain, strict=True):
                values[index] = value
            return trace(values, epsilons, (source.constants, sample))

        plain = [source.leaves[index] for index in layout.plain]
        _, pullback, operands = jax.vjp(function, epsilons, plain, has_aux=True)
        deltas, plain_rows = jax.vmap(pullback)(jnp.eye(trace.num_rows, dtype=trace.dtype))
        return deltas, plain_rows, operands

    with jax.default_matmul_precision("highest"):
        deltas, plain_rows, operands = jax.vmap(one)(source.inputs)
        found, columns = [], [leaf.reshape(*leaf.shape[:2], -1) for leaf in plain_rows]
        for group, factored in zip(layout.groups, layout.factored, strict=True):
            members = stacks(group, block, deltas, operands)
            if factored:
                found.append(members)
            elif members:
                columns.append(sum(map(rows, members[1:]), start=rows(members[0])))
            else:
                num_samples = jax.tree.leaves(source.inputs)[0].shape[0]
                columns.append(jnp.zeros((num_samples, trace.num_rows, group.num_numbers), trace.dtype))
    return Factors(found, jnp.concatenate(columns, axis=-1) if columns else None)


def _product(left: Factors, right: Factors, dtype: jnp.dtype) -> Array:
    """The block of G that belongs to two sets of samples."""
    left, right = (
        jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, side)
        for side in (left, right)
    )
    terms = [
        product(mine, its)
        for my_stacks, its_stacks in zip(left.groups, right.groups, strict=True)
        for mine in my_stacks
        for its in its_stacks
    ]
    if left.rows is not None and right.rows is not None:
        terms.append(jnp.einsum("nqk,mpk->nqmp", left.rows, right.rows))
    total = sum(terms[1:], start=terms[0])
    return total.reshape(total.shape[0] * total.shape[1], -1)


class _Samples(eqx.Module):
    """Factors of a range of samples of one block, taken from a store or computed when asked for."""

    held: Factors | _Source
    layout: Layout = eqx.field(static=True)
    block: int = eqx.field(static=True)
    size: int = eqx.field(static=True)

    def __call__(self, start: Array) -> Factors:
        def cut(array: Array) -> Array:
            return jax.lax.dynamic_slice_in_dim(array, start, self.size)

        if isinstance(self.held, Factors):
            return jax.tree.map(cut, self.held)
        part = self.held._replace(inputs=jax.tree.map(cut, self.held.inputs))
        return _factors(self.layout, self.block, part)

    @property
    def starts(self) -> list[int]:
        """Where the ranges start; the last one is moved back to end with the last sample."""
        num_samples = self.layout.num_samples[self.block]
        return [min(start, num_samples - self.size) for start in range(0, num_samples, self.size)]

    @property
    def num_rows(self) -> int:
        """Q, rows a sample."""
        return self.layout.traces[self.block].num_rows


class _Assemble(eqx.Module):
    """G from the factors of all blocks of the problem; what lies above the diagonal is not computed."""

    dtype: jnp.dtype = eqx.field(static=True)

    def __call__(self, samples: list[_Samples]) -> Float[Array, "QN QN"]:
        sizes = [side.layout.num_samples[side.block] * side.num_rows for side in samples]
        if len(samples) == 1 and len(samples[0].starts) == 1:
            every = samples[0](jnp.array(0))
            return _product(every, every, self.dtype)
        offsets = [sum(sizes[:i]) for i in range(len(sizes))]
        matrix = jnp.zeros((sum(sizes), sum(sizes)), self.dtype)
        for i, left in enumerate(samples):
            for j, right in enumerate(samples[: i + 1]):
                matrix = _fill(matrix, left, right, offsets[i], offsets[j])
        return jnp.tril(matrix) + jnp.tril(matrix, -1).T


@eqx.filter_jit
def _matrix(gram: Gram, dtype: jnp.dtype) -> Float[Array, "QN QN"]:
    layout = make_layout(gram.jacobian)
    plan = make_plan(layout, dtype, gram.memory)
    samples = []
    for block, size in enumerate(plan.block_samples):
        source = _source(gram.jacobian, layout, block)
        held = _factors(layout, block, source) if plan.stored else source
        samples.append(_Samples(held, layout, block, size))
    arrays, static = eqx.partition(samples, eqx.is_array)
    with jax.default_matmul_precision("highest"):
        return in_dtype(lambda arrays: _Assemble(dtype)(eqx.combine(arrays, static)), dtype)(arrays)


def _fill(matrix: Array, left: _Samples, right: _Samples, row: int, column: int) -> Array:
    """Write the blocks of G between two blocks of the problem, on and below the diagonal.

    What the last range of samples shares with the one before is written twice alike.
    """
    pairs = [
        (start, other)
        for i, start in enumerate(left.starts)
        for j, other in enumerate(right.starts)
        if left.block != right.block or j <= i
    ]

    def body(matrix: Array, pair: Array) -> tuple[Array, None]:
        block = _product(left(pair[0]), right(pair[1]), matrix.dtype)
        corner = (row + pair[0] * left.num_rows, column + pair[1] * right.num_rows)
        return jax.lax.dynamic_update_slice(matrix, block, corner), None

    matrix, _ = jax.lax.scan(body, matrix, jnp.array(pairs))
    return matrix


@eqx.filter_jit
def _diagonal(gram: Gram) -> Float[Array, "N Q"]:
    layout = make_layout(gram.jacobian)
    plan = make_plan(layout, jnp.dtype(gram.jacobian.outputs.dtype), gram.memory, matrix=False)
    found = []
    for block, size in enumerate(plan.block_samples):
        samples = _Samples(_source(gram.jacobian, layout, block), layout, block, size)
        pieces = jax.lax.map(_Squares(samples), jnp.array(samples.starts))
        # The last range begins in the one before it: take its end only.
        whole = pieces[:-1].reshape(-1, samples.num_rows)
        last = pieces[-1][len(whole) - samples.starts[-1] :]
        found.append(jnp.concatenate([whole, last]))
    return gram.jacobian.problem.loss.arrange(jnp.concatenate([piece.reshape(-1) for piece in found]))


class _Squares(eqx.Module):
    """The squared norms of the rows of D for a range of samples, (samples, Q)."""

    samples: _Samples

    def __call__(self, start: Array) -> Array:
        factors = self.samples(start)
        terms = [diagonal(left, right) for members in factors.groups for left in members for right in members]
        if factors.rows is not None:
            terms.append(jnp.sum(factors.rows**2, axis=-1))
        return sum(terms[1:], start=terms[0])


@lx.linearise.register
def _(operator: Gram) -> Gram:
    return operator


@lx.materialise.register
def _(operator: Gram) -> lx.AbstractLinearOperator:
    shape = operator.jacobian.outputs.shape
    matrix = operator.as_matrix().reshape(*shape, *shape)
    return lx.TaggedLinearOperator(
        lx.PyTreeLinearOperator(matrix, operator.out_structure()), lx.positive_semidefinite_tag
    )


@lx.conj.register
def _(operator: Gram) -> Gram:
    return operator


def _always(operator: Gram) -> bool:
    return True


def _never(operator: Gram) -> bool:
    return False


for _property, _answer in (
    (lx.is_symmetric, _always),
    (lx.is_positive_semidefinite, _always),
    (lx.is_diagonal, _never),
    (lx.is_tridiagonal, _never),
    (lx.has_unit_diagonal, _never),
    (lx.is_lower_triangular, _never),
    (lx.is_upper_triangular, _never),
    (lx.is_negative_semidefinite, _never),
):
    _property.register(Gram)(_answer)
