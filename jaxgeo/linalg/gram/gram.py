"""G = DDᵀ without D: assembled from the factors of each leaf, block by block, within a memory budget."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float

from jaxgeo.linalg.gram.assembly import Assemble, Samples, data_of
from jaxgeo.linalg.gram.certificate import certified
from jaxgeo.linalg.gram.held import HeldFactors, held_factors
from jaxgeo.linalg.gram.layout import make_layout
from jaxgeo.linalg.gram.plan import GramPlan, plan_assembly
from jaxgeo.linalg.gram.ring import block_rows, squares
from jaxgeo.linalg.jacobian import Jacobian, register
from jaxgeo.linalg.memory import check_memory
from jaxgeo.linalg.precision import in_dtype


class Gram(lx.AbstractLinearOperator):
    """G = DDᵀ, the empirical neural tangent kernel, as a positive semidefinite operator on (N, Q).

    Paper: (1.22), (2.12)

    `mv` is one VJP and one JVP. `as_matrix` multiplies the factors of D leaf by leaf; D is never formed.

    **Arguments:**

    - `jacobian`: D.
    - `memory`: bytes that the assembly may take, including G; by default half of the device's free memory.
    - `structured`: pass False to multiply rows of D, computed by VJPs for some samples at a time, instead of factors.
        For a dense layer this costs K/(in + out) times as much, but it does not depend on reading the network.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: a @ x, jnp.eye(2), jg.L2(jnp.zeros(2)))
    >>> problem.gram(jnp.zeros(2)).as_matrix().tolist()
    [[1.0, 0.0], [0.0, 1.0]]

    ```
    """

    jacobian: Jacobian
    memory: int | None = eqx.field(static=True)
    structured: bool = eqx.field(static=True)

    def __init__(self, jacobian: Jacobian, *, memory: int | None = None, structured: bool = True):
        check_memory(memory)
        self.jacobian = jacobian
        self.memory = memory
        self.structured = structured

    def mv(self, vector: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return self.jacobian.mv(self.jacobian.T.mv(vector))

    def as_matrix(self, dtype: jnp.dtype | None = None, *, certify: bool = True) -> Float[Array, "QN QN"]:
        """G as one array.

        **Arguments:**

        - `dtype`: the dtype in which factors are multiplied and summed; that of the outputs by default. In float64 the
            products of float32 factors are exact.
        - `certify`: compare u·Gu with |Dᵀu|² for a random u, at the cost of a gradient.

        **Raises:** `MemoryError`, before anything is allocated, if G does not fit in `memory`; a runtime error if
        `certify` finds that the two differ by more than half of their digits.
        """
        matrix, _ = _assembled(self, jnp.dtype(self.jacobian.outputs.dtype if dtype is None else dtype), False)
        return certified(self.jacobian, matrix) if certify and self.structured else matrix

    def with_factors(self, dtype: jnp.dtype) -> tuple[Float[Array, "QN QN"], HeldFactors | None]:
        """G, not certified, and the factors that it was assembled from; None where they are not worth holding."""
        return _assembled(self, dtype, True)

    def diagonal(self) -> Float[Array, "N Q"]:
        """The diagonal of G, which holds the squared norm of each row of D, without the rest of G."""
        return _diagonal(self)

    def trace(self) -> Float[Array, ""]:
        """The trace of G, |D|² in the Frobenius norm, without G."""
        return jnp.sum(self.diagonal())

    def plan(self, dtype: jnp.dtype | None = None) -> GramPlan:
        """How `as_matrix` would compute G: the uses, route, flops and bytes of each leaf. Allocates nothing."""
        layout = make_layout(self.jacobian, self.structured)
        return plan_assembly(layout, jnp.dtype(self.jacobian.outputs.dtype if dtype is None else dtype), self.memory)

    def transpose(self) -> "Gram":
        return self

    def in_structure(self) -> jax.ShapeDtypeStruct:
        return self.jacobian.out_structure()

    def out_structure(self) -> jax.ShapeDtypeStruct:
        return self.jacobian.out_structure()


@eqx.filter_jit
def _assembled(gram: Gram, dtype: jnp.dtype, keep: bool) -> tuple[Float[Array, "QN QN"], HeldFactors | None]:
    square = in_dtype(functools.partial(_square, dtype), dtype)
    if gram.jacobian.is_matrix:
        return square(gram.jacobian.held), None
    layout = make_layout(gram.jacobian, gram.structured)
    plan = plan_assembly(layout, dtype, gram.memory)
    if layout.from_held:
        return square(gram.jacobian.held), None
    factors = held_factors(gram.jacobian, layout) if plan.stored else None
    samples = []
    for block, size in enumerate(plan.block_samples):
        held = data_of(gram.jacobian, layout, block) if factors is None else factors.blocks[block]
        samples.append(Samples(held, layout, block, size))
    blocks = gram.jacobian.problem.blocks
    with jax.default_matmul_precision("highest"):
        if layout.num_shards > 1:
            return block_rows(samples, blocks, dtype), None
        arrays, static = eqx.partition(samples, eqx.is_array)
        matrix = in_dtype(lambda arrays: Assemble(dtype)(eqx.combine(arrays, static)), dtype)(arrays)
    return matrix, factors if keep and plan.kept > 0 else None


def _square(dtype: jnp.dtype, rows: Float[Array, "QN K"]) -> Float[Array, "QN QN"]:
    return jnp.matmul(rows.astype(dtype), rows.astype(dtype).T, precision=jax.lax.Precision.HIGHEST)


@eqx.filter_jit
def _diagonal(gram: Gram) -> Float[Array, "N Q"]:
    if gram.jacobian.held is not None:
        return gram.jacobian.problem.loss.arrange(jnp.sum(gram.jacobian.held**2, axis=1))
    layout = make_layout(gram.jacobian, gram.structured)
    plan = plan_assembly(layout, jnp.dtype(gram.jacobian.outputs.dtype), gram.memory, matrix=False)
    found = []
    for block, size in enumerate(plan.block_samples):
        samples = Samples(data_of(gram.jacobian, layout, block), layout, block, size)
        with jax.default_matmul_precision("highest"):
            found.append(squares(samples, gram.jacobian.problem.blocks[block]))
    return gram.jacobian.problem.loss.arrange(jnp.concatenate([piece.reshape(-1) for piece in found]))


def mean_eigenvalue(jacobian: Jacobian) -> Float[Array, ""]:
    """trace(DDᵀ)/QN, without DDᵀ."""
    return Gram(jacobian).trace() / jacobian.out_size()


@lx.materialise.register
def _(operator: Gram) -> lx.AbstractLinearOperator:
    shape = operator.jacobian.outputs.shape
    matrix = operator.as_matrix().reshape(*shape, *shape)
    return lx.TaggedLinearOperator(
        lx.PyTreeLinearOperator(matrix, operator.out_structure()), lx.positive_semidefinite_tag
    )


register(Gram, lx.is_symmetric, lx.is_positive_semidefinite)
