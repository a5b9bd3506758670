"""γ_g = tr(1 − αΣ)_gg inside a program: how many of the parameters of each group the data determine.

Σ = (βDᵀD + A)⁻¹ with the precision α of its group for each parameter. On the host, for finished parameters, see
`jaxgeo.linalg.covariance`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgeo.linalg.solvers.prior import DOUBLE


def determined_by_rows(
    grams: list[Float[Array, "n n"]], precisions: Float[Array, " groups"], beta: Float[Array, ""]
) -> tuple[Float[Array, " groups"], Float[Array, ""]]:
    """γ of each group, and |D|², from DDᵀ of each group: K ≥ QN, and every precision positive."""
    alpha, beta = precisions.astype(DOUBLE), beta.astype(DOUBLE)
    matrix = jnp.eye(len(grams[0]), dtype=DOUBLE)
    for group, gram in enumerate(grams):
        matrix = matrix + beta / alpha[group] * gram
    inverse = _inverse(matrix)
    counts = jnp.stack([beta / alpha[group] * jnp.vdot(inverse, gram) for group, gram in enumerate(grams)])
    return counts, sum((jnp.trace(gram) for gram in grams), start=jnp.zeros((), DOUBLE))


class DeterminedByColumns(eqx.Module):
    """The same, from D; `groups` has that of each parameter."""

    groups: tuple[int, ...] = eqx.field(static=True)
    num_groups: int = eqx.field(static=True)

    def __call__(
        self, matrix: Float[Array, "rows K"], precisions: Float[Array, " groups"], beta: Float[Array, ""]
    ) -> tuple[Float[Array, " groups"], Float[Array, ""]]:
        matrix, beta = matrix.astype(DOUBLE), beta.astype(DOUBLE)
        groups = jnp.asarray(self.groups)
        square = matrix.T @ matrix
        root = jax.lax.rsqrt(precisions.astype(DOUBLE))[groups]
        inverse = _inverse(jnp.eye(len(square), dtype=DOUBLE) + beta * root[:, None] * square * root[None])
        counts = jnp.zeros(self.num_groups, DOUBLE).at[groups].add(1 - jnp.diagonal(inverse))
        return counts, jnp.trace(square)


def _inverse(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    lower = jnp.linalg.cholesky(matrix)
    return jax.scipy.linalg.cho_solve((lower, True), jnp.eye(len(matrix), dtype=matrix.dtype))
