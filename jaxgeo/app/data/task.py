"""Training and held-out rows, and how they relate to the user's numbers."""

import enum
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

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

    @property
    def num_rows(self) -> int:
        """QN."""
        return self.train_targets.size

    @cached_property
    def linear_score(self) -> float:
        """What a linear model by ridge regression, with a penalty by cross-validation, scores on the held-out rows.

        Accuracy for classification, with one linear model for each class; else the root mean square error.
        """
        from sklearn.linear_model import RidgeCV

        model = RidgeCV(np.logspace(-3, 4, 15)).fit(self.train_inputs, self.train_targets)
        predicted = model.predict(self.test_inputs).reshape(self.test_targets.shape)
        if self.kind is Kind.CLASSIFICATION:
            return float(np.mean(predicted.argmax(axis=1) == self.test_targets.argmax(axis=1)))
        return float(np.sqrt(np.mean((predicted - self.test_targets) ** 2)) * self.outputs.scale[0])

    @property
    def baseline(self) -> float:
        """The score on the held-out rows of predictions that ignore the inputs.

        For classification the accuracy of always answering the most frequent training class; for regression the
        root mean square error of always answering the training mean, in the unit of the target.
        """
        if self.kind is Kind.CLASSIFICATION:
            favourite = self.train_targets.sum(axis=0).argmax()
            return float(np.mean(self.test_targets.argmax(axis=1) == favourite))
        constant = self.train_targets.mean(axis=0)
        return float(np.sqrt(np.mean((self.test_targets - constant) ** 2)) * self.outputs.scale[0])
