"""Combine several networks trained on the same targets, weighted by how probable the data make them."""

import statistics
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxgeo._checks import check_number
from jaxgeo.uncertainty.posteriors import Posterior
from jaxgeo.uncertainty.prediction import Prediction


class Mixture(eqx.Module):
    """The predictions of several networks at the same inputs, with their weights.

    - `predictions`: a prediction for each network.
    - `weights`: probabilities of the networks, from their evidence.
    """

    predictions: tuple[Prediction, ...]
    weights: Float[Array, " networks"]

    @property
    def mean(self) -> Float[Array, "M ..."]:
        """The weighted mean of the networks."""
        return self._average([each.mean for each in self.predictions])

    @property
    def observed_deviation(self) -> Float[Array, "M ..."]:
        """The standard deviation of a new target, with the noise and the spread between the networks."""
        mean = self.mean
        parts = [each.observed_deviation**2 + (each.mean - mean) ** 2 for each in self.predictions]
        return jnp.sqrt(self._average(parts))

    def interval(self, level: float = 0.9) -> tuple[Float[Array, "M ..."], Float[Array, "M ..."]]:
        """The central interval that contains a new target with a given probability.

        The ends are quantiles of the mixture of normal distributions.

        **Arguments:**

        - `level`: the probability, between 0 and 1.

        **Raises:** `ValueError` unless `level` is between 0 and 1.
        """
        check_number("level", level, above=0, most=1)
        if level == 1:
            raise ValueError("`level` must be below 1: only an infinite interval has probability 1.")
        tail = 0.5 - 0.5 * float(level)
        means = jnp.stack([each.mean for each in self.predictions])
        deviations = jnp.stack([each.observed_deviation for each in self.predictions])
        return _quantile(means, deviations, self.weights, tail), _quantile(means, deviations, self.weights, 1 - tail)

    def _average(self, parts: Sequence[Array]) -> Array:
        return jnp.tensordot(self.weights.astype(parts[0].dtype), jnp.stack(list(parts)), 1)


@eqx.filter_jit
def _quantile(
    means: Float[Array, "networks ..."],
    deviations: Float[Array, "networks ..."],
    weights: Float[Array, " networks"],
    share: float,
) -> Float[Array, "..."]:
    """A quantile of the mixture, by bisection between the quantiles of the networks."""
    each = means + statistics.NormalDist().inv_cdf(share) * deviations

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        below = jnp.tensordot(weights.astype(means.dtype), jax.scipy.stats.norm.cdf(middle[None], means, deviations), 1)
        return jnp.where(below < share, middle, low), jnp.where(below < share, high, middle)

    low, high = jax.lax.fori_loop(0, 60, halve, (jnp.min(each, axis=0), jnp.max(each, axis=0)))
    return 0.5 * (low + high)


def mixture(posteriors: Sequence[Posterior], inputs: PyTree) -> Mixture:
    """Predictions of several networks trained on the same targets, weighted by their evidence.

    Use it to let the data choose between widths, groups of precisions and initialisations. Networks whose evidence is
    far below the best have almost no weight, and are left out.

    Reference: D. J. C. MacKay, Bayesian interpolation, 1992, Neural Computation 4

    **Arguments:**

    - `posteriors`: from `jaxgeo.posterior`, each with a prior on all parameters, so that it has an evidence.
    - `inputs`: new samples with leading axis M.

    **Raises:** `ValueError` if a posterior has no evidence, or predicts classes.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> x, y = jnp.linspace(-1.0, 1.0, 5), jnp.array([-0.9, -0.6, 0.1, 0.4, 1.1])
    >>> def found(apply, params):
    ...     return jg.posterior(jg.Problem(apply, x, jg.L2(y)), params, prior_precision=1.0, noise=0.1)
    >>> line = found(lambda a, x: a * x, jnp.array(1.0))
    >>> bent = found(lambda a, x: a * x**2, jnp.array(0.0))
    >>> [round(float(each), 3) for each in jg.uncertainty.mixture([line, bent], x).weights]
    [1.0]

    ```
    """
    logs = []
    for index, each in enumerate(posteriors):
        if each.log_evidence is None:
            raise ValueError(f"`posteriors[{index}]` has no evidence, because not all of its parameters have a prior.")
        logs.append(each.log_evidence)
    if not logs:
        raise ValueError("`posteriors` is empty; pass at least one.")
    weights = np.exp(np.asarray(logs) - max(logs))
    kept = weights > 1e-6 * weights.sum()
    predictions = [each.predict(inputs) for each, take in zip(posteriors, kept, strict=True) if take]
    for each in predictions:
        if not isinstance(each, Prediction):
            raise ValueError("`mixture` does not combine classes; average their `probabilities` instead.")
    found = tuple(each for each in predictions if isinstance(each, Prediction))
    return Mixture(found, jnp.asarray(weights[kept] / weights[kept].sum(), found[0].mean.dtype))
