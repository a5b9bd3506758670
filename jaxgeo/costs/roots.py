"""Roots L of a metric LᵀL on output space, one for each sample.

The arrays of a root have a leading axis N; inside `jax.vmap` over it, it acts on the outputs of one sample.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class AbstractRoot(eqx.Module):
    """L: output velocities (Q,) → R numbers whose squares sum to the squared length in the metric LᵀL."""

    @abc.abstractmethod
    def __call__(self, velocity: Float[Array, " Q"]) -> Float[Array, " R"]:
        """Lv."""

    @abc.abstractmethod
    def dual(self, gradient: Float[Array, " Q"]) -> Float[Array, " R"]:
        """(Lᵀ)⁺g, for which L⁺(Lᵀ)⁺g = (LᵀL)⁺g is the gradient in the metric; 0 where L is 0."""


class DiagonalRoot(AbstractRoot):
    """L = diag(scale), for weights `scale`², of shape (N, Q)."""

    scale: Float[Array, "... Q"]

    def __call__(self, velocity: Float[Array, " Q"]) -> Float[Array, " R"]:
        return self.scale * velocity

    def dual(self, gradient: Float[Array, " Q"]) -> Float[Array, " R"]:
        return _divide(gradient, self.scale)


class TriangularRoot(AbstractRoot):
    """L = an upper triangular matrix, invertible: the Cholesky factor of a metric matrix LᵀL.

    **Arguments:**

    - `upper`: L, of shape (N, Q, Q).
    """

    upper: Float[Array, "... Q Q"]

    def __call__(self, velocity: Float[Array, " Q"]) -> Float[Array, " R"]:
        return self.upper @ velocity

    def dual(self, gradient: Float[Array, " Q"]) -> Float[Array, " R"]:
        return jax.scipy.linalg.solve_triangular(self.upper, gradient, trans="T")


class SoftmaxRoot(AbstractRoot):
    """LᵀL = diag(p) − ppᵀ, the curvature of softmax cross-entropy, with R = Q − 1.

    Adding a constant to all logits changes nothing, so diag(p) − ppᵀ has the null vector (1, …, 1), and a square L
    would have the left null vector √p. L avoids it without damping: L = Hdiag(√p)(1 − 1pᵀ) without the last row, which
    is zero. H is the reflection that takes √p to the last axis. R = Q − 1 independent rows are left.

    **Arguments:**

    - `probabilities`: p, positive.
    """

    probabilities: Float[Array, "... Q"]

    def __call__(self, velocity: Float[Array, " Q"]) -> Float[Array, " R"]:
        root = jnp.sqrt(self.probabilities)
        return self._reflect(root, root * (velocity - jnp.sum(self.probabilities * velocity)))

    def dual(self, gradient: Float[Array, " Q"]) -> Float[Array, " R"]:
        root = jnp.sqrt(self.probabilities)
        return self._reflect(root, gradient / root - root * jnp.sum(gradient))

    def _reflect(self, root: Float[Array, " Q"], vector: Float[Array, " Q"]) -> Float[Array, " R"]:
        """H v without its last entry, for v orthogonal to √p: H = 1 − 2wwᵀ/|w|² with w = √p + e_Q."""
        return vector[:-1] - root[:-1] * (vector[-1] / (1 + root[-1]))


class WeightedRoot(AbstractRoot):
    """√w L, for a sample that counts w times.

    **Arguments:**

    - `scale`: √w, of shape (N,).
    - `root`: L.
    """

    scale: Float[Array, "..."]
    root: AbstractRoot

    def __call__(self, velocity: Float[Array, " Q"]) -> Float[Array, " R"]:
        return self.scale * self.root(velocity)

    def dual(self, gradient: Float[Array, " Q"]) -> Float[Array, " R"]:
        return _divide(self.root.dual(gradient), self.scale)


def _divide(numerator: Float[Array, " R"], divisor: Float[Array, "..."]) -> Float[Array, " R"]:
    """The quotient, which is 0 where the divisor is 0."""
    return jnp.where(divisor > 0, numerator / jnp.where(divisor > 0, divisor, 1), 0)
