"""What data say around θ: DᵀWD, a gradient and a misfit, summed over chunks of rows that are not kept."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxgeo.tabular.network import Shape, Vector
from jaxgeo.tabular.targets import AbstractTargets

# Bytes of rows of D at a time, and rows whose outputs alone are wanted.
CHUNK_BYTES, CHUNK_ROWS = 2**25, 2**14


@dataclass
class Local:
    """DᵀWD, the gradient of half the misfit, and the misfit, at one θ."""

    square: Float[np.ndarray, "K K"]
    gradient: Vector
    misfit: float


@dataclass
class Past:
    """Data that are gone, by what they said at `centre`: their misfit is a quadratic function of θ from then on.

    `count` is how many they were.
    """

    local: Local
    centre: Vector
    count: float

    def at(self, theta: Vector) -> Local:
        """What they say at θ."""
        away = theta - self.centre
        pull = self.local.square @ away
        misfit = self.local.misfit + float(away @ (2 * self.local.gradient + pull))
        # Beyond its least value the quadratic function means nothing.
        return Local(self.local.square, self.local.gradient + pull, max(misfit, 0.0))


def localise(
    shape: Shape, theta: Vector, x: Float[np.ndarray, "N inputs"], targets: AbstractTargets, past: Past | None
) -> Local:
    """What the data say at θ, without ever holding more of D than a chunk."""
    square, gradient, misfit = np.zeros((shape.size, shape.size)), np.zeros(shape.size), 0.0
    size = max(1, CHUNK_BYTES // (8 * shape.outputs * shape.size))
    for first in range(0, len(x), size):
        rows = slice(first, first + size)
        part, activations = targets.part(rows), shape.activations(theta, x[rows])
        outputs = shape.read_out(theta, activations)
        root, left = part.curvature(outputs)
        d = shape.rows(theta, activations, root)
        square += d.T @ d
        gradient += d.T @ left.ravel()
        misfit += part.misfit(outputs)
    if past is None:
        return Local(square, gradient, misfit)
    old = past.at(theta)
    return Local(square + old.square, gradient + old.gradient, misfit + old.misfit)


def misfit_of(
    shape: Shape, theta: Vector, x: Float[np.ndarray, "N inputs"], targets: AbstractTargets, past: Past | None
) -> float:
    """The misfit alone."""
    found = 0.0 if past is None else past.at(theta).misfit
    with np.errstate(over="ignore", invalid="ignore"):
        for first in range(0, len(x), CHUNK_ROWS):
            rows = slice(first, first + CHUNK_ROWS)
            found += targets.part(rows).misfit(shape(theta, x[rows]))
    return found
