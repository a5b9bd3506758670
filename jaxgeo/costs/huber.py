"""The Huber cost: squares for small deviations, absolute values for outliers."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxgeo._checks import check_number
from jaxgeo.costs.roots import DiagonalRoot
from jaxgeo.costs.squares import L2, AbstractWithTargets


class Huber(AbstractWithTargets):
    """C = Σ h(x − y) / N with h(r) = r²/2 for |r| ≤ δ, and δ(|r| − δ/2) beyond.

    The second derivative of h is 0 beyond δ, so Newton steps would be unbounded there. `curvature` is therefore
    h′(r)/r = min(1, δ/|r|), the curvature of the parabola that touches h at ±r from above. A full step in this metric
    is a step of iteratively reweighted least squares, and never raises the cost if the outputs are linear in θ.

    **Arguments:**

    - `targets`: y, as for `L2`.
    - `threshold`: δ > 0, in the unit of the outputs.

    **Raises:** `ValueError` as for `L2`, and if `threshold` is not positive.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> cost = jg.Huber(jnp.array([0.0, 0.0]), 1.0)
    >>> float(cost(jnp.array([[1.0], [3.0]])))
    1.5

    ```
    """

    squares: L2
    threshold: float | Float[Array, ""]

    def __init__(self, targets: ArrayLike, threshold: float | Float[Array, ""] = 1.0):
        check_number("threshold", threshold, above=0)
        self.squares = L2(targets)
        self.threshold = threshold

    def gradient(self, outputs: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        threshold = jnp.asarray(self.threshold, outputs.dtype)
        return jnp.clip(self.deviation(outputs), -threshold, threshold) / self.num_samples

    def deviation(self, outputs: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return self.squares.deviation(outputs)

    def values(self, outputs: Float[Array, "N Q"]) -> Float[Array, " N"]:
        return jnp.sum(self._penalty(self.deviation(outputs)), axis=1)

    def decreases(self, outputs: Float[Array, "N Q"], new_outputs: Float[Array, "N Q"]) -> Float[Array, " N"]:
        threshold = jnp.asarray(self.threshold, outputs.dtype)
        old, new = self.deviation(outputs), self.deviation(new_outputs)
        inside = (jnp.abs(old) <= threshold) & (jnp.abs(new) <= threshold)
        beyond = (old * new > 0) & (jnp.abs(old) >= threshold) & (jnp.abs(new) >= threshold)
        # Both on the parabola, both on the same straight line, or on different pieces.
        fallen = jnp.where(inside, 0.5 * (old + new), jnp.sign(old) * threshold) * (outputs - new_outputs)
        return jnp.sum(jnp.where(inside | beyond, fallen, self._penalty(old) - self._penalty(new)), axis=1)

    def curvature(self, outputs: Float[Array, "N Q"]) -> DiagonalRoot:
        threshold = jnp.asarray(self.threshold, outputs.dtype)
        return DiagonalRoot(jnp.sqrt(threshold / jnp.maximum(jnp.abs(self.deviation(outputs)), threshold)))

    def _penalty(self, deviation: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        threshold = jnp.asarray(self.threshold, deviation.dtype)
        small = jnp.minimum(jnp.abs(deviation), threshold)
        return small * (jnp.abs(deviation) - 0.5 * small)
