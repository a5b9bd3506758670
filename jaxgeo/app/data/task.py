"""Training and held-out rows, and how they relate to the user's numbers."""

import enum
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxgeo.app.data.encoder import Encoder
from jaxgeo.fitting.scaling import Scaling


class Kind(enum.Enum):
    """Whether the target is a class or a quantity."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"


@dataclass(frozen=True)
class Task:
    """A data set to train on.

    - `name`: a short name, also that of the run's folder. `source`: where the rows come from, in words.
    - `kind`: classification or regression.
    - `train_inputs` (N, features), `train_targets` (N, Q): standardised; one-hot targets for classification.
    - `test_inputs`, `test_targets`: the held-out rows, standardised by the training rows.
    - `test_rows`: for each held-out row, its line in the file or its number in the data set.
    - `inputs`: the inputs of the network. `outputs`: the target column, or the classes by name.
    - `encoder`: how the columns of a table become inputs.
    - `notes`: decisions that were made on the way, one sentence each.
    - `train_values`: the target of the training rows as it is in the table; None for classes.
    - `train_weights`, `test_weights`: how often each row counts; None for once.
    """

    name: str
    source: str
    kind: Kind
    train_inputs: Float[np.ndarray, "N features"]
    train_targets: Float[np.ndarray, "N Q"]
    test_inputs: Float[np.ndarray, "M features"]
    test_targets: Float[np.ndarray, "M Q"]
    test_rows: tuple[int, ...]
    inputs: Scaling
    outputs: Scaling
    encoder: Encoder
    notes: tuple[str, ...] = ()
    train_values: Float[np.ndarray, " N"] | None = None
    train_weights: Float[np.ndarray, " N"] | None = None
    test_weights: Float[np.ndarray, " M"] | None = None

    @property
    def num_rows(self) -> int:
        """QN."""
        return self.train_targets.size

    @property
    def raw_targets(self) -> Float[np.ndarray, "N Q"]:
        """Of the training rows: the target as it is in the table, or one-hot classes."""
        return self.train_targets if self.train_values is None else self.train_values[:, None]

    @property
    def counts(self) -> Float[np.ndarray, " N"]:
        """How often each training row counts."""
        return np.ones(len(self.train_inputs)) if self.train_weights is None else self.train_weights

    def accuracy(self, taken: Int[np.ndarray, " rows"], *, held_out: bool = True) -> float:
        """Of classes by number, for the held-out or the training rows."""
        targets, weights = self._end(held_out)
        return float(np.average(taken == targets.argmax(axis=1), weights=weights))

    def error(self, predicted: Float[np.ndarray, "rows 1"], *, held_out: bool = True) -> float:
        """The root mean square error of standardised predictions, in the unit of the target."""
        targets, weights = self._end(held_out)
        return float(np.sqrt(np.average((predicted - targets)[:, 0] ** 2, weights=weights)) * self.outputs.scale[0])

    @cached_property
    def linear_score(self) -> float:
        """What a linear model by ridge regression, with a penalty by cross-validation, scores on the held-out rows.

        Accuracy for classification, with one linear model for each class; else the root mean square error.
        """
        from sklearn.linear_model import RidgeCV

        model = RidgeCV(np.logspace(-3, 4, 15)).fit(self.train_inputs, self.train_targets, self.train_weights)
        predicted = model.predict(self.test_inputs).reshape(self.test_targets.shape)
        if self.kind is Kind.CLASSIFICATION:
            return self.accuracy(predicted.argmax(axis=1))
        return self.error(predicted)

    @cached_property
    def boosting_score(self) -> float:
        """What gradient boosting with scikit-learn's defaults scores on the held-out rows, like `linear_score`."""
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
        from threadpoolctl import threadpool_limits

        # Several threads would wait for each other in a busy loop beside other programs.
        with threadpool_limits(1):
            if self.kind is Kind.CLASSIFICATION:
                labels = self.train_targets.argmax(axis=1)
                options: dict[str, Any] = {"random_state": 0}
                if (np.bincount(labels) < 20).any():
                    # Early stopping needs several rows of each class.
                    options["early_stopping"] = False
                classifier = HistGradientBoostingClassifier(**options)
                classifier.fit(self.train_inputs, labels, self.train_weights)
                return self.accuracy(classifier.predict(self.test_inputs))
            model = HistGradientBoostingRegressor(random_state=0)
            model.fit(self.train_inputs, self.train_targets[:, 0], self.train_weights)
            return self.error(model.predict(self.test_inputs)[:, None])

    @property
    def baseline(self) -> float:
        """The score on the held-out rows of predictions that ignore the inputs.

        For classification the accuracy of always answering the most frequent training class; for regression the
        root mean square error of always answering the training mean, in the unit of the target.
        """
        if self.kind is Kind.CLASSIFICATION:
            return self.accuracy(np.full(len(self.test_targets), (self.counts @ self.train_targets).argmax()))
        constant = np.average(self.train_targets, axis=0, weights=self.train_weights)
        return self.error(np.broadcast_to(constant, self.test_targets.shape))

    def _end(self, held_out: bool) -> tuple[Float[np.ndarray, "rows Q"], Float[np.ndarray, " rows"] | None]:
        if held_out:
            return self.test_targets, self.test_weights
        return self.train_targets, self.train_weights
