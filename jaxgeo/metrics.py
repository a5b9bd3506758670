"""Metrics on output space. A metric defines the length in which the adapted gradient is steepest."""

import abc

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxgeo._checks import as_real, is_concrete
from jaxgeo._names import show_public_names
from jaxgeo.costs import AbstractCost, AbstractRoot, DiagonalRoot, TriangularRoot
from jaxgeo.costs.samples import check_weights


class AbstractMetric(eqx.Module):
    """A metric g on output space, which may depend on the cost and vary from sample to sample: g = LᵀL.

    The adapted gradient for it is lifted through LD instead of D: the velocity v = −g⁻¹∇ₓC becomes (LD)⁺Lv.

    Paper: Section 2.3, the metric of (N, g)
    """

    @abc.abstractmethod
    def root(self, cost: AbstractCost, outputs: Float[Array, "N Q"]) -> AbstractRoot | None:
        """L for every sample; None for the identity."""


class Euclidean(AbstractMetric):
    """g = 1, the paper's choice. In this metric the L2 cost is a round bowl."""

    def root(self, cost: AbstractCost, outputs: Float[Array, "N Q"]) -> None:
        return None


class CostHessian(AbstractMetric):
    """g = N ∂²C/∂x²: generalized Gauss–Newton, and for cross-entropy the natural gradient of Fisher's metric.

    In this metric every cost is a round bowl to second order, so a full step is a Newton step of the outputs. For L2
    it is the same as `Euclidean`.

    ```python
    >>> import jax, jax.numpy as jnp, jaxgeo as jg
    >>> cost = jg.WeightedL2(jnp.zeros(2), jnp.array([4.0, 9.0]))
    >>> outputs = jnp.ones((2, 1))
    >>> root = jg.metrics.CostHessian().root(cost, outputs)
    >>> jax.vmap(lambda root, row: root(row))(root, outputs).tolist()
    [[2.0], [3.0]]

    ```
    """

    def root(self, cost: AbstractCost, outputs: Float[Array, "N Q"]) -> AbstractRoot | None:
        return cost.curvature(outputs)


class Weighted(AbstractMetric):
    """g = diag(weights), the same for every sample.

    **Arguments:**

    - `weights`: positive, of shape (Q,).

    **Raises:** `ValueError` unless all weights are positive and finite.
    """

    weights: Float[Array, " Q"]

    def __init__(self, weights: ArrayLike):
        self.weights = check_weights(weights)
        if self.weights.ndim != 1 or (is_concrete(self.weights) and (np.asarray(self.weights) <= 0).any()):
            raise ValueError(f"`weights` must be Q positive numbers; got {self.weights}.")

    def root(self, cost: AbstractCost, outputs: Float[Array, "N Q"]) -> DiagonalRoot:
        _check_size(self.weights.shape[0], outputs)
        return DiagonalRoot(jnp.broadcast_to(jnp.sqrt(self.weights).astype(outputs.dtype), outputs.shape))


class MatrixMetric(AbstractMetric):
    """g = a symmetric positive definite matrix, the same for every sample.

    **Arguments:**

    - `matrix`: g, of shape (Q, Q).

    **Raises:** `ValueError` unless `matrix` is square, symmetric, finite and positive definite.
    """

    upper: Float[Array, "Q Q"]

    def __init__(self, matrix: Float[ArrayLike, "Q Q"]):
        matrix = as_real("matrix", matrix)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.size == 0:
            raise ValueError(f"`matrix` must have shape (Q, Q); got {matrix.shape}.")
        if is_concrete(matrix) and not np.allclose(matrix, matrix.T):
            raise ValueError("`matrix` must be symmetric.")
        self.upper = jnp.linalg.cholesky(matrix).T
        if is_concrete(self.upper) and not np.isfinite(np.asarray(self.upper)).all():
            lowest = float(np.linalg.eigvalsh(np.asarray(matrix))[0])
            raise ValueError(f"`matrix` must be positive definite; its smallest eigenvalue is {lowest}.")

    def root(self, cost: AbstractCost, outputs: Float[Array, "N Q"]) -> TriangularRoot:
        _check_size(self.upper.shape[0], outputs)
        upper = self.upper.astype(outputs.dtype)
        return TriangularRoot(jnp.broadcast_to(upper, (outputs.shape[0], *upper.shape)))


def _check_size(size: int, outputs: Array) -> None:
    if size != outputs.shape[1]:
        raise ValueError(f"the metric is for Q={size} outputs per sample; the network returns Q={outputs.shape[1]}.")


show_public_names(globals())
