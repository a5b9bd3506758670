"""Rows of numbers in, predictions with their distribution out: the model behind the estimators."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxgeo.fitting.scaling import Scaling
from jaxgeo.tabular.calibration import Calibration, calibrate
from jaxgeo.tabular.ensemble import TOL, Ensemble
from jaxgeo.tabular.member import Member
from jaxgeo.tabular.network import Shape
from jaxgeo.tabular.plan import STARTS, plan_networks
from jaxgeo.tabular.targets import Labels, Numbers, log_probabilities
from jaxgeo.uncertainty.mixtures import Mixture
from jaxgeo.uncertainty.prediction import Prediction

# By so much a row the logarithms of positive targets must be the more probable to be what is learnt. A linear model
# judges, and gains by them also where the target bends, which the networks can learn as it is.
LOG_GAIN = 0.25
# How far beyond those of the rows logarithms are predicted, as a part of their range.
MARGIN = 0.25
# Of fewer rows that is not asked.
LEAST_ROWS = 20

# More columns than these are projected onto their principal axes, of which at most as many are kept.
MOST_COLUMNS = 1000

Rows = Float[np.ndarray, "rows _"]


@dataclass
class TableModel:
    """Networks trained on standardised rows, for targets that are numbers or one-hot classes.

    - `inputs`: the standardisation of the rows. `axes`: onto which they are projected where there are more columns than
        rows, which loses nothing, or more than a thousand; else None.
    - `outputs`: the standardisation of numbers, or of their logarithms if `takes_logs`; None for classes.
    - `bounds`: of the logarithms that are predicted, a quarter beyond those of the first rows: what a network
        extrapolates would become huge.
    - `ensemble`: the networks. `calibration`: of probabilities of classes.
    """

    inputs: Scaling
    axes: Float[np.ndarray, "columns rank"] | None
    outputs: Scaling | None
    takes_logs: bool
    bounds: tuple[float, float]
    ensemble: Ensemble
    calibration: Calibration = Calibration()

    @classmethod
    def start(
        cls,
        rows: Rows,
        targets: Rows,
        weights: Float[np.ndarray, " rows"],
        *,
        are_classes: bool,
        hidden: Sequence[int] | None = None,
        starts: int = STARTS,
        random: np.random.RandomState,
    ) -> "TableModel":
        """Before training: scales, whether logarithms are learnt, and the networks.

        **Arguments:**

        - `rows`, `targets`: numbers, or one-hot classes for `are_classes`.
        - `weights`: how often each row counts.
        - `hidden`, `starts`: as for `plan_networks`.

        **Raises:** `ValueError` if numbers are too large or too small to be standardised.
        """
        inputs = Scaling.fit(tuple(f"column {i}" for i in range(rows.shape[1])), rows, weights)
        z = standardised(inputs, rows, "X")
        axes = _axes(z, weights) if z.shape[1] > min(float(weights.sum()), MOST_COLUMNS) else None
        if axes is not None:
            z = z @ axes
        if are_classes:
            columns = 1 if targets.shape[1] == 2 else targets.shape[1]
            outputs, takes_logs = None, False
        else:
            columns = targets.shape[1]
            outputs, takes_logs = _scale_of_targets(z, targets, weights)
        bounds = (-np.inf, np.inf)
        if takes_logs:
            low, high = float(np.log(targets.min())), float(np.log(targets.max()))
            bounds = (low - MARGIN * (high - low), high + MARGIN * (high - low))
        plan = plan_networks(len(z), z.shape[1], columns, hidden, starts)
        return cls(inputs, axes, outputs, takes_logs, bounds, Ensemble.start(plan, not are_classes, random))

    def train(
        self,
        rows: Rows,
        targets: Rows,
        weights: Float[np.ndarray, " rows"],
        *,
        rounds: int,
        tol: float = TOL,
        seconds: float | None = None,
        progress: Callable[[Ensemble], bool] = lambda _: True,
        keep: bool = False,
    ) -> None:
        """Go on training, as `Ensemble.train` does; with `keep` the rows may be gone afterwards."""
        learnt = self._targets(targets, weights)
        self.ensemble.train(self._inputs(rows), learnt, rounds=rounds, tol=tol, seconds=seconds, progress=progress)
        if isinstance(learnt, Labels):
            self.calibration = calibrate(self._asked, self._inputs(rows), learnt)
        if keep:
            self.ensemble.keep(learnt)

    @property
    def noise(self) -> Float[np.ndarray, " Q"] | None:
        """The deviation of the targets' noise in their unit, a part of their size where logarithms are learnt."""
        if self.outputs is None:
            return None
        kept = [(weight, member.beta) for weight, member in self._asked]
        return np.sqrt(sum(weight / beta for weight, beta in kept)) * self.outputs.scale

    @property
    def log_evidence(self) -> float:
        """The largest of the networks."""
        return float(self.ensemble.log_evidences.max())

    @property
    def num_effective(self) -> float:
        """γ, how many parameters the data determine, as the mean of the networks."""
        counts = [float(each.determined.sum()) for each in self.ensemble.evidences]
        return float(self.ensemble.weights @ counts)

    def predict(self, rows: Rows) -> Rows:
        """The mean of numbers for each row, or the outputs' mean for classes."""
        x = self._inputs(rows)
        if self.outputs is None:
            return self.probabilities(rows)
        found = np.zeros((len(x), len(self.outputs.names)))
        for weight, member in self._asked:
            found += weight * self._predict_by(member, x)
        return found

    def predict_by_best(self, rows: Rows) -> Rows:
        """What the network of the largest evidence says alone, also within training: numbers, or probabilities."""
        best, x = max(self.ensemble.members, key=lambda member: member.log_evidence), self._inputs(rows)
        if self.outputs is None:
            return np.exp(log_probabilities(best.shape(best.theta, x)))
        return self._predict_by(best, x)

    def distribution(self, rows: Rows) -> Mixture:
        """Of new targets in the unit in which they are learnt: standardised, and logarithms if `takes_logs`."""
        assert self.outputs is not None
        x, found = self._inputs(rows), []
        weights = np.array([weight for weight, _ in self._asked])
        with jax.enable_x64(True):
            for _, member in self._asked:
                mean, covariance = member.spread(x)
                noise = float(member.beta**-0.5)
                found.append(Prediction(jnp.asarray(mean), jnp.asarray(covariance), noise, np.inf))
            return Mixture(tuple(found), jnp.asarray(weights))

    def deviation(self, rows: Rows) -> Rows:
        """The standard deviation of a new target, with its noise."""
        assert self.outputs is not None
        with jax.enable_x64(True):
            mixed = self.distribution(rows)
            spreads = np.asarray(mixed.observed_deviation) * self.outputs.scale
        if not self.takes_logs:
            return spreads
        with np.errstate(over="ignore"):
            return self.predict(rows) * np.sqrt(np.expm1(spreads**2))

    def interval(self, rows: Rows, coverage: float) -> tuple[Rows, Rows]:
        """From where to where a new target is with this probability."""
        assert self.outputs is not None
        with jax.enable_x64(True):
            ends = self.distribution(rows).interval(coverage)
        low, high = (self.outputs.invert(np.asarray(end)) for end in ends)
        return (np.exp(low), np.exp(high)) if self.takes_logs else (low, high)

    def probabilities(self, rows: Rows) -> Rows:
        """Of each class, with what the data leave open of the parameters."""
        x = self._inputs(rows)
        return self.calibration([(weight, *member.spread(x)) for weight, member in self._asked])

    @property
    def _asked(self) -> list[tuple[float, Member]]:
        """The networks that have a weight."""
        return [
            (float(weight), member)
            for weight, member in zip(self.ensemble.weights, self.ensemble.members, strict=True)
            if weight > 0
        ]

    def _inputs(self, rows: Rows) -> Rows:
        z = standardised(self.inputs, rows, "X")
        return z if self.axes is None else z @ self.axes

    def _targets(self, targets: Rows, weights: Float[np.ndarray, " rows"]) -> Numbers | Labels:
        if self.outputs is None:
            return Labels(targets, weights)
        if self.takes_logs and not (targets > 0).all():
            raise ValueError("`y` was positive in the rows trained on first, and now is not; fit all rows at once.")
        return Numbers(standardised(self.outputs, np.log(targets) if self.takes_logs else targets, "y"), weights)

    def _predict_by(self, member: Member, x: Rows) -> Rows:
        assert self.outputs is not None
        found = self.outputs.invert(member.shape(member.theta, x))
        return self._mean_of_logs(found, 1 / member.beta) if self.takes_logs else found

    def _mean_of_logs(self, logs: Rows, variance: float) -> Rows:
        """The mean of e^t, t normal with this variance in standardised units."""
        assert self.outputs is not None
        with np.errstate(over="ignore"):
            return np.exp(np.clip(logs, *self.bounds) + 0.5 * variance * self.outputs.scale**2)


def standardised(scaling: Scaling, values: Rows, name: str) -> Rows:
    """Standardised numbers; `ValueError` if some are not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = scaling.apply(values)
    if not np.isfinite(found).all():
        column = int(np.argmin(np.isfinite(found).all(axis=0)))
        raise ValueError(
            f"`{name}` has numbers in column {column} that are not finite once they are standardised; mend them, or "
            "give them in another unit."
        )
    return found


def _axes(z: Rows, weights: Float[np.ndarray, " rows"]) -> Float[np.ndarray, "columns rank"]:
    """The principal axes on which the rows differ, each with the sign of its largest entry."""
    _, sizes, right = np.linalg.svd(np.sqrt(weights)[:, None] * z, full_matrices=False)
    rank = min(max(1, int(np.sum(sizes > 1e-10 * sizes[0]))), MOST_COLUMNS)
    right = right[:rank]
    largest = np.argmax(np.abs(right), axis=1)
    return (right * np.sign(right[np.arange(rank), largest])[:, None]).T


def _scale_of_targets(z: Rows, targets: Rows, weights: Float[np.ndarray, " rows"]) -> tuple[Scaling, bool]:
    """The scales of the targets, or of their logarithms where these are much more probable by a linear model."""
    names = tuple(f"target {i}" for i in range(targets.shape[1]))
    plain = Scaling.fit(names, targets, weights)
    if targets.shape[1] > 1 or not (targets > 0).all() or plain.constant or len(z) < LEAST_ROWS:
        return plain, False
    logs = Scaling.fit(names, np.log(targets), weights)
    if logs.constant:
        return plain, False
    found = []
    for scaling, values, stretch in ((plain, targets, 0.0), (logs, np.log(targets), np.log(targets))):
        linear = Ensemble([Member.start(Shape(z.shape[1], (), 1), True, np.random.RandomState(0))], None)
        linear.train(z, Numbers(standardised(scaling, values, "y"), weights), rounds=10)
        change = float(weights @ np.sum(stretch + np.log(scaling.scale) + np.zeros_like(targets), axis=1))
        found.append(linear.log_evidences[0] - change)
    takes_logs = found[1] - found[0] > LOG_GAIN * weights.sum()
    return (logs, True) if takes_logs else (plain, False)
