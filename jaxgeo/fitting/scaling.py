"""Scale columns of numbers to mean 0 and standard deviation 1, and back."""

from dataclasses import dataclass

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float
from numpy.typing import NDArray

from jaxgeo._checks import as_table, leading_size


@dataclass(frozen=True)
class Scaling:
    """Columns and their standardisation, z = (value − mean) / scale.

    - `names`: of the columns. `mean`, `scale`: one number for each column. `constant`: columns that hold only one
        value.

    ```python
    >>> import numpy as np
    >>> from jaxgeo.fitting import Scaling
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
    def fit(
        cls,
        names: tuple[str, ...],
        values: Float[ArrayLike, "rows columns"],
        weights: Float[np.ndarray, " rows"] | None = None,
    ) -> "Scaling":
        """Mean and standard deviation of each column; a constant column keeps the scale 1.

        **Arguments:**

        - `weights`: how often each row counts; by default once.
        """
        values = as_table("values", values, len(names))
        leading_size("values", values)
        # Divide by the largest value first, so that no square overflows or underflows.
        largest = np.abs(values).max(axis=0)
        unit = np.where(largest > 0, largest, 1.0)
        mean = np.average(values / unit, axis=0, weights=weights)
        scale = np.sqrt(np.average((values / unit - mean) ** 2, axis=0, weights=weights))
        # The computed standard deviation of equal numbers is round-off relative to their size, not 0.
        flat = scale <= 1e-12
        constant = tuple(name for name, is_flat in zip(names, flat, strict=True) if is_flat)
        return cls(names, mean * unit, np.where(flat, 1.0, scale * unit), constant)

    @classmethod
    def identity(cls, names: tuple[str, ...]) -> "Scaling":
        """Columns that are not scaled."""
        return cls(names, np.zeros(len(names)), np.ones(len(names)))

    def apply(self, values: Float[ArrayLike, "rows columns"]) -> Float[np.ndarray, "rows columns"]:
        """z of raw rows."""
        return (as_table("values", values, len(self.names)) - self.mean) / self.scale

    def invert(self, z: Float[ArrayLike, "rows columns"]) -> Float[np.ndarray, "rows columns"]:
        """Raw rows of z."""
        return np.asarray(z, np.float64) * self.scale + self.mean
