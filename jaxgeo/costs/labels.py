"""Turn class labels into targets."""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer

from jaxgeo._checks import as_array, check_count, check_finite, is_concrete, leading_size


def class_targets(
    labels: Integer[ArrayLike, " N"],
    class_vectors: Float[ArrayLike, "classes Q"] | None = None,
    num_classes: int | None = None,
    ignore_label: int | None = None,
) -> tuple[Float[Array, "N Q"], Float[Array, " N"] | None]:
    """The target vectors of labels, and the weights of the samples: 0 where a label is `ignore_label`.

    A traced label outside the classes cannot raise an error, so it gets a target of NaN.

    **Arguments:** as for `L2.from_labels`.

    **Returns:** the targets, and the weights, which are None without `ignore_label`.

    **Raises:** `ValueError` as `L2.from_labels`.
    """
    labels = as_array("labels", labels)
    if labels.ndim != 1 or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"`labels` must be a vector of integers; got shape {labels.shape}, dtype {labels.dtype}.")
    leading_size("labels", labels)
    if num_classes is not None:
        check_count("num_classes", num_classes)
    _check_ignored(ignore_label, labels)
    if class_vectors is None:
        class_vectors = np.eye(_number_of_classes(labels, ignore_label) if num_classes is None else num_classes)
    class_vectors = as_array("class_vectors", class_vectors)
    if class_vectors.ndim != 2 or not jnp.issubdtype(class_vectors.dtype, jnp.floating):
        raise ValueError(
            "`class_vectors` must be floating-point numbers of shape (classes, Q); got shape "
            f"{class_vectors.shape}, dtype {class_vectors.dtype}."
        )
    check_finite("class_vectors", class_vectors)
    count = class_vectors.shape[0]
    if is_concrete(labels):
        _check_labels(np.asarray(labels), count, ignore_label)
    # A narrow dtype may be unable to hold the number of classes.
    labels = labels if labels.dtype.itemsize >= 4 else labels.astype(jnp.int32)
    ignored = jnp.zeros(labels.shape, bool) if ignore_label is None else labels == ignore_label
    inside = (labels >= 0) & (labels < count) & ~ignored
    targets = class_vectors[jnp.where(inside, labels, 0)]
    targets = jnp.where((inside | ignored)[:, None], targets, jnp.nan)
    return targets, None if ignore_label is None else (~ignored).astype(targets.dtype)


def _check_ignored(ignore_label: int | None, labels: Array) -> None:
    if ignore_label is None:
        return
    if not isinstance(ignore_label, int | np.integer) or isinstance(ignore_label, bool):
        raise ValueError(f"`ignore_label` must be an integer, such as -1, or None; got {ignore_label!r}.")
    limits = jnp.iinfo(labels.dtype)
    if not limits.min <= ignore_label <= limits.max:
        raise ValueError(
            f"`labels` of dtype {labels.dtype} cannot hold `ignore_label`={ignore_label}; it has turned into another "
            "number in them. Convert the labels to a wider dtype before you mark samples in them."
        )


def _number_of_classes(labels: Array, ignore_label: int | None) -> int:
    """One more than the largest label."""
    if not is_concrete(labels):
        raise ValueError("`num_classes` must be given where `labels` are traced, as inside `jax.jit`.")
    known = np.asarray(labels)
    if ignore_label is not None:
        known = known[known != ignore_label]
    return max(int(known.max(initial=0)) + 1, 1)


def _check_labels(labels: Integer[np.ndarray, " N"], count: int, ignore_label: int | None) -> None:
    outside = (labels < 0) | (labels >= count)
    if ignore_label is not None:
        outside &= labels != ignore_label
        if (labels == ignore_label).all():
            raise ValueError(
                f"`labels` are all `ignore_label`={ignore_label}; pass at least one sample that has a label."
            )
    if outside.any():
        first = int(np.argmax(outside))
        advice = f" Pass `ignore_label={labels[first]}` if it marks samples without a label." * (ignore_label is None)
        raise ValueError(
            f"`labels[{first}]` is {int(labels[first])}, outside the {count} classes; labels must lie in "
            f"[0, {count}).{advice}"
        )
