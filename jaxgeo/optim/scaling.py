"""Scales of the parameters, for problems whose parameters differ by orders of magnitude."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgeo._fields import NOT_NEGATIVE, Checked, count, number
from jaxgeo.linalg.tangents import norm


class ColumnScaling(Checked):
    """Moré's scaling: each parameter in units of 1 / the largest norm its column of D has had lately.

    Makes Levenberg–Marquardt independent of the units of the parameters. Used where K ≤ QN and K ≤ `max_params`: there
    D is small enough to be built for its column norms, and no single column can be traded for others, as it can
    in a network with more parameters than outputs.

    A parameter θ_j whose column has all but vanished would run off to any size, at no cost in these units. So a unit is
    at most 1/`influence` times |θ_j|/|r|, r being the residual: a step of the length of the residual then changes a
    parameter other than 0 by at most so many times itself.

    Reference: J. J. Moré, The Levenberg–Marquardt algorithm: implementation and theory, 1978, Lecture Notes in
    Mathematics 630, Section 6

    **Arguments:**

    - `max_params`: with more parameters none are scaled.
    - `memory`: what part of the largest norm is remembered from step to step, so that a column that was large far from
        the solution does not shorten the steps near it for good. 1 for MINPACK's.
    - `influence`: 0 for units by the columns alone.
    - `collapse`: the largest norm is forgotten where it is more than so many times that of the column as it is, as
        after a start where the outputs nearly overflow.
    """

    max_params: int = eqx.field(static=True, default=1024, metadata=count(0))
    memory: float = eqx.field(default=0.97, metadata=number(least=0, most=1))
    influence: float = eqx.field(default=0.02, metadata=NOT_NEGATIVE)
    collapse: float = eqx.field(default=1e4, metadata=number(least=1))

    def init(self, size: int, dtype: jnp.dtype) -> Float[Array, " K"]:
        """No norm seen yet; empty where K is too large."""
        return jnp.zeros((size if size <= self.max_params else 0,), dtype)

    def __call__(
        self,
        matrix: Float[Array, "rows K"],
        largest: Float[Array, " K"],
        params: Float[Array, " K"],
        residual: Float[Array, "..."],
    ) -> tuple[Float[Array, " K"], Float[Array, " K"]]:
        """The scales S, so that DS has columns of norm 1 at most, and the largest norms so far."""
        norms = column_norms(matrix).astype(largest.dtype)
        largest = jnp.where(norms > 0, jnp.minimum(self.memory * largest, self.collapse * norms), self.memory * largest)
        largest = jnp.maximum(largest, jnp.where(jnp.isfinite(norms), norms, 0))
        size = jnp.abs(params.astype(largest.dtype))
        least = self.influence * norm(residual).astype(largest.dtype) / jnp.where(size > 0, size, 1)
        units = jnp.maximum(largest, jnp.where((size > 0) & jnp.isfinite(least), least, 0))
        return (1 / jnp.where(units > 0, units, 1)).astype(matrix.dtype), largest


def column_norms(matrix: Float[Array, "rows K"]) -> Float[Array, " K"]:
    """|D_j| for each parameter."""
    return jax.vmap(norm, in_axes=1)(matrix)
