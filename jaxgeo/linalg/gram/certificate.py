"""Check an assembled DDᵀ against products with D, which do not depend on the assembly."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.one_way import contents_of
from jaxgeo.linalg.precision import in_dtype, without_tf32
from jaxgeo.linalg.tangents import norm

FAULT = (
    "DDᵀ, assembled from the factors of each leaf, contradicts products with D: the network uses its parameters in a "
    "way that was misread. This is a fault of jaxgeo; please report the network."
)


def half_the_digits(*dtypes: jnp.dtype) -> float:
    """The square root of the largest round-off: how much an assembled DDᵀ and products with D may differ."""
    return max(float(jnp.finfo(dtype).eps) for dtype in dtypes) ** 0.5


def product_dtypes(jacobian: Jacobian) -> set[jnp.dtype]:
    """The dtypes that products with D go through: those of the outputs and the leaves, and of all between them."""
    leaves = {leaf.dtype for leaf in jax.tree.leaves(jacobian.trainable)}
    parts = jacobian.trainable, jacobian.frozen
    return leaves.union(
        {jacobian.outputs.dtype}, *(contents_of(block, *parts).dtypes for block in jacobian.problem.blocks)
    )


def is_noise(row: Float[Array, ""]) -> Bool[Array, ""]:
    """Whether rows of D of this length may be round-off of terms of order one that cancel.

    Two ways to compute such a D disagree, although neither is wrong.
    """
    return row < 30 * float(jnp.finfo(row.dtype).eps)


def certified(jacobian: Jacobian, matrix: Float[Array, "QN QN"]) -> Float[Array, "QN QN"]:
    """`matrix`, after checking that it is DDᵀ: u·Gu is compared with |Dᵀu|² for a random u.

    Both are sums of squares if it is. The error E of a wrong matrix shows with probability 1, as |u·Eu|/u·Gu, which is
    about |E|/trace(G) in the Frobenius norm.

    **Raises:** a runtime error if the two differ by more than half of their digits.
    """
    outputs = jacobian.outputs
    vector = jax.random.normal(jax.random.key(0), outputs.shape, outputs.dtype)
    with jax.default_matmul_precision("highest"):
        pulled = jacobian.T.mv(vector)
    squares = norm(pulled) ** 2
    quadratic = in_dtype(_quadratic, matrix.dtype)(jax.lax.stop_gradient(matrix), vector.reshape(-1))
    squares = jax.lax.stop_gradient(squares)
    wrong = _differ(quadratic, squares, half_the_digits(matrix.dtype, *product_dtypes(jacobian)))
    wrong = wrong & ~is_noise(jnp.sqrt(jnp.maximum(quadratic, squares) / outputs.size))
    # The error goes with `wrong`, not the matrix: without x64 a callback cannot return a float64 matrix.
    wrong = eqx.error_if(
        wrong,
        wrong,
        f"{FAULT} `Gram(jacobian, structured=False)` and `jaxgeo.linalg.DenseCholesky()` do without the factors.",
    )
    return in_dtype(_unless, matrix.dtype)(matrix, wrong)


def _unless(matrix: Float[Array, "n n"], wrong: Bool[Array, ""]) -> Float[Array, "n n"]:
    return jnp.where(wrong, jnp.nan, matrix)


@without_tf32
def _quadratic(matrix: Float[Array, "n n"], vector: Float[Array, " n"]) -> Float[Array, ""]:
    wide = vector.astype(matrix.dtype)
    return (wide @ matrix @ wide).astype(vector.dtype)


def _differ(claimed: Float[Array, ""], true: Float[Array, ""], tolerance: float) -> Bool[Array, ""]:
    """Whether two finite numbers differ; numbers that are not finite are checked elsewhere."""
    return jnp.abs(claimed - true) > tolerance * jnp.maximum(jnp.abs(claimed), jnp.abs(true))
