"""A cost with a Gaussian prior on the parameters, whose rows follow those of the data."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxgeo.costs.base import AbstractCost
from jaxgeo.costs.roots import AbstractRoot


class Regularised(AbstractCost):
    """W·C = Σ_j w_j c_j + Σ_k p_k θ_k²/2, where the cost of the data divides by W.

    The outputs are all rows of the data, then √p_k θ_k for each parameter, in shape (QN + K, 1).

    - `cost`: the cost of the data.
    - `size`: K.
    - `groups`: which precision each trainable leaf has.
    """

    cost: AbstractCost
    size: int = eqx.field(static=True)
    groups: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, cost: AbstractCost, size: int, groups: tuple[int, ...]):
        self.cost, self.size, self.groups = cost, size, groups

    def data(self, outputs: Float[Array, "rows 1"]) -> Float[Array, "N Q"]:
        """The rows that are outputs of the network."""
        return self.cost.arrange(outputs[: -self.size].reshape(-1))

    def join(self, data: Float[Array, "N Q"], prior: Float[Array, "K 1"]) -> Float[Array, "rows 1"]:
        """All rows, from those of the data and those of the prior."""
        return jnp.concatenate([data.reshape(-1, 1), prior])

    def __call__(self, outputs: Float[Array, "rows 1"]) -> Float[Array, ""]:
        penalty = 0.5 * jnp.sum(outputs[-self.size :] ** 2)
        return self.cost(self.data(outputs)) + penalty / self.total_weight

    def gradient(self, outputs: Float[Array, "rows 1"]) -> Float[Array, "rows 1"]:
        return self.join(self.cost.gradient(self.data(outputs)), outputs[-self.size :] / self.total_weight)

    def deviation(self, outputs: Float[Array, "rows 1"]) -> Float[Array, "rows 1"]:
        return self.join(self.cost.deviation(self.data(outputs)), outputs[-self.size :])

    @property
    def num_samples(self) -> int:
        return self.cost.num_samples

    @property
    def total_weight(self) -> int | Float[Array, ""]:
        return self.cost.total_weight

    @property
    def counted(self) -> Bool[Array, " N"] | None:
        return self.cost.counted

    def arrange(self, rows: Float[Array, " rows"]) -> Float[Array, "rows 1"]:
        return rows.reshape(-1, 1)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        if shape != (1, self.size):
            self.cost.check_shape(shape)

    def values(self, outputs: Float[Array, "rows 1"]) -> Float[Array, " terms"]:
        """Those of the N samples, then those of the K parameters."""
        return jnp.concatenate([self.cost.values(self.data(outputs)), 0.5 * outputs[-self.size :, 0] ** 2])

    def decreases(self, outputs: Float[Array, "rows 1"], new_outputs: Float[Array, "rows 1"]) -> Float[Array, " terms"]:
        old, new = outputs[-self.size :, 0], new_outputs[-self.size :, 0]
        of_data = self.cost.decreases(self.data(outputs), self.data(new_outputs))
        return jnp.concatenate([of_data, 0.5 * (old - new) * (old + new)])

    def curvature(self, outputs: Float[Array, "rows 1"]) -> AbstractRoot | None:
        """The curvature of the data's cost; for the rows of the prior it is 1."""
        return self.cost.curvature(self.data(outputs))
