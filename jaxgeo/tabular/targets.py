"""What a table's targets say of outputs: numbers with noise, or classes."""

import abc
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import log_expit, log_softmax

# Probabilities below this one are taken for it where they divide.
LEAST = 1e-30


@dataclass(frozen=True)
class AbstractTargets(abc.ABC):
    """Targets of the rows, each of which counts as often as its weight says."""

    values: Float[np.ndarray, "N Q"]
    weights: Float[np.ndarray, " N"]

    @property
    @abc.abstractmethod
    def has_noise(self) -> bool:
        """Whether there is a noise to find."""

    @property
    @abc.abstractmethod
    def count(self) -> float:
        """How many observations there are."""

    @abc.abstractmethod
    def misfit(self, outputs: Float[np.ndarray, "N Q"]) -> float:
        """−2 log p of the targets for β = 1, without constants."""

    @abc.abstractmethod
    def curvature(
        self, outputs: Float[np.ndarray, "N Q"]
    ) -> tuple[Float[np.ndarray, "N R Q"], Float[np.ndarray, "N R"]]:
        """L and e with LᵀL the curvature of half the misfit in the outputs and Lᵀe its gradient."""

    def part(self, rows: slice | np.ndarray) -> "AbstractTargets":
        """Those of some rows."""
        return type(self)(self.values[rows], self.weights[rows])


class Numbers(AbstractTargets):
    """Targets with normal noise of one deviation."""

    @property
    def has_noise(self) -> bool:
        return True

    @property
    def count(self) -> float:
        return float(self.weights.sum()) * self.values.shape[1]

    def misfit(self, outputs: Float[np.ndarray, "N Q"]) -> float:
        return float(self.weights @ np.sum((outputs - self.values) ** 2, axis=1))

    def curvature(
        self, outputs: Float[np.ndarray, "N Q"]
    ) -> tuple[Float[np.ndarray, "N R Q"], Float[np.ndarray, "N R"]]:
        root = np.sqrt(self.weights)
        return root[:, None, None] * np.eye(outputs.shape[1]), root[:, None] * (outputs - self.values)


class Labels(AbstractTargets):
    """One-hot rows for as many outputs as classes; for two classes a single output, the logit of the second."""

    @property
    def has_noise(self) -> bool:
        return False

    @property
    def count(self) -> float:
        return float(self.weights.sum())

    def misfit(self, outputs: Float[np.ndarray, "N Q"]) -> float:
        logs = np.sum(np.where(self.values > 0, log_probabilities(outputs), 0), axis=1)
        return -2 * float(self.weights @ logs)

    def curvature(
        self, outputs: Float[np.ndarray, "N Q"]
    ) -> tuple[Float[np.ndarray, "N R Q"], Float[np.ndarray, "N R"]]:
        found = np.exp(log_probabilities(outputs))
        root = np.sqrt(self.weights)[:, None]
        if outputs.shape[1] == 1:
            spread = np.sqrt(np.maximum(found[:, :1] * found[:, 1:], LEAST))
            return (root * spread)[:, :, None], root * (found[:, 1:] - self.values[:, 1:]) / spread
        sizes = np.sqrt(np.maximum(found, LEAST))
        centred = np.eye(outputs.shape[1]) - found[:, None, :]
        return (root * sizes)[:, :, None] * centred, root * (found - self.values) / sizes


def log_probabilities(outputs: Float[np.ndarray, "N Q"]) -> Float[np.ndarray, "N C"]:
    """Of each class: the softmax, or for one output those of its two classes."""
    if outputs.shape[1] == 1:
        return log_expit(np.concatenate([-outputs, outputs], axis=1))
    return log_softmax(outputs, axis=1)
