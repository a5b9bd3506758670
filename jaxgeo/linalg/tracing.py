"""Where a network uses each of its parameters: the factors of D, found in the traced per-sample function.

Where a leaf W meets an array a in a product y = W a, one sample's rows of D for that leaf are δ ⊗ a, with δ = ∂x/∂y.
So a per-sample function is traced to a jaxpr, in which its own JVPs, VJPs and Hessians are already expanded, and
evaluated with the leaves marked. Each product of a marked leaf is a *use*: the other operand is kept, and an input ε is
added to the result (a *site*), so that the δ of all uses are one VJP with respect to the ε, with W itself held still.

The evaluator is a small interpreter of jaxprs. Array-like types with multiple dispatch would see the same products, but
a use inside a `scan` needs the scan itself to take the ε of each iteration and to give back its factors, which
no value flowing through the scan can ask for.

Marked leaves survive transposition, reshaping, slicing and `scan`; nested `jit` and `remat` are entered. Any other
operation, a custom derivative rule among them, gets the plain array, and that leaf is reported as `opaque`: its rows
are then left to an ordinary per-sample VJP. Nothing is assumed about an operation that is not listed here.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from jaxtyping import Array, PyTree

# A label names what an axis of a factor runs over: a number is an axis of the leaf, a string a position, over
# which the product of the two factors is summed.
Label = int | str


class Use(NamedTuple):
    """One use of a leaf: its rows of D are the product of a δ and an operand, summed over positions."""

    leaf: int
    shape: tuple[int, ...]  # in which the axes of the leaf are numbered; row-major the same as the leaf's own
    part: tuple[tuple[int, int], ...]  # of each of these axes, the (start, size) used
    site: int
    delta: tuple[Label, ...]  # labels of the site's axes
    operand: int | None  # index among the kept operands; None where it is 1, as for a bias
    operand_labels: tuple[Label, ...]
    lookup: bool  # the operand holds positions along the leaf's first axis, in place of one-hot vectors


class Marked(NamedTuple):
    """A leaf, or a view of it, on its way through the function."""

    value: Array
    leaf: int
    shape: tuple[int, ...]
    part: tuple[tuple[int, int], ...]
    axes: tuple[int | None, ...]  # which axis of the leaf each axis of `value` is; None: a broadcast one
    loops: tuple[tuple[int, int], ...] = ()  # (depth of a scan, axis of the leaf that it runs over)


class Sited(NamedTuple):
    """A result to which ε was added, so that a bias added to it next shares its δ."""

    value: Array
    site: int
    axes: tuple[int, ...]  # which axis of the site each axis of `value` is


class _Recorder:
    """What is found while a function is evaluated: sites, uses, kept operands, leaves used in other ways."""

    def __init__(self, epsilons: Sequence[Array] | None, depth: int = 0):
        self.epsilons = epsilons
        self.depth = depth
        self.sites: list[jax.ShapeDtypeStruct] = []
        self.uses: list[tuple[Use, tuple[tuple[int, int], ...]]] = []
        self.operands: list[Array] = []
        self.opaque: set[int] = set()
        self.sited: dict[int, Sited] = {}
        self._labels = 0

    def label(self) -> str:
        self._labels += 1
        return f"{self.depth}.{self._labels}"

    def epsilon(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """The next ε; zero while sites are still being counted."""
        self.sites.append(jax.ShapeDtypeStruct(shape, dtype))
        if self.epsilons is None:
            return jnp.zeros(shape, dtype)
        return self.epsilons[len(self.sites) - 1]

    def perturb(self, value: Array) -> tuple[Array, int]:
        value = value + self.epsilon(value.shape, value.dtype)
        site = len(self.sites) - 1
        self.sited[id(value)] = Sited(value, site, tuple(range(value.ndim)))
        return value, site

    def keep(self, operand: Array) -> int:
        self.operands.append(operand)
        return len(self.operands) - 1

    def use(
        self,
        marked: Marked,
        site: int,
        delta: Sequence[Label],
        operand: int | None,
        labels: Sequence[Label],
        lookup: bool = False,
    ) -> None:
        use = Use(marked.leaf, marked.shape, marked.part, site, tuple(delta), operand, tuple(labels), lookup)
        self.uses.append((use, marked.loops))

    def plain(self, value: Any) -> Any:
        """The array itself, for an operation that is not understood."""
        if isinstance(value, Marked):
            self.opaque.add(value.leaf)
            return value.value
        return value


def _shape(var: Any) -> tuple[int, ...]:
    return var.aval.shape


# --- how a view of a leaf passes through an operation -------------------------------------------------------------


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
        # Only axes of length 1 come or go.
        remaining = iter(axis for _, axis in long_before)
        return marked._replace(value=value, axes=tuple(next(remaining) if size != 1 else None for size in value.shape))
    untouched = (
        not marked.loops and marked.value.shape == marked.shape and marked.axes == tuple(range(len(marked.shape)))
    )
    if not untouched:
        return None
    part = tuple((0, size) for size in value.shape)
    return Marked(value, marked.leaf, value.shape, part, tuple(range(value.ndim)))


def _cut(marked: Marked, value: Array, starts: Sequence[int]) -> Marked | None:
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
    return _cut(marked, value, params["start_indices"])


def _convert(marked: Marked, value: Array, params: dict) -> Marked | None:
    return marked._replace(value=value) if jnp.issubdtype(value.dtype, jnp.floating) else None


_VIEWS: dict[str, Callable[[Marked, Array, dict], Marked | None]] = {
    "transpose": _transpose,
    "squeeze": _squeeze,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "slice": _slice,
    "convert_element_type": _convert,
    "copy": _convert,
}


def _split(recorder: _Recorder, eqn: JaxprEqn, values: list) -> list | None:
    (marked,) = values
    axis, start, outputs = eqn.params["axis"], 0, []
    for value in _bind(eqn, [marked.value]):
        starts = [start if i == axis else 0 for i in range(value.ndim)]
        outputs.append(_cut(marked, value, starts))
        start += value.shape[axis]
    return None if any(output is None for output in outputs) else outputs


# --- products: where a use is found -----------------------------------------------------------------------------


def _dot_general(recorder: _Recorder, eqn: JaxprEqn, values: list) -> list | None:
    contracted, batch = eqn.params["dimension_numbers"]
    for value in values:
        if isinstance(value, Marked) and any(
            axis is None and size != 1 for axis, size in zip(value.axes, value.value.shape, strict=True)
        ):
            return None
    arrays = [value.value if isinstance(value, Marked) else value for value in values]
    (result,) = _bind(eqn, arrays)
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


def _convolution(recorder: _Recorder, eqn: JaxprEqn, values: list) -> list | None:
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
    (result,) = _bind(eqn, [images, kernel.value])
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
        precision=params["precision"],
    )
    # Patches run over (input channel, window) along their feature axis; with it last, that axis can be split.
    patches = jnp.moveaxis(patches, numbers.out_spec[1], -1)
    patches = patches.reshape(*patches.shape[:-1], kernel.value.shape[numbers.rhs_spec[1]], *spatial)
    labels: list[Label] = [recorder.label() for _ in range(result.ndim)]
    labels[numbers.out_spec[1]] = kernel.axes[numbers.rhs_spec[0]]
    positions = [label for i, label in enumerate(labels) if i != numbers.out_spec[1]]
    window = [kernel.axes[i] for i in numbers.rhs_spec[1:]]
    recorder.use(kernel, site, labels, recorder.keep(patches), [*positions, *window])
    return [result]


def _lookup(recorder: _Recorder, eqn: JaxprEqn, marked: Marked, rows: Array) -> list | None:
    """Rows of a table, chosen by position: `rows` has the positions, in the shape of the leading axes of the result."""
    if marked.axes != tuple(range(len(marked.shape))) or marked.part[0] != (0, marked.shape[0]):
        return None
    result = jnp.take(marked.value, rows, axis=0, mode="clip")
    result, site = recorder.perturb(result)
    positions = [recorder.label() for _ in range(rows.ndim)]
    delta = [*positions, *range(1, len(marked.shape))]
    recorder.use(marked, site, delta, recorder.keep(rows), positions, lookup=True)
    return [result.reshape(_shape(eqn.outvars[0]))]


def _dynamic_slice(recorder: _Recorder, eqn: JaxprEqn, values: list) -> list | None:
    marked, *starts = values
    if not isinstance(marked, Marked) or any(isinstance(start, Marked) for start in starts):
        return None
    sizes = eqn.params["slice_sizes"]
    if sizes[0] != 1 or sizes[1:] != marked.value.shape[1:] or len(starts) != len(sizes):
        return None
    row = jnp.clip(starts[0], 0, marked.value.shape[0] - 1)
    return _lookup(recorder, eqn, marked, row)


def _gather(recorder: _Recorder, eqn: JaxprEqn, values: list) -> list | None:
    marked, indices = values
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    if not isinstance(marked, Marked) or isinstance(indices, Marked):
        return None
    whole_rows = (
        numbers.collapsed_slice_dims in ((), (0,))
        and numbers.start_index_map[:1] == (0,)
        and not numbers.operand_batching_dims
        and sizes == (1, *marked.value.shape[1:])
        and numbers.offset_dims == tuple(range(indices.ndim - 1, len(_shape(eqn.outvars[0]))))
    )
    # Positions outside the table give NaN in this mode, and are no use of it.
    if not whole_rows or eqn.params["mode"] == jax.lax.GatherScatterMode.FILL_OR_DROP:
        return None
    rows = jnp.clip(indices[..., 0], 0, marked.value.shape[0] - 1)
    return _lookup(recorder, eqn, marked, rows)


def _add(recorder: _Recorder, eqn: JaxprEqn, values: list) -> list | None:
    """A bias added to a product shares its δ."""
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
    (result,) = _bind(eqn, [value.value if isinstance(value, Marked) else value for value in values])
    recorder.sited[id(result)] = sited._replace(value=result)
    return [result]


def _bound(marked: Marked) -> set[int]:
    return {axis for _, axis in marked.loops}


_USES: dict[str, Callable[[_Recorder, JaxprEqn, list], list | None]] = {
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
    "dynamic_slice": _dynamic_slice,
    "gather": _gather,
    "add": _add,
    "add_any": _add,
    "split": _split,
}


# --- evaluation -------------------------------------------------------------------------------------------------


def _bind(eqn: JaxprEqn, values: Sequence[Any]) -> list[Array]:
    """The operation itself, on arrays: a jaxpr of one equation."""
    arguments = {var: value for var, value in zip(eqn.invars, values, strict=True) if not isinstance(var, Literal)}
    alone = _empty_jaxpr().replace(invars=[*arguments], outvars=eqn.outvars, eqns=[eqn], effects=eqn.effects)
    return jax.core.eval_jaxpr(alone, (), *arguments.values())


@functools.cache
def _empty_jaxpr() -> Jaxpr:
    return jax.make_jaxpr(lambda: ())().jaxpr


def _follow_site(recorder: _Recorder, eqn: JaxprEqn, value: Any, result: Array) -> None:
    """A transposed or squeezed product still has its site."""
    sited = recorder.sited.get(id(value))
    if sited is None:
        return
    if eqn.primitive.name == "transpose":
        axes = tuple(sited.axes[i] for i in eqn.params["permutation"])
    elif eqn.primitive.name == "squeeze":
        axes = tuple(axis for i, axis in enumerate(sited.axes) if i not in eqn.params["dimensions"])
    else:
        return
    recorder.sited[id(result)] = Sited(result, sited.site, axes)


def _scan(recorder: _Recorder, eqn: JaxprEqn, values: list) -> list:
    params = eqn.params
    inner = params["jaxpr"]
    # What is scanned over has one axis more outside than inside.
    num_scanned = sum(_shape(var) != _shape(its) for var, its in zip(eqn.invars, inner.jaxpr.invars, strict=True))
    num_carry = sum(_shape(var) == _shape(its) for var, its in zip(eqn.outvars, inner.jaxpr.outvars, strict=True))
    num_consts = len(values) - num_carry - num_scanned
    consts = values[:num_consts]
    carry = [recorder.plain(value) for value in values[num_consts : num_consts + num_carry]]
    scanned = values[num_consts + num_carry :]
    scanned = [
        recorder.plain(value) if isinstance(value, Marked) and value.axes[0] is None else value for value in scanned
    ]
    depth = recorder.depth + 1

    def run(found: _Recorder, carry: Sequence[Array], slices: Sequence[Array]) -> tuple[list, list]:
        arguments = [
            value._replace(value=part, axes=value.axes[1:], loops=(*value.loops, (depth, value.axes[0])))
            if isinstance(value, Marked)
            else part
            for value, part in zip(scanned, slices, strict=True)
        ]
        outputs = _evaluate(found, inner.jaxpr, inner.consts, [*consts, *carry, *arguments])
        outputs = [found.plain(output) for output in outputs]
        return outputs[:num_carry], outputs[num_carry:]

    found = _Recorder(None, depth)
    arrays = [value.value if isinstance(value, Marked) else value for value in scanned]
    one = [jax.ShapeDtypeStruct(array.shape[1:], array.dtype) for array in arrays]
    jax.eval_shape(lambda carry, slices: run(found, carry, slices), carry, one)
    recorder.opaque |= found.opaque
    first_site, first_operand = len(recorder.sites), len(recorder.operands)
    epsilons = [recorder.epsilon((params["length"], *site.shape), site.dtype) for site in found.sites]

    def body(carry: list[Array], slices: tuple) -> tuple[list[Array], tuple]:
        again = _Recorder(slices[1], depth)
        carry, outputs = run(again, carry, slices[0])
        return carry, (outputs, again.operands)

    carry, (outputs, operands) = jax.lax.scan(
        body, carry, (arrays, epsilons), length=params["length"], reverse=params["reverse"], unroll=params["unroll"]
    )
    recorder.operands.extend(operands)
    for use, loops in found.uses:
        over = dict(loops).get(depth, recorder.label())
        use = use._replace(
            site=first_site + use.site,
            delta=(over, *use.delta),
            operand=None if use.operand is None else first_operand + use.operand,
            operand_labels=() if use.operand is None else (over, *use.operand_labels),
        )
        recorder.uses.append((use, loops))
    return [*carry, *outputs]


def _inner_jaxpr(eqn: JaxprEqn) -> tuple[Jaxpr, Sequence[Any]] | None:
    """The function that `jit` or `remat` calls; None for any other operation."""
    if eqn.primitive.name not in ("jit", "pjit", "closed_call", "remat", "remat2", "checkpoint"):
        return None
    inner = eqn.params["jaxpr"] if "jaxpr" in eqn.params else eqn.params["call_jaxpr"]
    return (inner.jaxpr, inner.consts) if isinstance(inner, ClosedJaxpr) else (inner, ())


def _live(jaxpr: Jaxpr) -> list[JaxprEqn]:
    """The equations that the results depend on, so that what is computed and dropped is no use."""
    needed = {var for var in jaxpr.outvars if not isinstance(var, Literal)}
    live = []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or any(var in needed for var in eqn.outvars):
            live.append(eqn)
            needed.update(var for var in eqn.invars if not isinstance(var, Literal))
    return live[::-1]


def _same(eqn: JaxprEqn, values: list) -> Any:
    """Equal for equal operations on the same values: nested derivatives compute the same product again and again."""
    identities = tuple(
        (str(var.aval), np.asarray(var.val).item() if np.ndim(var.val) == 0 else id(var.val))
        if isinstance(var, Literal)
        else id(value)
        for var, value in zip(eqn.invars, values, strict=True)
    )
    try:
        key = (eqn.primitive, identities, tuple(sorted(eqn.params.items(), key=lambda item: item[0])))
        hash(key)
    except TypeError:
        return None
    return key


def _evaluate(recorder: _Recorder, jaxpr: Jaxpr, consts: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    environment: dict[Any, Any] = {}
    environment.update(zip(jaxpr.constvars, consts, strict=True))
    environment.update(zip(jaxpr.invars, arguments, strict=True))

    def read(var: Any) -> Any:
        return var.val if isinstance(var, Literal) else environment[var]

    seen: dict[Any, list] = {}
    for eqn in _live(jaxpr):
        values = [read(var) for var in eqn.invars]
        key = _same(eqn, values)
        if key is not None and key in seen:
            results = seen[key]
        else:
            results = _step(recorder, eqn, values)
            if key is not None and not eqn.effects:
                seen[key] = results
        environment.update(zip(eqn.outvars, results, strict=True))
    return [read(var) for var in jaxpr.outvars]


def _step(recorder: _Recorder, eqn: JaxprEqn, values: list) -> list:
    name = eqn.primitive.name
    if not any(isinstance(value, Marked) for value in values):
        results = _bind(eqn, values)
        if name in ("transpose", "squeeze"):
            _follow_site(recorder, eqn, values[0], results[0])
        return results
    if (inner := _inner_jaxpr(eqn)) is not None:
        return _evaluate(recorder, *inner, values)
    if name == "scan":
        return _scan(recorder, eqn, values)
    results = None
    if name in _VIEWS:
        (marked,) = values
        (value,) = _bind(eqn, [marked.value])
        view = _VIEWS[name](marked, value, eqn.params)
        results = None if view is None else [view]
    elif name in _USES:
        results = _USES[name](recorder, eqn, values)
    if results is None:
        results = _bind(eqn, [recorder.plain(value) for value in values])
    return results


class SampleTrace:
    """A function of (leaves, sample) → rows, and the uses of its leaves.

    - `sites`, `operands`: shapes and dtypes of the ε and of the kept operands.
    - `uses`: the uses found; leaves in `opaque` are used in other ways too, and have to be left unmarked.
    - `num_rows`: Q.
    """

    def __init__(
        self,
        function: Callable[[list[Array], PyTree], Array],
        leaves: Sequence[jax.ShapeDtypeStruct],
        sample: PyTree[jax.ShapeDtypeStruct],
    ):
        closed = jax.make_jaxpr(function)(list(leaves), sample)
        self._jaxpr, self._consts = closed.jaxpr, closed.consts
        self.leaves = tuple(leaves)
        self.num_rows = math.prod(closed.out_avals[0].shape)
        self.dtype = closed.out_avals[0].dtype
        self.mark(frozenset(i for i, leaf in enumerate(leaves) if leaf.shape and math.prod(leaf.shape) > 1))
        self._sample = sample

    def mark(self, leaves: frozenset[int]) -> None:
        """Find the uses of these leaves, and of no others."""
        self.marked = leaves
        recorder = _Recorder(None)
        shapes = [jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in self._jaxpr.invars]
        jax.eval_shape(lambda values: self._run(recorder, values), shapes)
        self.sites = tuple(recorder.sites)
        self.operands = tuple(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in recorder.operands)
        self.uses = tuple(use for use, _ in recorder.uses)
        self.opaque = frozenset(recorder.opaque)

    def _run(self, recorder: _Recorder, values: Sequence[Array]) -> Array:
        arguments = [
            Marked(value, i, value.shape, tuple((0, size) for size in value.shape), tuple(range(value.ndim)))
            if i in self.marked
            else value
            for i, value in enumerate(values)
        ]
        (rows,) = _evaluate(recorder, self._jaxpr, self._consts, arguments)
        return recorder.plain(rows)

    def __call__(self, leaves: Sequence[Array], epsilons: Sequence[Array], sample: PyTree) -> tuple[Array, list[Array]]:
        """(rows of one sample, operands of the uses). The derivative by an ε is the δ of its site."""
        recorder = _Recorder(epsilons)
        rows = self._run(recorder, [*leaves, *(jnp.asarray(leaf) for leaf in jax.tree.leaves(sample))])
        return rows, recorder.operands
