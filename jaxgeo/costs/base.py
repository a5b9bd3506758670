"""What a cost is. The factor 1/N of (1.7) lives in this package and nowhere else."""

import abc

import equinox as eqx
from jaxtyping import Array, Float


class AbstractCost(eqx.Module):
    """A cost C(x) of the outputs x of all N samples, x of shape (N, Q)."""

    @abc.abstractmethod
    def __call__(self, outputs: Float[Array, "N Q"]) -> Float[Array, ""]:
        """C(x)."""

    @abc.abstractmethod
    def gradient(self, outputs: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        """∇ₓC, the Euclidean gradient in output space."""

    @abc.abstractmethod
    def deviation(self, outputs: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        """How far the outputs are from minimising C, in units of the outputs: the scale of step-size errors."""

    @property
    @abc.abstractmethod
    def num_samples(self) -> int:
        """N, the number by which the cost divides: the unit of flow time."""

    @abc.abstractmethod
    def arrange(self, rows: Float[Array, " rows"]) -> Float[Array, "N Q"]:
        """All rows as outputs in the shape that this cost takes; `ValueError` if they do not fit."""
