"""Costs that grow more slowly than squares, so that outliers count for less: those of SciPy's `least_squares`."""

import abc

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxgeo._checks import MOST, check_number
from jaxgeo.costs.roots import DiagonalRoot
from jaxgeo.costs.squares import L2, AbstractWithTargets

# `curvature` is at least this fraction of the curvature of the parabola that touches from above.
LEAST_CURVATURE = 0.1


class AbstractRobust(AbstractWithTargets):
    """C = Σ h(x − y) / N with h(r) = s²ρ(r²/s²)/2, for a ρ that is concave, with ρ(z) ≈ z for small z.

    s is the `scale`, SciPy's `f_scale`: below it h is about r²/2. The second derivative h″ = ρ′ + 2zρ″ is small or
    negative for outliers. `curvature` is therefore h″, but at least a tenth of ρ′, the curvature of the parabola that
    touches h at ±r from above. This is positive, and steps near a minimum are almost Newton steps.
    """

    squares: L2
    scale: float | Float[Array, ""]

    def __init__(self, targets: ArrayLike, scale: float | Float[Array, ""] = 1.0):
        check_number("scale", scale, above=0, most=MOST)
        self.squares, self.scale = L2(targets), scale

    @abc.abstractmethod
    def rho(self, z: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        """ρ(z) for z ≥ 0."""

    @abc.abstractmethod
    def slope(self, z: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        """ρ′(z)."""

    @abc.abstractmethod
    def bend(self, z: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        """ρ′(z) + 2zρ″(z), which is h″."""

    @abc.abstractmethod
    def fall(self, z: Float[Array, "N Q"], gap: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        """ρ(z + gap) − ρ(z), without cancellation for a small gap."""

    def deviation(self, outputs: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return self.squares.deviation(outputs)

    def gradient(self, outputs: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return self.slope(self._relative(outputs) ** 2) * self.squares.gradient(outputs)

    def values(self, outputs: Float[Array, "N Q"]) -> Float[Array, " N"]:
        return 0.5 * self._unit(outputs) ** 2 * jnp.sum(self.rho(self._relative(outputs) ** 2), axis=1)

    def decreases(self, outputs: Float[Array, "N Q"], new_outputs: Float[Array, "N Q"]) -> Float[Array, " N"]:
        unit, old, new = self._unit(outputs), self._relative(outputs), self._relative(new_outputs)
        gap = (outputs - new_outputs) / unit * (old + new)
        return 0.5 * unit**2 * jnp.sum(self.fall(new**2, gap), axis=1)

    def curvature(self, outputs: Float[Array, "N Q"]) -> DiagonalRoot:
        z = self._relative(outputs) ** 2
        return DiagonalRoot(jnp.sqrt(jnp.maximum(self.bend(z), LEAST_CURVATURE * self.slope(z))))

    def _unit(self, outputs: Float[Array, "N Q"]) -> Float[Array, ""]:
        return jnp.asarray(self.scale, outputs.dtype)

    def _relative(self, outputs: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return self.squares.deviation(outputs) / self._unit(outputs)


class SoftL1(AbstractRobust):
    """C = Σ s²(√(1 + (x − y)²/s²) − 1) / N: squares for small deviations, absolute values for outliers, smoothly.

    **Arguments:**

    - `targets`: y, as for `L2`.
    - `scale`: s > 0, in the unit of the outputs, above which a deviation is an outlier.

    **Raises:** `ValueError` as for `L2`, and if `scale` is not positive and finite.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> round(float(jg.SoftL1(jnp.array([0.0]))(jnp.array([[3.0**0.5]]))), 12)
    1.0

    ```
    """

    def rho(self, z: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return 2 * z / (jnp.sqrt(1 + z) + 1)

    def slope(self, z: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return 1 / jnp.sqrt(1 + z)

    def bend(self, z: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return self.slope(z) ** 3

    def fall(self, z: Float[Array, "N Q"], gap: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return 2 * gap / (jnp.sqrt(1 + z) + jnp.sqrt(1 + z + gap))


class Cauchy(AbstractRobust):
    """C = Σ s² log(1 + (x − y)²/s²) / 2N: far outliers count less and less, so there may be several minima.

    **Arguments:**

    - `targets`: y, as for `L2`.
    - `scale`: s > 0, in the unit of the outputs, above which a deviation is an outlier.

    **Raises:** `ValueError` as for `L2`, and if `scale` is not positive and finite.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> round(float(jg.Cauchy(jnp.array([0.0]))(jnp.array([[1.0]]))), 4)
    0.3466

    ```
    """

    def rho(self, z: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return jnp.log1p(z)

    def slope(self, z: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return 1 / (1 + z)

    def bend(self, z: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return (1 - z) / (1 + z) ** 2

    def fall(self, z: Float[Array, "N Q"], gap: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return jnp.log1p(gap / (1 + z))


class Arctan(AbstractRobust):
    """C = Σ s² arctan((x − y)²/s²) / 2N: an outlier costs no more than πs²/4, so there may be several minima.

    **Arguments:**

    - `targets`: y, as for `L2`.
    - `scale`: s > 0, in the unit of the outputs, above which a deviation is an outlier.

    **Raises:** `ValueError` as for `L2`, and if `scale` is not positive and finite.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> round(float(jg.Arctan(jnp.array([0.0]))(jnp.array([[1.0]]))), 4)
    0.3927

    ```
    """

    def rho(self, z: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return jnp.arctan(z)

    def slope(self, z: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return 1 / (1 + z**2)

    def bend(self, z: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return (1 - 3 * z**2) / (1 + z**2) ** 2

    def fall(self, z: Float[Array, "N Q"], gap: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return jnp.arctan(gap / (1 + z * (z + gap)))
