"""Lifts through the singular values of a D of few columns: cut off, or damped to a given length."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int


class SingularValues(eqx.Module):
    """D = QUΣVᵀ for K ≤ QN, of which both kinds of lift are made.

    - `orthogonal`: Q; `left`: U, apart from Q because their product takes longer than all that is done with it;
      `values`: the diagonal of Σ, falling; `right`: Vᵀ.
    """

    orthogonal: Float[Array, "rows K"]
    left: Float[Array, "K K"]
    values: Float[Array, " K"]
    right: Float[Array, "K K"]

    def relative(self) -> Float[Array, " K"]:
        """The values in units of the largest, so that no square overflows."""
        return self.values / jnp.where(self.values[0] > 0, self.values[0], 1)

    @property
    def round_off(self) -> float:
        """Below which part of the largest singular value nothing is known, as for a numerical rank."""
        return len(self.orthogonal) * float(jnp.finfo(self.values.dtype).eps)

    def coefficients(self, velocity: Float[Array, " rows"]) -> Float[Array, " K"]:
        """UᵀQᵀv."""
        return (velocity @ self.orthogonal) @ self.left

    def kept(self, cutoff: Float[Array, ""]) -> Bool[Array, " K"]:
        """Which singular values exceed `cutoff` times the largest."""
        return (self.relative() > cutoff) & (self.values > 0)

    def lift(self, velocity: Float[Array, " rows"], kept: Bool[Array, " K"]) -> Float[Array, " K"]:
        """D⁺v through the directions that are kept.

        Paper: (4.5)
        """
        return (jnp.where(kept, self.coefficients(velocity) / jnp.where(kept, self.values, 1), 0)) @ self.right

    def damped_lift(
        self, velocity: Float[Array, " rows"], shift: Float[Array, ""], among: Bool[Array, " K"] | None = None
    ) -> Float[Array, " K"]:
        """Dᵀ(DDᵀ + λ)⁻¹v for λ = `shift` · σ₁², through all directions or those of `among`."""
        largest = jnp.where(self.values[0] > 0, self.values[0], 1)
        relative = self.relative()
        lift = relative * self.coefficients(velocity) / (relative**2 + shift) / largest
        return (lift if among is None else jnp.where(among, lift, 0)) @ self.right

    def damping_for_length(
        self, velocity: Float[Array, " rows"], length: Float[Array, ""], among: Bool[Array, " K"] | None = None
    ) -> Float[Array, ""]:
        """The λ/σ₁² for which the damped lift of v, through all directions or those of `among`, has this length.

        The least that keeps singular values below round-off out, of relative size eps, where the lift is no longer
        than that anyway. The length falls monotonically with λ, and 1/length is nearly linear in it; so Newton's
        method on 1/length from below needs few steps, each of K multiplications.
        """
        coefficients, relative = self.coefficients(velocity), self.relative()
        coefficients = coefficients if among is None else jnp.where(among, coefficients, 0)
        wanted = length * jnp.where(self.values[0] > 0, self.values[0], 1)
        floor = jnp.finfo(relative.dtype).eps ** 2

        def measure(shift: Float[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
            lift = relative * coefficients / (relative**2 + shift)
            size = jnp.linalg.norm(lift)
            slope = -jnp.sum(lift**2 / (relative**2 + shift)) / jnp.where(size > 0, size, 1)
            return size, slope

        def newton(_: Int[ArrayLike, ""], shift: Float[Array, ""]) -> Float[Array, ""]:
            size, slope = measure(shift)
            step = (wanted - size) / slope * size / wanted
            return jnp.where((size > wanted) & jnp.isfinite(step), shift + step, shift)

        return jax.lax.fori_loop(0, 40, newton, jnp.asarray(floor, relative.dtype))


def singular_values(orthogonal: Float[Array, "rows K"], triangle: Float[Array, "K K"]) -> SingularValues:
    """Of D = QR, from the factors: for many rows that takes less than a decomposition at once."""
    left, values, right = jnp.linalg.svd(triangle, full_matrices=False)
    return SingularValues(orthogonal, left, values, right)
