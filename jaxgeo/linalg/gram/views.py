"""Follow a marked leaf through operations that only rearrange it."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jaxtyping import Array

from jaxgeo.linalg.gram.uses import Marked


def _transpose(marked: Marked, value: Array, params: dict) -> Marked:
    return marked._replace(value=value, axes=tuple(marked.axes[i] for i in params["permutation"]))


def _squeeze(marked: Marked, value: Array, params: dict) -> Marked:
    dropped = set(params["dimensions"])
    return marked._replace(value=value, axes=tuple(a for i, a in enumerate(marked.axes) if i not in dropped))


def _broadcast(marked: Marked, value: Array, params: dict) -> Marked:
    axes: list[int | None] = [None] * value.ndim
    for source, target in enumerate(params["broadcast_dimensions"]):
        if marked.value.shape[source] == value.shape[target]:
            axes[target] = marked.axes[source]
    return marked._replace(value=value, axes=tuple(axes))


def _reshape(marked: Marked, value: Array, params: dict) -> Marked | None:
    if params.get("dimensions") is not None:
        return None
    long_before = [(size, axis) for size, axis in zip(marked.value.shape, marked.axes, strict=True) if size != 1]
    if [size for size in value.shape if size != 1] == [size for size, _ in long_before]:
        # The reshape only adds or removes axes of length 1.
        remaining = iter(axis for _, axis in long_before)
        return marked._replace(value=value, axes=tuple(next(remaining) if size != 1 else None for size in value.shape))
    untouched = (
        not marked.loops and marked.value.shape == marked.shape and marked.axes == tuple(range(len(marked.shape)))
    )
    if not untouched:
        return None
    part = tuple((0, size) for size in value.shape)
    return Marked(value, marked.leaf, value.shape, part, tuple(range(value.ndim)))


def cut(marked: Marked, value: Array, starts: Sequence[int]) -> Marked | None:
    part = list(marked.part)
    for axis, start, before, after in zip(marked.axes, starts, marked.value.shape, value.shape, strict=True):
        if axis is None:
            if before != after:
                return None
        else:
            part[axis] = (part[axis][0] + int(start), after)
    return marked._replace(value=value, part=tuple(part))


def _slice(marked: Marked, value: Array, params: dict) -> Marked | None:
    if params["strides"] is not None and any(stride != 1 for stride in params["strides"]):
        return None
    return cut(marked, value, params["start_indices"])


def _convert(marked: Marked, value: Array, params: dict) -> Marked | None:
    return marked._replace(value=value) if jnp.issubdtype(value.dtype, jnp.floating) else None


VIEWS: dict[str, Callable[[Marked, Array, dict], Marked | None]] = {
    "transpose": _transpose,
    "squeeze": _squeeze,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "slice": _slice,
    "convert_element_type": _convert,
    "copy": _convert,
}
