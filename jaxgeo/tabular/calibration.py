"""Probabilities of classes: how much of a network's doubt to count, decided by rows left out one at a time."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgeo.tabular.member import Member
from jaxgeo.tabular.targets import Labels
from jaxgeo.uncertainty.prediction import ClassPrediction

# Factors to choose from: of the logits, and of their covariance.
SHARPNESS, DOUBT = (0.7, 1.0, 1.4, 2.0), (0.0, 0.1, 0.3, 1.0)
# Rows that decide, and rows to predict at a time: all chunks have one shape, so that one program is compiled.
MOST_ROWS, CHUNK = 2048, 512

Logits = Float[np.ndarray, "N Q"]
Covariance = Float[np.ndarray, "N Q Q"]
# The weight of a network, and its outputs with their covariance.
Weighted = tuple[float, Logits, Covariance]


@dataclass(frozen=True)
class Calibration:
    """Factors of the logits and of their covariance.

    Laplace's covariance is too large where classes are apart, since the likelihood is flat there, and what is left out
    is too small where a network fits the noise of the labels.
    """

    sharpness: float = 1.0
    doubt: float = 1.0

    def __call__(self, networks: Sequence[Weighted]) -> Float[np.ndarray, "N C"]:
        """The probability of each class, a mean of networks."""
        found = np.zeros((len(networks[0][1]), max(networks[0][1].shape[1], 2)))
        for weight, mean, covariance in networks:
            if mean.shape[1] == 1:
                ends = np.array([-0.5, 0.5])
                mean, covariance = mean * ends, covariance * np.outer(ends, ends)
            factors = self.sharpness, self.sharpness**2 * self.doubt
            found += weight * _probabilities(factors[0] * mean, factors[1] * covariance)
        return found / found.sum(axis=1, keepdims=True)


def calibrate(
    members: Sequence[tuple[float, Member]], x: Float[np.ndarray, "N inputs"], targets: Labels
) -> Calibration:
    """The factors with which rows are predicted best by networks that have not seen them, to first order.

    Reference: K. Rahnama Rad, A. Maleki, A scalable estimate of the out-of-sample prediction error via approximate
        leave-one-out cross-validation, 2020, Journal of the Royal Statistical Society B 82
    """
    if len(x) > MOST_ROWS:
        some = np.random.RandomState(1).permutation(len(x))[:MOST_ROWS]
        x, targets = x[some], Labels(targets.values[some], targets.weights[some])
    left_out = [(weight, *_leave_out(member, x, targets)) for weight, member in members]
    choices = [Calibration(sharpness, doubt) for sharpness in SHARPNESS for doubt in DOUBT]

    def loss(choice: Calibration) -> float:
        found = np.sum(choice(left_out) * targets.values, axis=1)
        return -float(targets.weights @ np.log(np.maximum(found, 1e-300)))

    return min(choices, key=loss)


def _leave_out(member: Member, x: Float[np.ndarray, "N inputs"], targets: Labels) -> tuple[Logits, Covariance]:
    """The outputs for each row and their covariance without one observation of this row, by one step of Newton's."""
    mean, covariance = member.spread(x)
    root, left = Labels(targets.values, np.ones(len(x))).curvature(mean)
    bend = np.einsum("nrq,nrp->nqp", root, root)
    pull = np.einsum("nrq,nr->nq", root, left)
    eye = np.eye(mean.shape[1])
    without = np.linalg.solve(eye * (1 + 1e-9) - covariance @ bend, covariance)
    return mean + np.einsum("nqp,np->nq", without, pull), without


def _probabilities(mean: Logits, covariance: Covariance) -> Float[np.ndarray, "N C"]:
    found = []
    for first in range(0, len(mean), CHUNK):
        part = mean[first : first + CHUNK], covariance[first : first + CHUNK]
        count = len(part[0])
        filled = [np.pad(each, ((0, CHUNK - count), *((0, 0),) * (each.ndim - 1))) for each in part]
        with jax.enable_x64(True):
            found.append(np.asarray(_of_classes(*map(jnp.asarray, filled)))[:count])
    return np.concatenate(found) if found else np.zeros_like(mean)


@jax.jit
def _of_classes(mean: Float[Array, "N C"], covariance: Float[Array, "N C C"]) -> Float[Array, "N C"]:
    return ClassPrediction(mean, covariance).probabilities
