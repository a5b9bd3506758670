"""D = ∂x/∂θ as a linear operator: products from one linearisation, the matrix from per-sample Jacobians."""

import functools
from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from jaxgeo.linalg.memory import array_bytes
from jaxgeo.linalg.one_way import CHUNK_ENTRIES, both_ways, both_ways_of, in_reverse, one_ways, pulled
from jaxgeo.linalg.precision import without_tf32
from jaxgeo.outputs import AbstractProblem, Block, Params


class Jacobian(lx.AbstractLinearOperator):
    """D: parameter velocities (a pytree like the trainable part of params) → output velocities (N, Q).

    Paper: (1.17)

    `mv` is a JVP and `T.mv` a VJP of one linearisation, which is computed here. `outputs` is x[θ], a by-product.

    If a network has derivatives in one mode only, D is computed in this mode, sample by sample, together with the
    outputs, and held for all products: `held` is then D, and otherwise None. Under `jax.jit` D is computed only if it
    is used. Pass it together with the outputs as `known` where a caller has both.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: a * x, jnp.array([1.0, 2.0]), jg.L2(jnp.zeros(2)))
    >>> problem.jacobian(jnp.array(3.0)).as_matrix().tolist()
    [[1.0], [2.0]]

    ```
    """

    problem: AbstractProblem
    trainable: PyTree
    frozen: PyTree
    outputs: Float[Array, "N Q"]
    linear: lx.FunctionLinearOperator
    held: Float[Array, "QN K"] | None

    def __init__(
        self,
        problem: AbstractProblem,
        params: Params,
        known: tuple[Float[Array, "QN K"], Float[Array, "N Q"]] | None = None,
    ):
        self.problem = both_ways(problem, params)
        self.trainable, self.frozen = problem.partition(params)
        # TF32 matrix products inside the user's network would limit the accuracy of D to about 5e-4.
        with jax.default_matmul_precision("highest"):
            # Each evaluation of such a network, often a solver of a differential equation, is expensive to compile.
            if known is None and one_ways(self.problem.blocks):
                known = rows_and_outputs(self.problem, self.trainable, self.frozen)
            if known is None:
                self.held = None
                self.outputs, product = jax.linearize(_outputs(self.problem, self.frozen), self.trainable)
            else:
                self.held, self.outputs = known
                product = functools.partial(_product, self.held, self.outputs.shape)
            self.linear = lx.FunctionLinearOperator(product, self.in_structure())

    def mv(self, vector: PyTree) -> Float[Array, "N Q"]:
        return self.linear.mv(vector)

    def transpose(self) -> lx.FunctionLinearOperator:
        return self.linear.transpose()

    def pull(self, velocity: Float[Array, "N Q"]) -> PyTree:
        """Dᵀ times an output velocity, for a caller that needs no other product: D itself is never computed."""
        own = one_ways(self.problem.blocks)
        if own and all(network.reverse for network in own):
            with jax.default_matmul_precision("highest"):
                return pulled(self.problem, self.trainable, self.frozen, velocity)
        return self.transpose().mv(velocity)

    @property
    def is_matrix(self) -> bool:
        """Whether D is held and the parameters are one vector: then all algebra is that of matrices."""
        return self.held is not None and eqx.is_array(self.trainable) and self.trainable.ndim == 1

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        return jax.eval_shape(lambda: self.trainable)

    def out_structure(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.outputs.shape, self.outputs.dtype)

    def activations(self) -> int:
        """Bytes that the linearisation keeps besides the parameters, on all devices together; of D if it is held."""
        return max(array_bytes(self.linear) - array_bytes(self.trainable), 0)

    def unravel(self, vector: Float[Array, " K"]) -> PyTree:
        """A vector of K numbers, in the order of the columns of D, as a pytree like the trainable parameters."""
        return ravel_pytree(self.trainable)[1](vector)

    def embed(self, velocity: PyTree) -> PyTree:
        """A velocity of the trainable part as one of params: zero at frozen arrays, None at keys and non-arrays."""
        return embed(velocity, self.frozen)

    def as_matrix(
        self, *, mode: Literal["auto", "forward", "reverse"] = "auto", chunk_size: int | None = None
    ) -> Float[Array, "QN K"]:
        """D as one array, by `jax.jacfwd` or `jax.jacrev` under `vmap` over samples.

        **Arguments:**

        - `mode`: "forward" costs K products per sample, "reverse" Q; "auto" takes the cheaper one, or the only one that
            the network has.
        - `chunk_size`: how many samples to differentiate at a time; all at once by default.
        """
        if self.held is not None and mode == "auto" and chunk_size is None:
            return self.held
        return jnp.concatenate(
            [sample_rows(block, self.trainable, self.frozen, mode, chunk_size) for block in self.problem.blocks]
        )


def embed(velocity: PyTree, frozen: PyTree) -> PyTree:
    """A velocity of the trainable part as one of params, as `Jacobian.embed`."""

    def zero(leaf: PyTree) -> Array | None:
        number = eqx.is_array(leaf) and not jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
        return jnp.zeros_like(leaf) if number else None

    return eqx.combine(velocity, jax.tree.map(zero, frozen))


def sample_rows(
    block: Block, trainable: PyTree, frozen: PyTree, mode: str = "auto", chunk_size: int | None = None
) -> Float[Array, "rows K"]:
    """The rows of D for the samples of a block, as in `Jacobian.as_matrix`."""
    return _rows_and_outputs(block, trainable, frozen, mode, chunk_size)[0]


@without_tf32
def _rows_and_outputs(
    block: Block, trainable: PyTree, frozen: PyTree, mode: str, chunk_size: int | None
) -> tuple[Float[Array, "rows K"], Float[Array, " rows"]]:
    block = both_ways_of(block, trainable, frozen)
    if (own := one_ways(block)) and mode == "auto":
        mode = "reverse" if all(network.reverse for network in own) else "forward"
    if mode == "reverse":
        block = in_reverse(block)

    def outputs(trainable: PyTree, sample: PyTree) -> tuple[Float[Array, " Q"], Float[Array, " Q"]]:
        rows = block.rows(eqx.combine(trainable, frozen), sample)
        return rows, rows

    if mode == "auto":
        num_outputs = jax.eval_shape(outputs, trainable, block.sample())[0].size
        # A VJP costs about two JVPs: it also forms the gradient of every leaf.
        size = sum(leaf.size for leaf in jax.tree.leaves(trainable))
        mode = "forward" if size <= 2 * num_outputs else "reverse"
    derivative = {"forward": jax.jacfwd, "reverse": jax.jacrev}[mode](outputs, has_aux=True)
    if chunk_size is None:
        found = jax.vmap(derivative, in_axes=(None, 0))(trainable, block.inputs)
    else:
        found = jax.lax.map(lambda sample: derivative(trainable, sample), block.inputs, batch_size=chunk_size)
    rows, values = jax.tree.map(lambda leaf: leaf[: block.num_samples], found)
    values = values.reshape(-1)
    dtype = jnp.result_type(*jax.tree.leaves(trainable))
    parts = [leaf.reshape(values.size, -1).astype(dtype) for leaf in jax.tree.leaves(rows)]
    return jnp.concatenate(parts, axis=1), values


def _outputs(problem: AbstractProblem, frozen: PyTree) -> Callable[[PyTree], Float[Array, "N Q"]]:
    return lambda trainable: problem.outputs(eqx.combine(trainable, frozen))


def rows_and_outputs(
    problem: AbstractProblem, trainable: PyTree, frozen: PyTree
) -> tuple[Float[Array, "QN K"], Float[Array, "N Q"]]:
    """D and the outputs, computed for some samples at a time, so that little else is held."""
    found, params = [], eqx.combine(trainable, frozen)
    size = sum(leaf.size for leaf in jax.tree.leaves(trainable))
    for block in problem.blocks:
        height = eqx.filter_eval_shape(block.rows, params, block.sample()).size
        chunk = max(1, CHUNK_ENTRIES // (height * size))
        whole = block.sharding is not None or chunk >= block.num_samples
        found.append(_rows_and_outputs(block, trainable, frozen, "auto", None if whole else chunk))
    rows, values = (jnp.concatenate(parts) for parts in zip(*found, strict=True))
    return rows, problem.loss.arrange(values)


def _product(rows: Float[Array, "QN K"], shape: tuple[int, ...], vector: PyTree) -> Float[Array, "N Q"]:
    return jnp.matmul(rows, ravel_pytree(vector)[0], precision=jax.lax.Precision.HIGHEST).reshape(shape)


@lx.materialise.register
def _(operator: Jacobian) -> lx.PyTreeLinearOperator:
    rows = jax.vmap(operator.unravel)(operator.as_matrix())
    shape = operator.outputs.shape
    return lx.PyTreeLinearOperator(
        jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), rows), operator.out_structure()
    )


def register(operator: type[lx.AbstractLinearOperator], *holding: Callable) -> None:
    """Tell lineax that a real operator is its own linearisation, and which properties it has."""
    for same in (lx.linearise, lx.conj):
        same.register(operator)(lambda operator: operator)
    for question in (
        lx.is_symmetric,
        lx.is_diagonal,
        lx.is_tridiagonal,
        lx.has_unit_diagonal,
        lx.is_lower_triangular,
        lx.is_upper_triangular,
        lx.is_positive_semidefinite,
        lx.is_negative_semidefinite,
    ):
        question.register(operator)(lambda _, holds=question in holding: holds)


register(Jacobian)
