"""What a covariance of the parameters can be asked, and what it is made from."""

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
    """What the data say about each group of leaves, whatever the precisions of prior and noise are."""

    @property
    @abc.abstractmethod
    def size(self) -> float:
        """|LD|², the sum of the squares of all entries."""

    @abc.abstractmethod
    def determined(self, precisions: Float[np.ndarray, " groups"], beta: float) -> "Determined":
        """What is known under some precisions.

        **Arguments:**

        - `precisions`: of the prior, positive, one for each group; A is diagonal and has them.
        - `beta`: precision of a row of weight 1.
        """


class Determined(NamedTuple):
    """How much the data determine, with N = 1 − A^½ΣA^½ and N_g its rows of group g.

    - `counts`: γ_g = tr N_gg, how many parameters of each group.
    - `products`: |N_gh|², by which the counts change with the precisions.
    - `logdet`: log det(1 + βLDA⁻¹DᵀLᵀ).
    """

    counts: Float[np.ndarray, " groups"]
    products: Float[np.ndarray, "groups groups"]
    logdet: float


def of_spectrum(values: Float[np.ndarray, " rank"]) -> Determined:
    """For one group, from the eigenvalues of βLDA⁻¹DᵀLᵀ."""
    shares = values / (1 + values)
    return Determined(np.array([np.sum(shares)]), np.array([[np.sum(shares**2)]]), float(np.sum(np.log1p(values))))


class AbstractCovariance(eqx.Module):
    """Σ, the covariance of the trainable parameters, as a factorisation that answers for parts of it.

    - `problem`, `params`: where D was taken.
    """

    problem: eqx.AbstractVar[AbstractProblem]
    params: eqx.AbstractVar[Params]

    @abc.abstractmethod
    def variances(self) -> Float[np.ndarray, " K"]:
        """The diagonal of Σ, infinite for what nothing fixes."""

    @abc.abstractmethod
    def part(self, index: Int[np.ndarray, " k"]) -> Float[np.ndarray, "k k"]:
        """The rows and columns of Σ that belong to some of the parameters."""

    @abc.abstractmethod
    def of_outputs(
        self, apply: Callable[[PyTree, PyTree], Array], inputs: PyTree, contrasts: bool
    ) -> Float[Array, "M Q Q"]:
        """jΣjᵀ for each of some inputs, with j the derivative of `apply` by the trainable parameters.

        **Arguments:**

        - `contrasts`: of the outputs less their mean, which is all that a softmax sees.
        """


def in_double(
    function: Callable[[jnp.dtype, jnp.dtype], Callable[..., Array]], dtype: jnp.dtype, *arrays: PyTree
) -> Array:
    """`function(float64)(*arrays)` as an array of `dtype`.

    Where x64 is off, derivatives are those of the same function in `dtype`.
    """
    if is_available(DOUBLE):
        return function(DOUBLE, dtype)(*arrays)
    value = in_dtype(function(DOUBLE, dtype), DOUBLE)(*freeze(arrays))
    return attach(value, function(dtype, dtype)(*arrays))


def as_double(array: Float[np.ndarray, "..."]) -> Float[Array, "..."]:
    """A float64 array on the device, whether or not JAX has x64."""
    with jax.enable_x64(True):
        return jnp.asarray(array, DOUBLE)
