"""The precisions of prior and noise under which the data are most probable, at a fixed θ."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from jaxgeo.linalg.covariance.base import AbstractInformation, Determined
from jaxgeo.uncertainty.likelihood import Likelihood

# Newton's method ends once the gradient is this small relative to the number of observations, or after this many steps.
TOLERANCE = 1e-12
MOST_ROUNDS = 200
# The logarithm of the largest factor by which a precision changes in a step.
LONGEST = 3.0
# A prior precision this many times larger than the precision of the data leaves the data no influence.
MOST_RATIO = 1e16


@dataclass(frozen=True)
class Evidence:
    """The precisions, and the quantities that follow from them.

    - `precisions`: α of each group; `beta`: precision of an observation of weight 1.
    - `determined`: γ of each group, the number of its parameters that the data determine.
    - `log`: the logarithm of the evidence, by Laplace's approximation.
    - `converged`: whether the maximum was reached.
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
    *,
    start: tuple[Float[np.ndarray, " groups"], float] | None = None,
    rounds: int = MOST_ROUNDS,
    most_ratio: float = MOST_RATIO,
) -> Evidence:
    """α_g = γ_g/|θ_g|² and β = (n − Σγ_g)/misfit, MacKay's fixed point, by Newton's method.

    At a fixed θ, twice the logarithm of the evidence is Σ K_g log α_g + n log β − log det(βDᵀWD + A) − β misfit −
    Σ α_g|θ_g|² plus a constant. It is concave in the logarithms of α and β, so it has one maximum, where its gradient
    vanishes. Newton's method finds the maximum in about ten steps; fixed-point iteration may take thousands.

    Reference: D. J. C. MacKay, Bayesian interpolation, 1992, Neural Computation 4; F. D. Foresee and M. T. Hagan,
        Gauss–Newton approximation to Bayesian learning, 1997

    **Arguments:**

    - `squares`: |θ_g|² of each group; `sizes`: its number of parameters.
    - `precisions`, `beta`: given values; None if they are to be found.
    - `start`: precisions and β to start from; by default those that hold if the data determine everything.
    - `rounds`: the most rounds of Newton's method.
    - `most_ratio`: the most that a precision may be, relative to what the data say.

    **Raises:** `ValueError` if the noise is to be found but the outputs match the data exactly.
    """
    free = np.append(np.full(len(squares), precisions is None), beta is None)
    if beta is None and likelihood.misfit <= 0:
        raise ValueError(
            "the outputs match the targets exactly, so there is no noise to estimate. Pass `noise`, the standard "
            "deviation of the targets."
        )
    tiny = 1e-250  # whose inverse is finite
    start_beta = likelihood.count / likelihood.misfit if beta is None else beta
    first = sizes / np.maximum(squares, tiny) if precisions is None else precisions
    most = np.log(most_ratio * start_beta * max(information.size, tiny))
    if precisions is None:
        # A group of zeros would have infinite precision; use an equivalent finite one.
        first = np.minimum(first, np.exp(most))
    if start is not None:
        first, start_beta = np.minimum(start[0], np.exp(most)), start[1]
    logs = np.log(np.append(first, start_beta))
    objective = _Objective(information, likelihood, squares)
    value, known = objective(logs)
    converged = not free.any()
    for _ in range(0 if converged else rounds):
        gradient, hessian = objective.derivatives(logs, known)
        step = _newton(gradient, hessian, free & ~((logs >= most) & (gradient > 0)))
        for _ in range(40):
            # Beyond `most` a prior precision is as good as infinite; the precision of the noise has no such limit.
            moved = np.append(np.minimum((logs + step)[:-1], np.maximum(most, logs[:-1])), (logs + step)[-1])
            new, new_known = objective(moved)
            if new >= value - 1e-13 * abs(value):
                break
            step = step / 2
        change = float(np.max(np.abs(moved - logs)))
        logs, value, known = moved, new, new_known
        converged = change <= 1e-10 or bool(np.max(np.abs(gradient[free])) <= TOLERANCE * max(likelihood.count, 1))
        if converged:
            break
    found = np.exp(logs)
    return Evidence(
        found[:-1] if precisions is None else precisions,
        float(found[-1]) if beta is None else beta,
        known.counts,
        value,
        converged,
    )


class _Objective:
    """The logarithm of the evidence as a function of log α and log β."""

    def __init__(self, information: AbstractInformation, likelihood: Likelihood, squares: Float[np.ndarray, " groups"]):
        self.information = information
        self.likelihood = likelihood
        self.squares = squares

    def __call__(self, logs: Float[np.ndarray, " unknowns"]) -> tuple[float, Determined]:
        precisions, beta = np.exp(logs[:-1]), float(np.exp(logs[-1]))
        known = self.information.determined(precisions, beta)
        penalty = float(np.sum(precisions * self.squares))
        return self.likelihood.log(beta) - 0.5 * penalty - 0.5 * known.logdet, known

    def derivatives(
        self, logs: Float[np.ndarray, " unknowns"], known: Determined
    ) -> tuple[Float[np.ndarray, " unknowns"], Float[np.ndarray, "unknowns unknowns"]]:
        """The gradient, and the second derivatives."""
        penalties, misfit = np.exp(logs[:-1]) * self.squares, np.exp(logs[-1]) * self.likelihood.misfit
        counts, total = known.counts, self.likelihood.count
        gradient = np.append(counts - penalties, total - np.sum(counts) - misfit)
        # Derivatives of log det with respect to log(β/α_g).
        bend = np.diag(counts) - known.products
        hessian = np.zeros((len(logs),) * 2)
        hessian[:-1, :-1] = -bend - np.diag(penalties)
        hessian[:-1, -1] = hessian[-1, :-1] = np.sum(bend, axis=1)
        hessian[-1, -1] = -np.sum(bend) - misfit
        return 0.5 * gradient, 0.5 * hessian


def _newton(
    gradient: Float[np.ndarray, " unknowns"],
    hessian: Float[np.ndarray, "unknowns unknowns"],
    free: Bool[np.ndarray, " unknowns"],
) -> Float[np.ndarray, " unknowns"]:
    """The Newton step in the free precisions, of bounded length."""
    step = np.zeros_like(gradient)
    if free.any():
        part = -hessian[np.ix_(free, free)]
        # Along flat directions, such as a precision far beyond that of the data, step along the gradient alone.
        part = part + 1e-12 * max(float(np.trace(part)), np.finfo(float).tiny) * np.eye(len(part))
        step[free] = np.linalg.solve(part, gradient[free])
    # Each by itself, so that a flat direction, whose step is long, does not hold up the others.
    bounded = np.clip(step, -LONGEST, LONGEST)
    if bounded @ gradient >= 0:
        return bounded
    return step * min(1.0, LONGEST / max(float(np.max(np.abs(step))), 1e-300))
