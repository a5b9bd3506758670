"""Scales of the parameters, for problems whose parameters differ by orders of magnitude."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgeo._checks import check_count
from jaxgeo.linalg.tangents import norm


class ColumnScaling(eqx.Module):
    """Moré's scaling: each parameter in units of 1 / the largest norm its column of D has had so far.

    Makes Levenberg–Marquardt independent of the units of the parameters. Used where K < QN and K ≤ `max_params`: there
    D is small enough to be built for its column norms, and no single column can be traded for others, as it can
    in a network with more parameters than outputs.

    Reference: J. J. Moré, The Levenberg–Marquardt algorithm: implementation and theory, 1978, Lecture Notes in
    Mathematics 630, Section 6
    """

    max_params: int = eqx.field(static=True, default=1024)

    def __check_init__(self):
        check_count("max_params", self.max_params, least=0)

    def init(self, size: int, dtype: jnp.dtype) -> Float[Array, " K"]:
        """No norm seen yet; empty where K is too large."""
        return jnp.zeros((size if size <= self.max_params else 0,), dtype)

    def __call__(
        self, matrix: Float[Array, "rows K"], largest: Float[Array, " K"]
    ) -> tuple[Float[Array, " K"], Float[Array, " K"]]:
        """The scales S, so that DS has columns of norm 1 at most, and the largest norms so far."""
        norms = jax.vmap(norm, in_axes=1)(matrix).astype(largest.dtype)
        largest = jnp.maximum(largest, jnp.where(jnp.isfinite(norms), norms, 0))
        return (1 / jnp.where(largest > 0, largest, 1)).astype(matrix.dtype), largest
