"""Least squares with a weight for each output."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxgeo.costs.roots import DiagonalRoot
from jaxgeo.costs.samples import check_weights
from jaxgeo.costs.squares import L2, AbstractWithTargets


class WeightedL2(AbstractWithTargets):
    """C = Σ w (x − y)² / 2N: least squares with known errors, for w = 1/σ².

    Paper: (1.7) in the metric diag(w)

    **Arguments:**

    - `targets`: y, as for `L2`.
    - `weights`: w ≥ 0, of shape (N,), (N, Q), or (1, Q) to weight the columns.

    **Raises:** `ValueError` as for `L2`, and if weights are negative, not finite, or of another shape.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> cost = jg.WeightedL2(jnp.array([1.0, 1.0]), jnp.array([1.0, 3.0]))
    >>> float(cost(jnp.zeros((2, 1))))
    1.0

    ```
    """

    squares: L2
    weights: Float[Array, "N Q"]

    def __init__(self, targets: ArrayLike, weights: ArrayLike):
        self.squares = L2(targets)
        shape = self.squares.targets.shape
        weights = check_weights(weights)
        if weights.ndim == 1:
            weights = weights[:, None]
        if weights.ndim != 2 or any(size not in (1, full) for size, full in zip(weights.shape, shape, strict=True)):
            raise ValueError(
                f"`weights` must have shape (N,), (N, Q) or (1, Q) with (N, Q)={shape}; got {weights.shape}."
            )
        self.weights = jnp.broadcast_to(weights, shape).astype(self.squares.targets.dtype)

    def gradient(self, outputs: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return self._weights(outputs) * self.squares.gradient(outputs)

    def deviation(self, outputs: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return jnp.where(self.weights > 0, self.squares.deviation(outputs), 0)

    def values(self, outputs: Float[Array, "N Q"]) -> Float[Array, " N"]:
        return 0.5 * jnp.sum(self._weights(outputs) * self.squares.deviation(outputs) ** 2, axis=1)

    def decreases(self, outputs: Float[Array, "N Q"], new_outputs: Float[Array, "N Q"]) -> Float[Array, " N"]:
        total = self.squares.deviation(outputs) + self.squares.deviation(new_outputs)
        return 0.5 * jnp.sum(self._weights(outputs) * (outputs - new_outputs) * total, axis=1)

    def curvature(self, outputs: Float[Array, "N Q"]) -> DiagonalRoot:
        return DiagonalRoot(jnp.sqrt(self._weights(outputs)))

    def take(self, index: Int[ArrayLike, " kept"]) -> "WeightedL2":
        return WeightedL2(self.squares.take(index).given, self.weights[index])

    def _weights(self, outputs: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return self.weights.astype(outputs.dtype)
