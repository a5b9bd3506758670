"""The interface of a cost. Only this package knows the factor 1/N of (1.7)."""

import abc

import equinox as eqx
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from jaxgeo._sums import total
from jaxgeo.costs.roots import AbstractRoot


class AbstractCost(eqx.Module):
    """A cost C(x) of the outputs x of all N samples, where x has shape (N, Q).

    It is usually a mean Σ_j c_j(x_j)/N; `total_weight` is the number that C divides by.

    - `num_samples`: N, the number of samples and the unit of flow time; a field or a property.
    """

    num_samples: eqx.AbstractVar[int]

    @abc.abstractmethod
    def __call__(self, outputs: Float[Array, "N Q"]) -> Float[Array, ""]:
        """C(x)."""

    @abc.abstractmethod
    def gradient(self, outputs: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        """∇ₓC, the Euclidean gradient in output space."""

    @abc.abstractmethod
    def deviation(self, outputs: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        """How far the outputs are from minimising C, in units of the outputs: the scale for errors of a step."""

    @abc.abstractmethod
    def arrange(self, rows: Float[Array, " rows"]) -> Float[Array, "N Q"]:
        """The rows as outputs in the shape that this cost takes."""

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise `ValueError` unless this cost can compare its targets with outputs of this shape, sample axis first."""

    @property
    def total_weight(self) -> int | Float[Array, ""]:
        """The number by which C divides: N, or the sum of the weights where samples have weights."""
        return self.num_samples

    @property
    def counted(self) -> Bool[Array, " N"] | None:
        """Which samples C depends on; None for all of them. The rows of D for the others are left out."""
        return None

    def take(self, index: Int[ArrayLike, " kept"]) -> "AbstractCost | None":
        """The same cost of some of the samples; None if the cost cannot be split by sample."""
        del index
        return None

    @abc.abstractmethod
    def values(self, outputs: Float[Array, "N Q"]) -> Float[Array, " N"]:
        """c_j, the cost of each sample (of each row of `outputs`) before C divides by `total_weight`."""

    @abc.abstractmethod
    def decreases(self, outputs: Float[Array, "N Q"], new_outputs: Float[Array, "N Q"]) -> Float[Array, " N"]:
        """c_j(x) − c_j(x′), without the cancellation that the difference of two costs suffers near a minimum."""

    @abc.abstractmethod
    def curvature(self, outputs: Float[Array, "N Q"]) -> AbstractRoot | None:
        """L with LᵀL = total_weight · ∂²C/∂x², or a positive definite majorant of it; None for the identity."""

    def constant_outputs(self, weights: Float[Array, " N"] | None = None) -> Float[Array, "N Q"] | None:
        """The mean of the targets as the output of each sample, which sets a scale for C; None without targets.

        **Arguments:**

        - `weights`: the weights of the samples in the mean; equal by default.
        """
        del weights
        return None

    def decrease(self, outputs: Float[Array, "N Q"], new_outputs: Float[Array, "N Q"]) -> Float[Array, ""]:
        """C(x) − C(x′), summed sample by sample."""
        return total(self.decreases(outputs, new_outputs)) / self.total_weight


def check_cost(cost: AbstractCost) -> None:
    """Raise `ValueError` unless `cost` is a cost, rather than, say, the targets or the class itself."""
    if not isinstance(cost, AbstractCost):
        raise ValueError(f"`cost` must be a cost, such as `jaxgeo.L2(targets)`; got {cost!r}.")
