"""What there is to learn: training and held-out rows, and how they relate to the user's numbers."""

import enum
from dataclasses import dataclass

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float
from numpy.typing import NDArray

from jaxgeo._checks import as_table, leading_size


class Kind(enum.Enum):
    """What the target is."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"


@dataclass(frozen=True)
class Scaling:
    """Columns and their standardisation, z = (value − mean) / scale.

    - `names`: of the columns. `mean`, `scale`: one number a column. `constant`: the columns that hold one value only.

    ```python
    >>> import numpy as np
    >>> from jaxgeo.problems import Scaling
    >>> scaling = Scaling.fit(("a", "b"), np.array([[1.0, 5.0], [3.0, 5.0]]))
    >>> scaling.apply(np.array([[3.0, 6.0]])).tolist(), scaling.constant
    ([[1.0, 1.0]], ('b',))

    ```
    """

    names: tuple[str, ...]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    constant: tuple[str, ...] = ()

    @classmethod
    def fit(cls, names: tuple[str, ...], values: Float[ArrayLike, "rows columns"]) -> "Scaling":
        """Mean and standard deviation of each column; a constant column keeps the scale 1."""
        values = as_table("values", values, len(names))
        leading_size("values", values)
        mean, scale = values.mean(axis=0), values.std(axis=0)
        # The standard deviation of equal numbers is round-off of their size, not 0.
        flat = scale <= 1e-12 * np.abs(values).max(axis=0)
        constant = tuple(name for name, is_flat in zip(names, flat, strict=True) if is_flat)
        return cls(names, mean, np.where(flat, 1.0, scale), constant)

    @classmethod
    def identity(cls, names: tuple[str, ...]) -> "Scaling":
        """Columns that are used as they are."""
        return cls(names, np.zeros(len(names)), np.ones(len(names)))

    def apply(self, values: Float[ArrayLike, "rows columns"]) -> Float[np.ndarray, "rows columns"]:
        """z of raw rows."""
        return (as_table("values", values, len(self.names)) - self.mean) / self.scale

    def invert(self, z: Float[ArrayLike, "rows columns"]) -> Float[np.ndarray, "rows columns"]:
        """Raw rows of z."""
        return np.asarray(z, np.float64) * self.scale + self.mean


@dataclass(frozen=True)
class Task:
    """A data set to train on.

    - `name`: a short name, also that of the run's folder. `source`: where the rows come from, in words.
    - `kind`: classification or regression.
    - `train_inputs` (N, features), `train_targets` (N, Q): standardised; one-hot targets for classification.
    - `test_inputs`, `test_targets`: the held-out rows, standardised by the training rows.
    - `inputs`: the features. `outputs`: the target column, or the classes by name.
    - `notes`: decisions that were made on the way, one sentence each.
    """

    name: str
    source: str
    kind: Kind
    train_inputs: Float[np.ndarray, "N features"]
    train_targets: Float[np.ndarray, "N Q"]
    test_inputs: Float[np.ndarray, "M features"]
    test_targets: Float[np.ndarray, "M Q"]
    inputs: Scaling
    outputs: Scaling
    notes: tuple[str, ...] = ()

    @property
    def num_rows(self) -> int:
        """QN."""
        return self.train_targets.size

    @property
    def baseline(self) -> float:
        """What predicting without the inputs would score on the held-out rows.

        For classification the accuracy of always answering the most frequent training class; for regression the
        root mean square error of always answering the training mean, in the unit of the target.
        """
        if self.kind is Kind.CLASSIFICATION:
            favourite = self.train_targets.sum(axis=0).argmax()
            return float(np.mean(self.test_targets.argmax(axis=1) == favourite))
        constant = self.train_targets.mean(axis=0)
        return float(np.sqrt(np.mean((self.test_targets - constant) ** 2)) * self.outputs.scale[0])
