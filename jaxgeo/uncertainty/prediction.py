"""Predictions at new inputs: means, standard deviations and intervals, or probabilities of classes."""

import statistics

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgeo._checks import check_number


class Prediction(eqx.Module):
    """The network at new inputs, with its uncertainty.

    - `mean`: the outputs of the network, in their shape.
    - `covariance`: covariance of the Q outputs of each input, due to the uncertainty of the parameters.
    - `noise`: the standard deviation of a target of weight 1; None if each block of a problem has its own.
    - `degrees_of_freedom`: from which the noise was estimated; infinite if the noise was given.
    """

    mean: Float[Array, "M ..."]
    covariance: Float[Array, "M Q Q"]
    noise: float | None
    degrees_of_freedom: float

    @property
    def standard_deviation(self) -> Float[Array, "M ..."]:
        """The standard deviation of the network's outputs, without the noise of a target."""
        return _root(self._variances())

    @property
    def observed_deviation(self) -> Float[Array, "M ..."]:
        """The standard deviation of a new target: the root of the output's variance plus the noise variance.

        **Raises:** `ValueError` if each block of the problem has its own noise.
        """
        if self.noise is None:
            raise ValueError(
                "each block of the problem has its own noise, and none of them applies to these outputs; use "
                "`standard_deviation`, or `interval(…, observed=False)`."
            )
        return _root(self._variances() + jnp.asarray(self.noise, self.mean.dtype) ** 2)

    def interval(
        self, level: float = 0.9, *, observed: bool = True
    ) -> tuple[Float[Array, "M ..."], Float[Array, "M ..."]]:
        """The interval that contains a new target, or the output, with a given probability.

        Uses Student's t with `degrees_of_freedom` if the noise was estimated, and a normal distribution otherwise.

        **Arguments:**

        - `level`: the probability, between 0 and 1.
        - `observed`: True for a new target with its noise, False for the output of the network.

        **Returns:** the lower and the upper end.

        **Raises:** `ValueError` unless `level` is between 0 and 1.
        """
        check_number("level", level, above=0, most=1)
        if level == 1:
            raise ValueError("`level` must be below 1: only an infinite interval has probability 1.")
        half = quantile(float(level), self.degrees_of_freedom)
        width = half * (self.observed_deviation if observed else self.standard_deviation)
        return self.mean - width, self.mean + width

    def _variances(self) -> Float[Array, "M ..."]:
        return jnp.diagonal(self.covariance, axis1=1, axis2=2).reshape(self.mean.shape)


class ClassPrediction(eqx.Module):
    """Class probabilities at new inputs, with the uncertainty of the parameters.

    Reference: Z. Lu, E. Ie, F. Sha, Mean-field approximation to Gaussian–softmax integral, 2020, arXiv 2006.07584

    - `mean`: the logits of the network.
    - `covariance`: covariance of the logits of each input minus their mean, on which alone a softmax depends.
    """

    mean: Float[Array, "M Q"]
    covariance: Float[Array, "M Q Q"]

    @property
    def probabilities(self) -> Float[Array, "M Q"]:
        """The expectation of the softmax, by the probit approximation.

        Each pair of classes uses the variance of its own difference: p_k ∝ 1/Σ_j exp((m_j − m_k)/√(1 + π v_jk/8)). For
        two classes this is MacKay's formula.

        Reference: D. J. C. MacKay, The evidence framework applied to classification networks, Neural Computation 4,
            1992; Z. Lu, E. Ie, F. Sha, Mean-field approximation to Gaussian–softmax integral, 2020
        """
        variances = jnp.diagonal(self.covariance, axis1=1, axis2=2)
        spread = variances[:, :, None] + variances[:, None, :] - 2 * self.covariance
        differences = self.mean[:, None, :] - self.mean[:, :, None]
        scaled = differences / jnp.sqrt(1 + jnp.pi / 8 * jnp.maximum(spread, 0))
        return jax.nn.softmax(-jax.nn.logsumexp(scaled, axis=2), axis=1)

    @property
    def plain_probabilities(self) -> Float[Array, "M Q"]:
        """The softmax of the logits, as if the parameters were known exactly."""
        return jax.nn.softmax(self.mean, axis=1)


def _root(variances: Array) -> Array:
    """A square root that treats values below 0, due to round-off, as 0, with derivative 0."""
    positive = variances > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, variances, 1)), 0)


def quantile(level: float, degrees: float) -> float:
    """q with P(|t| ≤ q) = level, for Student's t, or the normal distribution if `degrees_of_freedom` is infinite.

    ```python
    >>> from jaxgeo.uncertainty.prediction import quantile
    >>> round(quantile(0.95, 10.0), 4), round(quantile(0.95, float("inf")), 4)
    (2.2281, 1.96)

    ```
    """
    normal = statistics.NormalDist().inv_cdf(0.5 + level / 2)
    if degrees > 1e8:
        return normal
    with jax.enable_x64(True):
        low, high = normal, 2 * normal + 1

        def outside(q: float) -> float:
            share = jnp.asarray(degrees / (degrees + q**2), jnp.float64)
            return float(jax.scipy.special.betainc(jnp.asarray(degrees / 2, jnp.float64), jnp.float64(0.5), share))

        while outside(high) > 1 - level:
            low, high = high, 2 * high
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if outside(middle) > 1 - level else (low, middle)
    return high
