"""The interface of a covariance of the parameters, and of the information that it is made from."""

import abc
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from jaxgeo.linalg.precision import in_dtype, is_available
from jaxgeo.linalg.tangents import attach, freeze
from jaxgeo.outputs import AbstractProblem, Params

DOUBLE = jnp.dtype(jnp.float64)


class AbstractInformation(abc.ABC):
    """What the data say about each group of leaves, for any precisions of prior and noise."""

    @property
    @abc.abstractmethod
    def size(self) -> float:
        """|LD|², the sum of the squares of all entries."""

    @abc.abstractmethod
    def determined(self, precisions: Float[np.ndarray, " groups"], beta: float) -> "Determined":
        """How much the data determine for given precisions.

        **Arguments:**

        - `precisions`: the positive precisions of the prior, one for each group; they are the diagonal of A.
        - `beta`: the precision of a row of weight 1.
        """


class Determined(NamedTuple):
    """How much the data determine, with N = 1 − A^½ΣA^½ and N_gh its block of groups g and h.

    - `counts`: γ_g = tr N_gg, how many parameters of each group the data determine.
    - `products`: |N_gh|², which says how the counts change with the precisions.
    - `logdet`: log det(1 + βLDA⁻¹DᵀLᵀ).
    """

    counts: Float[np.ndarray, " groups"]
    products: Float[np.ndarray, "groups groups"]
    logdet: float


def of_spectrum(values: Float[np.ndarray, " rank"]) -> Determined:
    """`Determined` for a single group, from the eigenvalues of βLDA⁻¹DᵀLᵀ."""
    shares = values / (1 + values)
    return Determined(np.array([np.sum(shares)]), np.array([[np.sum(shares**2)]]), float(np.sum(np.log1p(values))))


class AbstractCovariance(eqx.Module):
    """Σ, the covariance of the trainable parameters, held as a factorisation that gives parts of it.

    - `problem`, `params`: the point where D was computed.
    """

    problem: eqx.AbstractVar[AbstractProblem]
    params: eqx.AbstractVar[Params]

    @abc.abstractmethod
    def variances(self) -> Float[np.ndarray, " K"]:
        """The diagonal of Σ, infinite for parameters that nothing fixes."""

    @abc.abstractmethod
    def part(self, index: Int[np.ndarray, " k"]) -> Float[np.ndarray, "k k"]:
        """The rows and columns of Σ that belong to some of the parameters."""

    @abc.abstractmethod
    def of_outputs(
        self, apply: Callable[[PyTree, PyTree], Array], inputs: PyTree, contrasts: bool
    ) -> Float[Array, "M Q Q"]:
        """jΣjᵀ for each of the inputs, where j is the derivative of `apply` by the trainable parameters.

        **Arguments:**

        - `contrasts`: use the outputs minus their mean, which is all that a softmax depends on.
        """


def in_double(
    function: Callable[[jnp.dtype, jnp.dtype], Callable[..., Array]], dtype: jnp.dtype, *arrays: PyTree
) -> Array:
    """`function(float64)(*arrays)` as an array of `dtype`.

    Without x64, derivatives are those of the same function in `dtype`.
    """
    if is_available(DOUBLE):
        return function(DOUBLE, dtype)(*arrays)
    value = in_dtype(function(DOUBLE, dtype), DOUBLE)(*freeze(arrays))
    return attach(value, function(dtype, dtype)(*arrays))


def as_double(array: Float[np.ndarray, "..."]) -> Float[Array, "..."]:
    """A float64 array on the device, whether or not JAX has x64."""
    with jax.enable_x64(True):
        return jnp.asarray(array, DOUBLE)
