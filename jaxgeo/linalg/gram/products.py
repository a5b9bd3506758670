"""Operations that multiply a marked leaf, which are its uses; they return None for a form that is not understood."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn
from jaxtyping import Array

from jaxgeo.linalg.gram.uses import Label, Marked, Recorder, bind, shape_of
from jaxgeo.linalg.gram.views import cut


def _split(recorder: Recorder, eqn: JaxprEqn, values: list) -> list | None:
    (marked,) = values
    axis, start, outputs = eqn.params["axis"], 0, []
    for value in bind(eqn, [marked.value]):
        starts = [start if i == axis else 0 for i in range(value.ndim)]
        outputs.append(cut(marked, value, starts))
        start += value.shape[axis]
    return None if any(output is None for output in outputs) else outputs


def _dot_general(recorder: Recorder, eqn: JaxprEqn, values: list) -> list | None:
    contracted, batch = eqn.params["dimension_numbers"]
    for value in values:
        if isinstance(value, Marked) and any(
            axis is None and size != 1 for axis, size in zip(value.axes, value.value.shape, strict=True)
        ):
            return None
    arrays = [value.value if isinstance(value, Marked) else value for value in values]
    (result,) = bind(eqn, arrays)
    result, site = recorder.perturb(result)
    for side, value in enumerate(values):
        if not isinstance(value, Marked):
            continue
        other = 1 - side
        here, there = (contracted[side], batch[side]), (contracted[other], batch[other])
        leaf_labels: list[Label] = [recorder.label() if axis is None else axis for axis in value.axes]
        operand_labels: list[Label] = [recorder.label() for _ in range(arrays[other].ndim)]
        for mine, its in zip((*here[0], *here[1]), (*there[0], *there[1]), strict=True):
            operand_labels[its] = leaf_labels[mine]
        free_here = [label for i, label in enumerate(leaf_labels) if i not in here[0] and i not in here[1]]
        free_there = [label for i, label in enumerate(operand_labels) if i not in there[0] and i not in there[1]]
        batch_labels = [leaf_labels[i] for i in here[1]]
        first, second = (free_here, free_there) if side == 0 else (free_there, free_here)
        recorder.use(value, site, [*batch_labels, *first, *second], recorder.keep(arrays[other]), operand_labels)
    return [result]


def _convolution(recorder: Recorder, eqn: JaxprEqn, values: list) -> list | None:
    images, kernel = values
    params = eqn.params
    numbers = params["dimension_numbers"]
    if (
        isinstance(images, Marked)
        or params["feature_group_count"] != 1
        or params["batch_group_count"] != 1
        or None in kernel.axes
    ):
        return None
    (result,) = bind(eqn, [images, kernel.value])
    result, site = recorder.perturb(result)
    spatial = [kernel.value.shape[i] for i in numbers.rhs_spec[2:]]
    patches = jax.lax.conv_general_dilated_patches(
        images,
        filter_shape=spatial,
        window_strides=params["window_strides"],
        padding=params["padding"],
        lhs_dilation=params["lhs_dilation"],
        rhs_dilation=params["rhs_dilation"],
        dimension_numbers=numbers,
        precision=jax.lax.Precision.HIGHEST,
    )
    # Patches run over (input channel, window) along their feature axis. It can be split once it is last.
    patches = jnp.moveaxis(patches, numbers.out_spec[1], -1)
    patches = patches.reshape(*patches.shape[:-1], kernel.value.shape[numbers.rhs_spec[1]], *spatial)
    labels: list[Label] = [recorder.label() for _ in range(result.ndim)]
    labels[numbers.out_spec[1]] = kernel.axes[numbers.rhs_spec[0]]
    positions = [label for i, label in enumerate(labels) if i != numbers.out_spec[1]]
    window = [kernel.axes[i] for i in numbers.rhs_spec[1:]]
    recorder.use(kernel, site, labels, recorder.keep(patches), [*positions, *window])
    return [result]


def _lookup(recorder: Recorder, eqn: JaxprEqn, marked: Marked, rows: Array) -> list | None:
    """Rows of a table, chosen by the positions in `rows`, whose shape is that of the leading axes of the result."""
    if marked.axes != tuple(range(len(marked.shape))) or marked.part[0] != (0, marked.shape[0]):
        return None
    result = jnp.take(marked.value, rows, axis=0, mode="clip")
    result, site = recorder.perturb(result)
    positions = [recorder.label() for _ in range(rows.ndim)]
    delta = [*positions, *range(1, len(marked.shape))]
    recorder.use(marked, site, delta, recorder.keep(rows), positions, lookup=True)
    return [result.reshape(shape_of(eqn.outvars[0]))]


def _dynamic_slice(recorder: Recorder, eqn: JaxprEqn, values: list) -> list | None:
    marked, *starts = values
    if not isinstance(marked, Marked) or any(isinstance(start, Marked) for start in starts):
        return None
    sizes = eqn.params["slice_sizes"]
    if sizes[0] != 1 or sizes[1:] != marked.value.shape[1:] or len(starts) != len(sizes):
        return None
    row = jnp.clip(starts[0], 0, marked.value.shape[0] - 1)
    return _lookup(recorder, eqn, marked, row)


def _gather(recorder: Recorder, eqn: JaxprEqn, values: list) -> list | None:
    marked, indices = values
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    if not isinstance(marked, Marked) or isinstance(indices, Marked):
        return None
    whole_rows = (
        numbers.collapsed_slice_dims in ((), (0,))
        and numbers.start_index_map[:1] == (0,)
        and not numbers.operand_batching_dims
        and sizes == (1, *marked.value.shape[1:])
        and numbers.offset_dims == tuple(range(indices.ndim - 1, len(shape_of(eqn.outvars[0]))))
    )
    # In this mode positions outside the table give NaN, which is not a use of the table.
    if not whole_rows or eqn.params["mode"] == jax.lax.GatherScatterMode.FILL_OR_DROP:
        return None
    rows = jnp.clip(indices[..., 0], 0, marked.value.shape[0] - 1)
    return _lookup(recorder, eqn, marked, rows)


def _add(recorder: Recorder, eqn: JaxprEqn, values: list) -> list | None:
    """A bias that is added to a product shares its δ, if nothing else reads the product: see `Sited`."""
    marked, other = values if isinstance(values[0], Marked) else values[::-1]
    sited = recorder.sited.get(id(other))
    if isinstance(other, Marked) or sited is None or marked.value.ndim != other.ndim:
        return None
    delta: list[Label] = [recorder.label() for _ in recorder.sites[sited.site].shape]
    for position, (axis, size) in enumerate(zip(marked.axes, marked.value.shape, strict=True)):
        if axis is not None and size == other.shape[position]:
            delta[sited.axes[position]] = axis
        elif size != 1 and axis is not None:
            return None
    lost = {axis for axis, (_, size) in enumerate(marked.part) if size != 1} - set(delta) - _bound(marked)
    if lost or marked.value.size > other.size:
        return None
    recorder.use(marked, sited.site, delta, None, ())
    recorder.share(marked.leaf, sited)
    (result,) = bind(eqn, [value.value if isinstance(value, Marked) else value for value in values])
    recorder.follow(result, sited.site, sited.axes, sited.way)
    return [result]


def _bound(marked: Marked) -> set[int]:
    return {axis for _, axis in marked.loops}


PRODUCTS: dict[str, Callable[[Recorder, JaxprEqn, list], list | None]] = {
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
    "dynamic_slice": _dynamic_slice,
    "gather": _gather,
    "add": _add,
    "add_any": _add,
    "split": _split,
}
