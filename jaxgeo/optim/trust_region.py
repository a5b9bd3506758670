"""A bound on the length of steps that follows how well the linearised outputs predict."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxgeo._checks import check_positive


class TrustRegion(eqx.Module):
    """The rules of MINPACK's `lmder`, for problems with few parameters.

    The step is bounded in scaled parameters. A step that gained three quarters or more of what was predicted, or was
    not held back, doubles its own length as the next bound; one that gained a quarter or less shrinks the bound by
    a factor between 2 and 10, by where the parabola through what is known of the step has its minimum.

    **Arguments:**

    - `factor`: the first bound in units of the length of the scaled parameters.
    """

    factor: float = 100.0

    def __check_init__(self):
        check_positive("factor", self.factor)

    def first(self, length: Float[Array, ""]) -> Float[Array, ""]:
        """The bound on the first step."""
        return jnp.where(length > 0, self.factor * length, jnp.asarray(self.factor, length.dtype))

    def update(
        self,
        radius: Float[Array, ""],
        length: Float[Array, ""],
        ratio: Float[Array, ""],
        slope: Float[Array, ""],
        decrease: Float[Array, ""],
        bound: Bool[Array, ""],
        finite: Bool[Array, ""],
    ) -> Float[Array, ""]:
        """The next bound.

        **Arguments:**

        - `length`: of the step that was tried.
        - `ratio`, `decrease`: its gain, relative and absolute.
        - `slope`: ∇C·δ, negative.
        - `bound`: whether the step was held back.
        - `finite`: whether the trial was.
        """
        length = jnp.where(jnp.isfinite(length), length, radius)
        parabola = 0.5 * slope / jnp.where(finite, slope + decrease, 1)
        shrink = jnp.where(decrease >= 0, 0.5, jnp.where(finite, jnp.clip(parabola, 0.1, 0.5), 0.1))
        smaller = shrink * jnp.minimum(radius, 10 * length)
        larger = jnp.where((ratio >= 0.75) | ~bound, 2 * length, radius)
        return jnp.where(ratio <= 0.25, smaller, larger)
