"""How much to damp a lift, for a velocity of a given length."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxgeo.linalg.jacobian import Jacobian


def damping_for_length(jacobian: Jacobian, velocity: Float[Array, "N Q"], length: Float[Array, ""]) -> Float[Array, ""]:
    """The damping for which |Dᵀ(DDᵀ + λ)⁻¹v| is `length`, relative to trace(DDᵀ)/QN.

    The least that keeps singular values below round-off out, of relative size eps, where the lift is no longer than
    that anyway. The length falls monotonically with λ, and 1/length is nearly linear in it; so Newton's method on
    1/length from below needs few steps, each of K multiplications, after one singular value decomposition of D. For
    a D of few columns.
    """
    matrix = jacobian.as_matrix()
    u, values, _ = jnp.linalg.svd(matrix, full_matrices=False)
    coefficients = u.T @ velocity.reshape(-1)
    largest = jnp.where(values[0] > 0, values[0], 1)
    # In units of the largest singular value, so that no square overflows.
    values = values / largest
    wanted = length * largest
    floor = jnp.finfo(matrix.dtype).eps ** 2

    def measure(shift: Float[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        lift = values * coefficients / (values**2 + shift)
        size = jnp.linalg.norm(lift)
        slope = -jnp.sum(lift**2 / (values**2 + shift)) / jnp.where(size > 0, size, 1)
        return size, slope

    def newton(_: Int[ArrayLike, ""], shift: Float[Array, ""]) -> Float[Array, ""]:
        size, slope = measure(shift)
        step = (wanted - size) / slope * size / wanted
        return jnp.where((size > wanted) & jnp.isfinite(step), shift + step, shift)

    shift = jax.lax.fori_loop(0, 40, newton, jnp.asarray(floor, matrix.dtype))
    return shift * len(matrix) / jnp.sum(values**2)
