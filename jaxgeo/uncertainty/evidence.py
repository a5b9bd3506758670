"""The precisions of prior and noise under which the data are most probable, at a fixed θ."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxgeo.linalg.covariance.base import AbstractInformation
from jaxgeo.uncertainty.likelihood import Likelihood

# The fixed point is found to so much in each precision, in at most so many rounds.
TOLERANCE = 1e-10
MOST_ROUNDS = 5000
# A precision that is so many times as large as what the data say leaves them no say.
MOST_RATIO = 1e16


@dataclass(frozen=True)
class Evidence:
    """The precisions, and what follows of them.

    - `precisions`: α of each group; `beta`: of an observation of weight 1.
    - `determined`: γ of each group, how many of its parameters the data determine.
    - `log`: the logarithm of Laplace's evidence.
    - `converged`: whether the fixed point was reached.
    """

    precisions: Float[np.ndarray, " groups"]
    beta: float
    determined: Float[np.ndarray, " groups"]
    log: float
    converged: bool


def maximise_evidence(
    information: AbstractInformation,
    likelihood: Likelihood,
    squares: Float[np.ndarray, " groups"],
    precisions: Float[np.ndarray, " groups"] | None,
    beta: float | None,
    sizes: Float[np.ndarray, " groups"],
) -> Evidence:
    """α_g = γ_g/|θ_g|² and β = (n − Σγ_g)/misfit, repeated until they stand still.

    At a fixed θ the logarithm of the evidence, ½(Σ K_g log α_g + n log β − log det(βDᵀWD + A) − β misfit − Σ α_g|θ_g|²),
    is concave in the logarithms of α and β, so there is one maximum, and this is where its gradient vanishes.

    Reference: D. J. C. MacKay, Bayesian interpolation, Neural Computation 4, 1992; F. D. Foresee and M. T. Hagan,
        Gauss–Newton approximation to Bayesian learning, 1997

    **Arguments:**

    - `squares`: |θ_g|² of each group; `sizes`: how many parameters it has.
    - `precisions`, `beta`: where they are given; None where they are to be found.

    **Raises:** `ValueError` if a precision is to be found that is infinite, as the noise of data that are met exactly is.
    """
    free_alpha, free_beta = precisions is None, beta is None
    if free_beta and likelihood.misfit <= 0:
        raise ValueError(
            "the outputs meet the targets exactly, so there is no noise to estimate. Pass `noise`, the standard "
            "deviation of the targets."
        )
    beta = likelihood.count / likelihood.misfit if beta is None else beta
    if precisions is None:
        # A group of zeros would have an infinite precision: it is held at 0 by one that is as good.
        precisions = np.minimum(sizes / np.maximum(squares, np.finfo(float).tiny), MOST_RATIO * beta * information.size)
    converged = not (free_alpha or free_beta)
    for _ in range(MOST_ROUNDS):
        determined, _ = information.effective(precisions, beta)
        if converged:
            break
        old = np.append(precisions, beta)
        if free_alpha:
            most = MOST_RATIO * beta * information.size
            precisions = np.clip(determined / np.maximum(squares, np.finfo(float).tiny), most * 1e-40, most)
        if free_beta:
            left = likelihood.count - float(np.sum(determined))
            if left <= 0:
                raise ValueError(
                    f"{likelihood.count:g} observations leave nothing to estimate the noise from, beside "
                    f"{np.sum(determined):.3g} parameters that they determine. Pass `noise`; or, where samples have "
                    "weights, make these how often each counts."
                )
            beta = left / likelihood.misfit
        new = np.append(precisions, beta)
        converged = bool(np.all(np.abs(np.log(new / old)) <= TOLERANCE))
    determined, logdet = information.effective(precisions, beta)
    log = likelihood.log(beta) - 0.5 * float(np.sum(precisions * squares)) - 0.5 * logdet
    return Evidence(precisions, float(beta), determined, log, converged)
