"""One network on its way: Levenberg–Marquardt's updates, and precisions of prior and noise by the evidence."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxgeo.linalg.covariance.normal import Factor, NormalInformation
from jaxgeo.linalg.covariance.weighting import RowRoot
from jaxgeo.tabular.local import Local, Past, localise, misfit_of
from jaxgeo.tabular.network import Shape, Vector
from jaxgeo.tabular.targets import AbstractTargets
from jaxgeo.uncertainty.evidence import Evidence, maximise_evidence
from jaxgeo.uncertainty.likelihood import Likelihood

# The noise at the start, as a part of what the targets vary by.
FIRST_NOISE = 0.3
# Labels count so often in the first updates: else what is not learnt at once is pruned before it can be.
FIRST_LABELS, FIRST_UPDATES = 10.0, 8
# The precisions follow the data where an update lowers what is minimised by no more than this part.
FOLLOWS = 0.1
# An observation's misfit that is round-off: of targets that are met exactly the noise is not 0.
LEAST_MISFIT = 1e-24
# A precision so many times as large as what the data say leaves them no say; γ is not known to more digits.
MOST_RATIO = 1e8
# What some of the rows did not need is not ruled out for the others.
MOST_FOR_MORE_ROWS = 1.0
# Tries of one update, each damped more than the one before.
MOST_TRIES = 12
# Entries of D at a time for new rows.
SPREAD_NUMBERS = 2**22
# A network is done where so many updates in a row have hardly changed the logarithm of its evidence.
IN_A_ROW = 3

Inputs = Float[np.ndarray, "N inputs"]


@dataclass
class Member:
    """A network, its precisions, and what its next update goes on from.

    - `alpha`, `beta`: precisions of the groups of parameters, and of the noise; for classes the latter becomes 1.
    - `updates`: how many there were.
    - `damping`: of the next update. `local`: what the data say at θ; None before they have been seen.
    - `past`: what data that are gone have said.
    - `misfit`: at θ, of the data it has been trained on. `log_evidence`: Laplace's approximation, of the last time that
        the precisions followed.
    - `gain`: by how much it grew then.
    - `still`: updates in a row that have hardly changed the latter. `is_behind`: far behind another network.
    """

    shape: Shape
    theta: Vector
    alpha: Float[np.ndarray, " groups"]
    beta: float
    damping: float = 1e-2
    local: Local | None = None
    past: Past | None = None
    misfit: float = np.nan
    log_evidence: float = -np.inf
    gain: float = np.inf
    still: int = 0
    is_behind: bool = False
    updates: int = 0

    @classmethod
    def start(cls, shape: Shape, has_noise: bool, random: np.random.RandomState) -> "Member":
        """Before the first update: the precisions are those of the random weights, and 1 where these are 0."""
        theta, groups = shape.start(random), shape.groups
        counts, squares = np.bincount(groups).astype(float), np.bincount(groups, theta**2)
        alpha = np.where(squares > 0, counts / np.where(squares > 0, squares, 1), 1.0)
        beta = FIRST_NOISE**-2 if has_noise else FIRST_LABELS if shape.widths else 1.0
        return cls(shape, theta, alpha, beta)

    @property
    def is_done(self) -> bool:
        """Whether there is nothing to gain by further updates."""
        return self.is_behind or self.still >= IN_A_ROW

    @property
    def information(self) -> Float[np.ndarray, "K K"]:
        """βDᵀWD + A, the inverse of the covariance of θ."""
        assert self.local is not None
        matrix = self.beta * self.local.square
        matrix[np.diag_indices_from(matrix)] += self.alpha[self.shape.groups]
        return matrix

    def look(self, x: Inputs, targets: AbstractTargets) -> None:
        """See data, which may be others than before."""
        self.local = localise(self.shape, self.theta, x, targets, self.past)
        if self.local.misfit != self.misfit:
            self.misfit, self.gain, self.still, self.is_behind = self.local.misfit, np.inf, 0, False

    def update(self, x: Inputs, targets: AbstractTargets, tol: float) -> None:
        """One update of θ by the data it has seen, and of the precisions where the network follows them.

        Reference: D. W. Marquardt, An algorithm for least-squares estimation of nonlinear parameters, 1963

        **Arguments:**

        - `tol`: a change of the logarithm of the evidence that is hardly one.
        """
        assert self.local is not None
        prior = self.alpha[self.shape.groups]
        before, fall = self._objective(self.theta, self.local.misfit), 0.0
        matrix, gradient = self.information, self.beta * self.local.gradient + prior * self.theta
        diagonal = np.diag(matrix).copy()
        for _ in range(MOST_TRIES):
            matrix[np.diag_indices_from(matrix)] = diagonal * (1 + self.damping)
            step = -Factor(matrix).solve(gradient)
            expected = 0.5 * float(step @ (self.damping * diagonal * step - gradient))
            if not expected > 1e-13 * abs(before):
                break
            moved = self.theta + step
            misfit = misfit_of(self.shape, moved, x, targets, self.past)
            fall = before - self._objective(moved, misfit)
            if fall >= 0:
                self.damping = max(self.damping * max(0.1, 1 - (2 * fall / expected - 1) ** 3), 1e-10)
                self.theta = moved
                self.local = localise(self.shape, moved, x, targets, self.past)
                self.misfit = self.local.misfit
                break
            self.damping *= 8
        self.updates += 1
        if not targets.has_noise and self.beta > 1 and self.updates >= FIRST_UPDATES:
            self.beta, self.damping, self.still = 1.0, max(self.damping, 1e-2), 0
        if not fall > FOLLOWS * before:
            found = self.evidence(targets, rounds=1)
            self.gain = found.log - self.log_evidence
            has_settled = abs(self.gain) < tol and (targets.has_noise or self.beta == 1)
            self.still = self.still + 1 if has_settled else 0
            self.alpha, self.beta, self.log_evidence = found.precisions, found.beta, found.log

    def evidence(self, targets: AbstractTargets, rounds: int) -> Evidence:
        """The evidence after some rounds of Newton's method in the precisions, from where they are."""
        assert self.local is not None
        groups = self.shape.groups
        count = targets.count + (0.0 if self.past is None else self.past.count)
        return maximise_evidence(
            NormalInformation(self.local.square, groups),
            Likelihood(RowRoot(None), count, max(self.local.misfit, LEAST_MISFIT * count), 0.0, targets.has_noise),
            np.bincount(groups, self.theta**2),
            None,
            None if targets.has_noise else self.beta,
            np.bincount(groups).astype(float),
            start=(self.alpha, self.beta),
            rounds=rounds,
            most_ratio=MOST_RATIO,
        )

    def spread(self, x: Inputs) -> tuple[Float[np.ndarray, "N Q"], Float[np.ndarray, "N Q Q"]]:
        """The outputs, and their covariance by what the data leave open of the parameters."""
        shape, factor, means, covariances = self.shape, Factor(self.information), [], []
        size = max(1, SPREAD_NUMBERS // (shape.outputs * shape.size))
        for first in range(0, max(len(x), 1), size):
            activations = shape.activations(self.theta, x[first : first + size])
            count = len(activations[0])
            root = np.broadcast_to(np.eye(shape.outputs), (count, shape.outputs, shape.outputs))
            d = shape.rows(self.theta, activations, root)
            seen = factor.solve(d.T).T
            means.append(shape.read_out(self.theta, activations))
            covariances.append(
                np.einsum("nqk,nrk->nqr", *(each.reshape(count, shape.outputs, -1) for each in (d, seen)))
            )
        return np.concatenate(means), np.concatenate(covariances)

    def keep(self, targets: AbstractTargets) -> None:
        """Take what these data have said for said, so that the next may come without them."""
        assert self.local is not None
        count = targets.count + (0.0 if self.past is None else self.past.count)
        self.past, self.still, self.is_behind = Past(self.local, self.theta, count), 0, False
        self.alpha = np.minimum(self.alpha, MOST_FOR_MORE_ROWS)

    def _objective(self, theta: Vector, misfit: float) -> float:
        """What an update lowers: (β·misfit + θᵀAθ)/2."""
        return 0.5 * (self.beta * misfit + float(self.alpha[self.shape.groups] @ theta**2))
