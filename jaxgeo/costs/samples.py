"""Costs with a weight for each sample."""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from jaxgeo._checks import as_real, is_concrete
from jaxgeo._sums import total
from jaxgeo.costs.base import AbstractCost, check_cost
from jaxgeo.costs.roots import AbstractRoot, DiagonalRoot, WeightedRoot


class SampleWeighted(AbstractCost):
    """C = Σ_j w_j c_j / Σ_j w_j: any mean over samples, with weights. A weight of 0 takes a sample out.

    The rows of D for such a sample do not count either: in lifts, flows and optimizers they are rows of 0. With
    weights of 0 and 1, deviations decay along the adapted flow as e^{-s/W}, where W = Σ_j w_j takes the place of N, as
    if the samples without weight were not there.

    **Arguments:**

    - `cost`: a mean over samples; if it has weights already, they are multiplied by these.
    - `weights`: w_j ≥ 0, of shape (N,), not all 0.

    **Raises:** `ValueError` if weights are negative or not finite, if all are 0, or if there is not one per sample.

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
                f"`weights` must hold one number per sample, shape ({cost.num_samples},); got {weights.shape}."
            )
        if isinstance(cost, SampleWeighted):
            cost, weights = cost.cost, check_weights(cost.weights.astype(weights.dtype) * weights)
        self.cost = cost
        self.weights = weights

    def __call__(self, outputs: Float[Array, "N Q"]) -> Float[Array, ""]:
        return total(self.values(outputs)) / self.total_weight.astype(outputs.dtype)

    def gradient(self, outputs: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        share = (self.weights / self.total_weight).astype(outputs.dtype)[:, None]
        whole = self.cost.gradient(outputs) * self.cost.total_weight
        # A sample without weight may have any outputs; where they are finite, keep the derivative by the weight.
        return jnp.where((share == 0) & ~jnp.isfinite(whole), 0, whole * share)

    def deviation(self, outputs: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return jnp.where(self.weights[:, None] > 0, self.cost.deviation(outputs), 0)

    @property
    def num_samples(self) -> int:
        return self.cost.num_samples

    @property
    def counted(self) -> Bool[Array, " N"]:
        return self.weights > 0

    def arrange(self, rows: Float[Array, " rows"]) -> Float[Array, "N Q"]:
        return self.cost.arrange(rows)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        self.cost.check_shape(shape)

    @property
    def total_weight(self) -> Float[Array, ""]:
        return jnp.sum(self.weights)

    def take(self, index: Int[ArrayLike, " kept"]) -> AbstractCost | None:
        cost = self.cost.take(index)
        return None if cost is None else SampleWeighted(cost, self.weights[index])

    def constant_outputs(self, weights: Float[Array, " N"] | None = None) -> Float[Array, "N Q"] | None:
        return self.cost.constant_outputs(self.weights if weights is None else weights * self.weights)

    def values(self, outputs: Float[Array, "N Q"]) -> Float[Array, " N"]:
        return self._mask(self.cost.values(outputs))

    def decreases(self, outputs: Float[Array, "N Q"], new_outputs: Float[Array, "N Q"]) -> Float[Array, " N"]:
        return self._mask(self.cost.decreases(outputs, new_outputs))

    def curvature(self, outputs: Float[Array, "N Q"]) -> AbstractRoot:
        root = self.cost.curvature(outputs)
        if root is None:
            root = DiagonalRoot(jnp.ones_like(outputs))
        return WeightedRoot(jnp.sqrt(self.weights).astype(outputs.dtype), root)

    def _mask(self, values: Float[Array, " N"]) -> Float[Array, " N"]:
        # The product alone would pass on a NaN of a sample without weight.
        return jnp.where(self.weights > 0, self.weights.astype(values.dtype) * values, 0)


def without_ignored(cost: AbstractCost) -> tuple[AbstractCost, Int[np.ndarray, " kept"]] | None:
    """The cost of the samples that have weight, and their indices; None if none can be left out, or weights are traced.

    If the weights that remain are equal, the result is the cost of these samples without weights.
    """
    if not isinstance(cost, SampleWeighted) or not is_concrete(cost):
        return None
    weights = np.asarray(cost.weights)
    (kept,) = np.nonzero(weights)
    alone = None if len(kept) == len(weights) else cost.cost.take(kept)
    if alone is None:
        return None
    return (alone if np.all(weights[kept] == weights[kept[0]]) else SampleWeighted(alone, weights[kept])), kept


def check_weights(weights: ArrayLike) -> Array:
    """Weights as a floating-point array; `ValueError` where concrete ones are negative, not finite or all 0."""
    array = as_real("weights", weights)
    if is_concrete(array):
        values = np.asarray(array)
        if (values < 0).any() or not (values > 0).any():
            raise ValueError(
                f"`weights` must be ≥ 0 and not all 0; got values between {values.min()} and {values.max()}."
                if values.size
                else "`weights` is empty; pass one number per sample."
            )
    return array
