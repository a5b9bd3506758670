"""Sums of squares: the cost (1.7), and that of residuals."""

import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer

from jaxgeo._checks import as_array, check_count, check_finite, is_concrete, leading_size
from jaxgeo.costs.base import AbstractCost


class AbstractSquares(AbstractCost):
    """C = |deviation|² / 2N."""

    def __call__(self, outputs: Float[Array, "N Q"]) -> Float[Array, ""]:
        return 0.5 * jnp.sum(self.deviation(outputs) ** 2) / self.num_samples

    def gradient(self, outputs: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return self.deviation(outputs) / self.num_samples

    def values(self, outputs: Float[Array, "N Q"]) -> Float[Array, " N"]:
        return 0.5 * jnp.sum(self.deviation(outputs) ** 2, axis=1)

    def decreases(self, outputs: Float[Array, "N Q"], new_outputs: Float[Array, "N Q"]) -> Float[Array, " N"]:
        total = self.deviation(outputs) + self.deviation(new_outputs)
        return 0.5 * jnp.sum((outputs - new_outputs) * total, axis=1)

    def curvature(self, outputs: Float[Array, "N Q"]) -> None:
        return None


class L2(AbstractSquares):
    """C = |x − y|² / 2N, with ∇ₓC = (x − y)/N.

    Paper: (1.7), (1.20)

    **Arguments:**

    - `targets`: y, floating point, of shape (N,), (N, Q) or (N, …), the shape of the outputs up to axes of length 1;
        stored as (N, Q).

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

    @classmethod
    def from_labels(
        cls,
        labels: Integer[ArrayLike, " N"],
        class_vectors: Float[ArrayLike, "classes Q"] | None = None,
        *,
        num_classes: int | None = None,
    ) -> "L2":
        """The cost with targets y_ω(j), j = 1…N.

        Paper: (1.1), (1.2)

        **Arguments:**

        - `labels`: ω, the class of each sample, integers in [0, number of classes).
        - `class_vectors`: the target vector of each class, one a row; one-hot vectors by default.
        - `num_classes`: number of one-hot classes; by default one more than the largest label.

        **Raises:** `ValueError` if the labels are not integers or one lies outside the classes, or if the class
        vectors are not floating point or not finite.

        ```python
        >>> import jaxgeo as jg, numpy as np
        >>> jg.L2.from_labels(np.array([0, 2])).targets.tolist()
        [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]

        ```
        """
        labels = as_array("labels", labels)
        if labels.ndim != 1 or not jnp.issubdtype(labels.dtype, jnp.integer):
            raise ValueError(f"`labels` must be a vector of integers; got shape {labels.shape}, dtype {labels.dtype}.")
        leading_size("labels", labels)
        if num_classes is not None:
            check_count("num_classes", num_classes)
        if class_vectors is None:
            if num_classes is None:
                if not is_concrete(labels):
                    raise ValueError("`num_classes` must be given where `labels` are traced, as inside `jax.jit`.")
                num_classes = max(int(np.asarray(labels).max()) + 1, 1)
            class_vectors = np.eye(num_classes)
        class_vectors = as_array("class_vectors", class_vectors)
        if class_vectors.ndim != 2 or not jnp.issubdtype(class_vectors.dtype, jnp.floating):
            raise ValueError(
                "`class_vectors` must be floating-point numbers of shape (classes, Q); got shape "
                f"{class_vectors.shape}, dtype {class_vectors.dtype}."
            )
        check_finite("class_vectors", class_vectors)
        if is_concrete(labels):
            outside = (np.asarray(labels) < 0) | (np.asarray(labels) >= class_vectors.shape[0])
            if outside.any():
                first = int(np.argmax(outside))
                raise ValueError(
                    f"`labels[{first}]` is {int(np.asarray(labels)[first])}, outside the {class_vectors.shape[0]} "
                    f"classes; labels must lie in [0, {class_vectors.shape[0]})."
                )
        return cls(class_vectors[labels])

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
                f"outputs and `targets` must have the same shape; the network gives outputs of shape {shape}, that is "
                f"Q={math.prod(shape) // self.num_samples} numbers a sample, and `targets` have shape {self.shape}, "
                f"that is Q={self.targets.shape[1]}. Reshape the one or the other."
            )


class SumOfSquares(AbstractSquares):
    """C = |x|² / 2N for rows that are residuals already, however many.

    Paper: (1.7) with y = 0

    **Arguments:**

    - `num_samples`: N, the number of points the residuals belong to.
    """

    num_samples: int = eqx.field(static=True)

    def __check_init__(self):
        check_count("num_samples", self.num_samples)

    def deviation(self, outputs: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return outputs

    def arrange(self, rows: Float[Array, " rows"]) -> Float[Array, "N Q"]:
        return rows.reshape(-1, 1)


class AbstractWithTargets(AbstractCost):
    """A mean over samples whose targets are kept, and outputs arranged, by an `L2`."""

    squares: eqx.AbstractVar[L2]

    def __call__(self, outputs: Float[Array, "N Q"]) -> Float[Array, ""]:
        return jnp.sum(self.values(outputs)) / self.num_samples

    @property
    def num_samples(self) -> int:
        return self.squares.num_samples

    def arrange(self, rows: Float[Array, " rows"]) -> Float[Array, "N Q"]:
        return self.squares.arrange(rows)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        self.squares.check_shape(shape)
