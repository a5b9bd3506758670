"""Scaling of the parameters, for problems whose parameters differ by orders of magnitude."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgeo._fields import NOT_NEGATIVE, Checked, count, number
from jaxgeo.linalg.tangents import norm


class ColumnScaling(Checked):
    """Moré's scaling: the unit of each parameter is 1 / the largest recent norm of its column of D.

    It makes Levenberg–Marquardt independent of the units of the parameters. It is used if K ≤ QN and K ≤ `max_params`.
    D is then small enough to be built for its column norms, and no column can be traded for others, as it could be in a
    network with more parameters than outputs.

    In these units alone, a parameter θ_j whose column has all but vanished could grow to any size at no cost. So its
    unit is at most |θ_j|/(`influence` |r|), where r is the residual. A step of the length of the residual then changes
    a nonzero parameter by at most 1/`influence` times its size.

    Reference: J. J. Moré, The Levenberg–Marquardt algorithm: implementation and theory, 1978, Lecture Notes in
    Mathematics 630, Section 6

    **Arguments:**

    - `max_params`: with more parameters than this, none are scaled.
    - `memory`: the fraction of the largest norm that is kept from step to step. A column that was large far from the
        solution then does not shorten the steps near the solution for ever. 1 gives MINPACK's rule.
    - `influence`: see above; 0 to use the columns alone.
    - `collapse`: forget the largest norm if it exceeds the present norm of the column by more than this factor, as
        happens after a start where the outputs nearly overflow.
    """

    max_params: int = eqx.field(static=True, default=1024, metadata=count(0))
    memory: float = eqx.field(default=0.97, metadata=number(least=0, most=1))
    influence: float = eqx.field(default=0.02, metadata=NOT_NEGATIVE)
    collapse: float = eqx.field(default=1e4, metadata=number(least=1))

    def init(self, size: int, dtype: jnp.dtype) -> Float[Array, " K"]:
        """No norm seen yet; empty if K is too large."""
        return jnp.zeros((size if size <= self.max_params else 0,), dtype)

    def __call__(
        self,
        matrix: Float[Array, "rows K"],
        largest: Float[Array, " K"],
        params: Float[Array, " K"],
        residual: Float[Array, "..."],
    ) -> tuple[Float[Array, " K"], Float[Array, " K"]]:
        """The scales S, such that the columns of DS have norm at most 1, and the largest norms so far."""
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
