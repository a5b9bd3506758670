"""Sums of squares: the cost (1.7), and the cost of residuals."""

import math
from typing import overload

import equinox as eqx
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Integer

from jaxgeo._checks import as_array, check_finite, leading_size
from jaxgeo._fields import COUNT, Checked
from jaxgeo._sums import total
from jaxgeo.costs.base import AbstractCost
from jaxgeo.costs.labels import class_targets
from jaxgeo.costs.samples import SampleWeighted


class AbstractSquares(AbstractCost):
    """C = |deviation|² / 2N."""

    def __call__(self, outputs: Float[Array, "N Q"]) -> Float[Array, ""]:
        return 0.5 * total(self.deviation(outputs) ** 2) / self.num_samples

    def gradient(self, outputs: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return self.deviation(outputs) / self.num_samples

    def values(self, outputs: Float[Array, "N Q"]) -> Float[Array, " N"]:
        return 0.5 * jnp.sum(self.deviation(outputs) ** 2, axis=1)

    def decreases(self, outputs: Float[Array, "N Q"], new_outputs: Float[Array, "N Q"]) -> Float[Array, " N"]:
        both = self.deviation(outputs) + self.deviation(new_outputs)
        return 0.5 * jnp.sum((outputs - new_outputs) * both, axis=1)

    def curvature(self, outputs: Float[Array, "N Q"]) -> None:
        return None


class L2(AbstractSquares):
    """C = |x − y|² / 2N, with ∇ₓC = (x − y)/N.

    Paper: (1.7), (1.20)

    **Arguments:**

    - `targets`: y, floating point, of shape (N,), (N, Q) or (N, …): the shape of the outputs, up to axes of length 1.
        They are stored as (N, Q).

    **Raises:** `ValueError` if the targets are empty, not floating point, or not finite.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> cost = jg.L2(jnp.array([[1.0, 0.0], [0.0, 1.0]]))
    >>> float(cost(jnp.zeros((2, 2))))
    0.5

    ```
    """

    targets: Float[Array, "N Q"]
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, targets: ArrayLike):
        targets = as_array("targets", targets)
        if not jnp.issubdtype(targets.dtype, jnp.floating):
            raise ValueError(
                f"`targets` must be real floating-point numbers; got dtype {targets.dtype}. Convert them with "
                "`.astype(float)`, or pass class labels through `L2.from_labels(labels)`."
            )
        num_samples = leading_size("targets", targets)
        check_finite("targets", targets)
        self.targets = targets.reshape(num_samples, -1)
        self.shape = targets.shape

    @overload
    @classmethod
    def from_labels(
        cls,
        labels: Integer[ArrayLike, " N"],
        class_vectors: Float[ArrayLike, "classes Q"] | None = None,
        *,
        num_classes: int | None = None,
        ignore_label: None = None,
    ) -> "L2": ...

    @overload
    @classmethod
    def from_labels(
        cls,
        labels: Integer[ArrayLike, " N"],
        class_vectors: Float[ArrayLike, "classes Q"] | None = None,
        *,
        num_classes: int | None = None,
        ignore_label: int,
    ) -> SampleWeighted: ...

    @classmethod
    def from_labels(
        cls,
        labels: Integer[ArrayLike, " N"],
        class_vectors: Float[ArrayLike, "classes Q"] | None = None,
        *,
        num_classes: int | None = None,
        ignore_label: int | None = None,
    ) -> "L2 | SampleWeighted":
        """The cost with targets y_ω(j), j = 1…N.

        Paper: (1.1), (1.2)

        **Arguments:**

        - `labels`: ω, the class of each sample, integers in [0, number of classes).
        - `class_vectors`: the target vector of each class, one a row; one-hot vectors by default.
        - `num_classes`: number of one-hot classes; by default one more than the largest label. Needed under `jit`.
        - `ignore_label`: marks samples without a label, such as -1 for padding. They get weight 0: the cost is then a
            `jaxgeo.SampleWeighted`, the mean over the others.

        **Raises:** `ValueError` if the labels are not integers or one lies outside the classes, or if the class
        vectors are not floating point or not finite. Under `jit` labels cannot be checked: one outside the classes
        makes the cost NaN, and the optimizers take no step.

        ```python
        >>> import jaxgeo as jg, numpy as np
        >>> jg.L2.from_labels(np.array([0, 2])).targets.tolist()
        [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
        >>> jg.L2.from_labels(np.array([0, 2, -1]), ignore_label=-1).weights.tolist()
        [1.0, 1.0, 0.0]

        ```
        """
        targets, weights = class_targets(labels, class_vectors, num_classes, ignore_label)
        return cls(targets) if weights is None else SampleWeighted(cls(targets), weights)

    @property
    def given(self) -> Float[Array, "N ..."]:
        """y in the shape in which it was given."""
        return self.targets.reshape(self.shape)

    def take(self, index: Int[ArrayLike, " kept"]) -> "L2":
        return L2(self.given[index])

    def constant_outputs(self, weights: Float[Array, " N"] | None = None) -> Float[Array, "N Q"]:
        mean = jnp.average(self.targets, axis=0, weights=weights)
        return jnp.broadcast_to(mean, self.targets.shape)

    def deviation(self, outputs: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return outputs - self.targets.astype(outputs.dtype)

    @property
    def num_samples(self) -> int:
        return self.targets.shape[0]

    def arrange(self, rows: Float[Array, " rows"]) -> Float[Array, "N Q"]:
        return rows.reshape(self.targets.shape)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        if [size for size in shape if size != 1] != [size for size in self.shape if size != 1]:
            raise ValueError(
                f"outputs and `targets` must have the same shape; the network returns outputs of shape {shape}, "
                f"that is Q={math.prod(shape) // self.num_samples} numbers per sample, but `targets` have shape "
                f"{self.shape}, that is Q={self.targets.shape[1]}. Reshape one of them."
            )


class SumOfSquares(Checked, AbstractSquares):
    """C = |x|² / 2N for rows that are residuals already, however many.

    Paper: (1.7) with y = 0

    **Arguments:**

    - `num_samples`: N, the number of points the residuals belong to.
    """

    num_samples: int = eqx.field(static=True, metadata=COUNT)

    def deviation(self, outputs: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return outputs

    def arrange(self, rows: Float[Array, " rows"]) -> Float[Array, "N Q"]:
        return rows.reshape(-1, 1)


class AbstractWithTargets(AbstractCost):
    """A mean over samples that leaves keeping targets and arranging outputs to an `L2`."""

    squares: eqx.AbstractVar[L2]

    def __call__(self, outputs: Float[Array, "N Q"]) -> Float[Array, ""]:
        return jnp.sum(self.values(outputs)) / self.num_samples

    @property
    def num_samples(self) -> int:
        return self.squares.num_samples

    def take(self, index: Int[ArrayLike, " kept"]) -> "AbstractWithTargets":
        return eqx.tree_at(lambda cost: cost.squares, self, self.squares.take(index))

    def constant_outputs(self, weights: Float[Array, " N"] | None = None) -> Float[Array, "N Q"]:
        return self.squares.constant_outputs(weights)

    def arrange(self, rows: Float[Array, " rows"]) -> Float[Array, "N Q"]:
        return self.squares.arrange(rows)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        self.squares.check_shape(shape)
