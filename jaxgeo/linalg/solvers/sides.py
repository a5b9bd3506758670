"""The two sides on which a lift can be solved: the QN rows of D or its K columns."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.solvers.base import Damping


class AbstractSide(eqx.Module):
    """B = D/√t, and the Gram matrix A on one side of it: B⁺v = pull(A⁺push(v)).

    - `sqrt_mean`: √t, where t is the mean eigenvalue of the Gram matrix of D on that side, or any other unit.
    """

    jacobian: Jacobian
    sqrt_mean: Float[Array, ""]

    @staticmethod
    @abc.abstractmethod
    def size(jacobian: Jacobian) -> int:
        """The size of A."""

    @abc.abstractmethod
    def gram(self, vector: PyTree) -> PyTree:
        """A times a vector."""

    @abc.abstractmethod
    def push(self, rows: Float[Array, "N Q"]) -> PyTree:
        """The right-hand side of the system with A."""

    @abc.abstractmethod
    def pull(self, vector: PyTree) -> PyTree:
        """The parameter velocity for a solution of the system with A."""

    def mv(self, vector: PyTree) -> Float[Array, "N Q"]:
        """B times a parameter velocity."""
        return self.jacobian.mv(vector) / self.sqrt_mean


class Rows(AbstractSide):
    """A = BBᵀ, on output velocities (N, Q)."""

    @staticmethod
    def size(jacobian: Jacobian) -> int:
        return jacobian.out_size()

    def gram(self, vector: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return self.mv(self.pull(vector))

    def push(self, rows: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return rows

    def pull(self, vector: Float[Array, "N Q"]) -> PyTree:
        return self.jacobian.T.mv(vector / self.sqrt_mean)


class Columns(AbstractSide):
    """A = BᵀB, on parameter velocities."""

    @staticmethod
    def size(jacobian: Jacobian) -> int:
        return jacobian.in_size()

    def gram(self, vector: PyTree) -> PyTree:
        return over(self.jacobian.T.mv(self.mv(vector)), self.sqrt_mean)

    def push(self, rows: Float[Array, "N Q"]) -> PyTree:
        return self.jacobian.T.mv(rows / self.sqrt_mean)

    def pull(self, vector: PyTree) -> PyTree:
        return vector


def smaller_side(jacobian: Jacobian) -> type[Rows] | type[Columns]:
    """The side of the smaller Gram matrix; the rows if D is square."""
    return Rows if jacobian.in_size() >= jacobian.out_size() else Columns


def relative_damping(side: type[AbstractSide], jacobian: Jacobian, damping: Damping) -> Float[Array, ""] | None:
    """μ = λ/t for the mean eigenvalue t on that side; λ = damping · trace(DDᵀ)/QN, or more, see `least_damping`."""
    if damping is None:
        return None
    return jnp.maximum(_given(side, jacobian, damping), least_damping(jacobian))


def is_raised(side: type[AbstractSide], jacobian: Jacobian, damping: Damping) -> Bool[Array, ""]:
    """Whether `relative_damping` is more than was asked for."""
    return jnp.asarray(False) if damping is None else _given(side, jacobian, damping) < least_damping(jacobian)


def least_damping(jacobian: Jacobian) -> float:
    """(100·eps)²: with a smaller μ, rounding θ̇, as long as |v|/(2√λ), would change Dθ̇ by a percent of v or more."""
    return (100 * float(jnp.finfo(jacobian.outputs.dtype).eps)) ** 2


def _given(side: type[AbstractSide], jacobian: Jacobian, damping: float | Float[Array, ""]) -> Float[Array, ""]:
    return jnp.asarray(damping, jacobian.outputs.dtype) * (side.size(jacobian) / jacobian.out_size())


def gram_dtype(jacobian: Jacobian, damping: Damping, choice: Any) -> jnp.dtype:
    """The dtype to form and factorise in: `choice`, or float64, or with damping the parameters' own dtype."""
    if choice is not None:
        return jnp.dtype(choice)
    return jnp.dtype(jnp.float64) if damping is None else jnp.dtype(jacobian.outputs.dtype)


def over(tree: PyTree, scale: Float[Array, ""]) -> PyTree:
    """`tree` / `scale`."""
    return jax.tree.map(lambda leaf: leaf / scale, tree)
