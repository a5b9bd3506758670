"""Costs in which samples, or single outputs, have weights."""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxgeo._checks import as_real, is_concrete
from jaxgeo.costs.base import AbstractCost, check_cost
from jaxgeo.costs.factors import AbstractFactor, DiagonalFactor, WeightedFactor
from jaxgeo.costs.squares import L2, AbstractWithTargets


class WeightedL2(AbstractWithTargets):
    """C = Σ w (x − y)² / 2N: least squares with known errors, for w = 1/σ².

    Paper: (1.7) in the metric diag(w)

    **Arguments:**

    - `targets`: y, as for `L2`.
    - `weights`: w ≥ 0, of shape (N,), (N, Q), or (1, Q) for weights of the outputs.

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

    def curvature(self, outputs: Float[Array, "N Q"]) -> DiagonalFactor:
        return DiagonalFactor(jnp.sqrt(self._weights(outputs)))

    def _weights(self, outputs: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return self.weights.astype(outputs.dtype)


class SampleWeighted(AbstractCost):
    """C = Σ_j w_j c_j / Σ_j w_j: any mean over samples, with weights. A weight of 0 takes a sample out.

    **Arguments:**

    - `cost`: the cost without weights, a mean over samples.
    - `weights`: w_j ≥ 0, of shape (N,), not all 0.

    **Raises:** `ValueError` if the weights are negative, not finite, not one a sample, or all 0.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> cost = jg.SampleWeighted(jg.L2(jnp.array([1.0, 7.0])), jnp.array([1.0, 0.0]))
    >>> float(cost(jnp.zeros((2, 1))))
    0.5

    ```
    """

    cost: AbstractCost
    weights: Float[Array, " N"]

    def __init__(self, cost: AbstractCost, weights: ArrayLike):
        check_cost(cost)
        weights = check_weights(weights)
        if weights.shape != (cost.num_samples,):
            raise ValueError(
                f"`weights` must hold one number a sample, shape ({cost.num_samples},); got {weights.shape}."
            )
        self.cost = cost
        self.weights = weights

    def __call__(self, outputs: Float[Array, "N Q"]) -> Float[Array, ""]:
        return jnp.sum(self.values(outputs)) / self.total_weight.astype(outputs.dtype)

    def gradient(self, outputs: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        share = self.weights / self.total_weight
        return self.cost.gradient(outputs) * self.cost.total_weight * share.astype(outputs.dtype)[:, None]

    def deviation(self, outputs: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return jnp.where(self.weights[:, None] > 0, self.cost.deviation(outputs), 0)

    @property
    def num_samples(self) -> int:
        return self.cost.num_samples

    def arrange(self, rows: Float[Array, " rows"]) -> Float[Array, "N Q"]:
        return self.cost.arrange(rows)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        self.cost.check_shape(shape)

    @property
    def total_weight(self) -> Float[Array, ""]:
        return jnp.sum(self.weights)

    def values(self, outputs: Float[Array, "N Q"]) -> Float[Array, " N"]:
        return self._mask(self.cost.values(outputs))

    def decreases(self, outputs: Float[Array, "N Q"], new_outputs: Float[Array, "N Q"]) -> Float[Array, " N"]:
        return self._mask(self.cost.decreases(outputs, new_outputs))

    def curvature(self, outputs: Float[Array, "N Q"]) -> AbstractFactor:
        factor = self.cost.curvature(outputs)
        if factor is None:
            factor = DiagonalFactor(jnp.ones_like(outputs))
        return WeightedFactor(jnp.sqrt(self.weights).astype(outputs.dtype), factor)

    def _mask(self, values: Float[Array, " N"]) -> Float[Array, " N"]:
        # The product alone would let a NaN of a sample without weight through.
        return jnp.where(self.weights > 0, self.weights.astype(values.dtype) * values, 0)


def check_weights(weights: ArrayLike) -> Array:
    """Weights as a floating-point array; `ValueError` where concrete ones are negative, not finite or all 0."""
    array = as_real("weights", weights)
    if is_concrete(array):
        values = np.asarray(array)
        if (values < 0).any() or not (values > 0).any():
            raise ValueError(
                f"`weights` must be ≥ 0 and not all 0; got values between {values.min()} and {values.max()}."
                if values.size
                else "`weights` is empty; pass one number a sample."
            )
    return array
