"""Cross-entropy of a softmax, for classification."""

from typing import overload

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer

from jaxgeo._checks import check_number, is_concrete
from jaxgeo.costs.labels import class_targets
from jaxgeo.costs.roots import SoftmaxRoot
from jaxgeo.costs.samples import SampleWeighted
from jaxgeo.costs.squares import L2, AbstractWithTargets


class SoftmaxCrossEntropy(AbstractWithTargets):
    """C = −Σ_j y_j·log p_j / N, with p_j = softmax(x_j) and class probabilities y_j.

    ∇ₓC = (p − y)/N, and the curvature diag(p) − ppᵀ is both the Hessian and the Fisher information.

    **Arguments:**

    - `targets`: y, of shape (N, Q) with Q ≥ 2; each row is ≥ 0 and sums to 1, such as one-hot or smoothed labels.

    **Raises:** `ValueError` as for `L2`, and if a row does not hold probabilities.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> cost = jg.SoftmaxCrossEntropy(jnp.eye(2))
    >>> round(float(cost(jnp.zeros((2, 2)))), 6)
    0.693147

    ```
    """

    squares: L2

    def __init__(self, targets: ArrayLike):
        self.squares = L2(targets)
        shape = self.squares.targets.shape
        if shape[1] < 2:
            raise ValueError(f"`targets` must have a column for each of at least 2 classes; got shape {shape}.")
        if not is_concrete(self.squares.targets):
            # Traced targets cannot raise an error here. A wrong row, such as the row of 0 that `jax.nn.one_hot` returns
            # for a label outside the classes, makes the cost NaN instead.
            self.squares = eqx.tree_at(lambda squares: squares.targets, self.squares, _or_nan(self.squares.targets))
        else:
            values = np.asarray(self.squares.targets)
            sums = values.sum(axis=1)
            if (values < 0).any() or np.abs(sums - 1).max() > 1e-3:
                worst = int(np.argmax(np.abs(sums - 1)))
                raise ValueError(
                    f"each row of `targets` must be class probabilities; row {worst} is {values[worst]}, with sum "
                    f"{sums[worst]}. Pass integer labels through `SoftmaxCrossEntropy.from_labels`."
                )

    @overload
    @classmethod
    def from_labels(
        cls,
        labels: Integer[ArrayLike, " N"],
        *,
        num_classes: int | None = None,
        smoothing: float = 0.0,
        ignore_label: None = None,
    ) -> "SoftmaxCrossEntropy": ...

    @overload
    @classmethod
    def from_labels(
        cls,
        labels: Integer[ArrayLike, " N"],
        *,
        num_classes: int | None = None,
        smoothing: float = 0.0,
        ignore_label: int,
    ) -> SampleWeighted: ...

    @classmethod
    def from_labels(
        cls,
        labels: Integer[ArrayLike, " N"],
        *,
        num_classes: int | None = None,
        smoothing: float = 0.0,
        ignore_label: int | None = None,
    ) -> "SoftmaxCrossEntropy | SampleWeighted":
        """The cost for integer labels.

        **Arguments:**

        - `labels`: the class of each sample, in [0, `num_classes`).
        - `num_classes`: by default one more than the largest label; needed under `jit`.
        - `smoothing`: the probability spread evenly over all classes. With 0 the cost has no minimiser.
        - `ignore_label`: as for `L2.from_labels`, the label of samples that have none.

        **Raises:** `ValueError` as `L2.from_labels`.

        ```python
        >>> import jaxgeo as jg, numpy as np
        >>> jg.SoftmaxCrossEntropy.from_labels(np.array([0, 1]), smoothing=0.5).targets.tolist()
        [[0.75, 0.25], [0.25, 0.75]]

        ```
        """
        check_number("smoothing", smoothing, least=0, most=1)
        targets, weights = class_targets(labels, None, num_classes, ignore_label)
        cost = cls((1 - smoothing) * targets + smoothing / targets.shape[1])
        return cost if weights is None else SampleWeighted(cost, weights)

    @property
    def targets(self) -> Float[Array, "N Q"]:
        """y, the class probabilities."""
        return self.squares.targets

    def gradient(self, outputs: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return self.deviation(outputs) / self.num_samples

    def deviation(self, outputs: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        """p − y, in units of probability."""
        exponentials, largest, others = self._exponentials(outputs)
        total = 1 + others
        targets = self.targets.astype(outputs.dtype)
        # 1 − p of the likeliest class is others/total, without cancellation.
        return jnp.where(largest, (1 - targets) - others / total, exponentials / total - targets)

    def values(self, outputs: Float[Array, "N Q"]) -> Float[Array, " N"]:
        _, _, others = self._exponentials(outputs)
        shifted = outputs - jnp.max(outputs, axis=1, keepdims=True)
        targets = self.targets.astype(outputs.dtype)
        # Here Σy = 1. A class of probability 0 must not turn an infinite logit into NaN, but a target of NaN must.
        return jnp.log1p(others[:, 0]) - jnp.sum(jnp.where(targets == 0, 0, targets * shifted), axis=1)

    def decreases(self, outputs: Float[Array, "N Q"], new_outputs: Float[Array, "N Q"]) -> Float[Array, " N"]:
        return self.values(outputs) - self.values(new_outputs)

    def curvature(self, outputs: Float[Array, "N Q"]) -> SoftmaxRoot:
        """The root for p, which is kept above the dtype's eps because lifts divide by L."""
        exponentials, _, others = self._exponentials(outputs)
        probabilities = jnp.maximum(exponentials / (1 + others), jnp.finfo(outputs.dtype).eps)
        return SoftmaxRoot(probabilities / jnp.sum(probabilities, axis=1, keepdims=True))

    def _exponentials(self, outputs: Float[Array, "N Q"]) -> tuple[Array, Array, Array]:
        """exp(x − max x), which entry is the (first) maximum, and the sum over all others, of shape (N, 1)."""
        exponentials = jnp.exp(outputs - jnp.max(outputs, axis=1, keepdims=True))
        largest = jnp.arange(outputs.shape[1])[None, :] == jnp.argmax(outputs, axis=1)[:, None]
        return exponentials, largest, jnp.sum(jnp.where(largest, 0, exponentials), axis=1, keepdims=True)


def _or_nan(targets: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
    """The targets, with NaN in each row that does not hold probabilities."""
    off = jnp.abs(jnp.sum(targets, axis=1) - 1) > 1e-3 + 8 * jnp.finfo(targets.dtype).eps
    return jnp.where((off | jnp.any(targets < 0, axis=1))[:, None], jnp.nan, targets)
