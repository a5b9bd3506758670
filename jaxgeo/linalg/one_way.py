"""Find networks that have derivatives in one mode only, by their jaxpr, and give them the other mode.

With a `jax.custom_vjp` anywhere in it, such as the default adjoint of diffrax, a network has derivatives in reverse
mode only; with a `jax.lax.while_loop`, in forward mode only. The available mode can compute the whole matrix ∂x_j/∂θ,
which gives products from both sides.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from jaxtyping import Array, Float, PyTree

from jaxgeo._trainable import path_name
from jaxgeo.outputs import AbstractProblem, AnyProblem, Block, Params

# Only a network with one of these operations can lack a mode.
SUSPICIOUS = frozenset(
    {"custom_vjp_call", "custom_vjp_call_jaxpr", "while", "pure_callback", "io_callback", "ffi_call", "pallas_call"}
)
# The operation that a `custom_vjp` leaves in a forward-mode derivative. JAX raises an error only when compiling it.
REVERSE_ONLY = "custom_lin"
# How many entries of D to compute at a time.
CHUNK_ENTRIES = 2**24
INSTEAD = (
    "Write a custom rule by `jax.custom_jvp`, which has both modes, also for a callback; write a `while_loop` as "
    "`jax.lax.scan`, or as `fori_loop` with fixed bounds; give `diffrax.diffeqsolve` `adjoint=diffrax.DirectAdjoint()` "
    "or `diffrax.ForwardMode()`; or freeze these leaves through `trainable`."
)


class OneWay(eqx.Module):
    """Gives a network with derivatives in one mode those of the other mode.

    - `apply`: the network itself.
    - `reverse`: whether its own mode is reverse.
    """

    apply: Callable[[PyTree, PyTree], Array]
    reverse: bool = eqx.field(static=True)

    def __call__(self, params: Params, sample: PyTree) -> Array:
        return _evaluated(self.apply, params, sample, self.reverse)


@eqx.filter_custom_jvp
def _evaluated(apply: Callable[[PyTree, PyTree], Array], params: Params, sample: PyTree, reverse: bool) -> Array:
    return apply(params, sample)


@_evaluated.def_jvp
def _(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    *arguments, reverse = primals
    moving = jax.tree.map(lambda leaf: leaf is not None, list(tangents[:3]), is_leaf=lambda leaf: leaf is None)
    dynamic, static = eqx.partition(arguments, moving)

    def outputs_of(dynamic: PyTree) -> Array:
        apply, params, sample = eqx.combine(dynamic, static)
        return apply(params, sample)

    if reverse:
        outputs, pull = jax.vjp(outputs_of, dynamic)
        (rows,) = jax.vmap(pull)(jnp.eye(outputs.size, dtype=outputs.dtype).reshape(-1, *outputs.shape))
    else:
        rows, outputs = jax.jacfwd(lambda dynamic: (outputs_of(dynamic),) * 2, has_aux=True)(dynamic)
    terms = [
        row.reshape(outputs.size, -1).astype(outputs.dtype) @ tangent.reshape(-1).astype(outputs.dtype)
        for row, tangent in zip(jax.tree.leaves(rows), jax.tree.leaves(list(tangents[:3])), strict=True)
    ]
    return outputs, functools.reduce(jnp.add, terms).reshape(outputs.shape)


def both_ways(problem: AnyProblem, params: Params) -> AnyProblem:
    """The same problem with derivatives in both modes; the problem itself if no network lacks a mode.

    **Raises:** `ValueError` if a network has neither mode; it names the leaves, the reason and what to write instead.
    """
    parts = problem.partition(params)
    blocks = tuple(both_ways_of(block, *parts) for block in problem.blocks)
    if all(new is old for new, old in zip(blocks, problem.blocks, strict=True)):
        return problem
    return eqx.tree_at(lambda problem: problem.blocks, problem, blocks)


def both_ways_of(block: Block, trainable: PyTree, frozen: PyTree) -> Block:
    """The same block with derivatives in both modes."""
    if one_ways(block):
        return block
    if not SUSPICIOUS & contents_of(block, trainable, frozen).operations:
        return block
    found = eqx.filter_eval_shape(_modes, _without_samples(block), trainable, frozen, block.sample())
    if found.forward is None and found.reverse is None:
        return block
    if found.forward is not None and found.reverse is not None:
        raise ValueError(_neither(found))
    return eqx.tree_at(lambda block: block.apply, block, OneWay(block.apply, found.reverse is None))


class Contents(NamedTuple):
    """The names of all operations in a network, and the floating-point dtypes that it computes in."""

    operations: frozenset[str]
    dtypes: frozenset[jnp.dtype]


def contents_of(block: Block, trainable: PyTree, frozen: PyTree) -> Contents:
    """Read from the network's jaxpr, once for each shape."""
    return eqx.filter_eval_shape(_contents, _without_samples(block), trainable, frozen, block.sample())


def one_ways(tree: PyTree) -> list[OneWay]:
    """The networks in a problem or block that have only one mode of their own."""
    return [node for node in jax.tree.leaves(tree, is_leaf=_is_one_way) if _is_one_way(node)]


def in_reverse(tree: PyTree) -> PyTree:
    """A problem or block for derivatives in reverse mode: networks that have this mode use their own."""

    def unwrapped(node: Any) -> Any:
        return node.apply if _is_one_way(node) and node.reverse else node

    return jax.tree.map(unwrapped, tree, is_leaf=_is_one_way)


def pulled(problem: AbstractProblem, trainable: PyTree, frozen: PyTree, rows: Float[Array, "N Q"]) -> PyTree:
    """Dᵀ times rows, by a VJP for each sample.

    One VJP of all samples together would hold less, but JAX refuses it for some solvers of differential equations,
    whose final state is the same for all samples.
    """
    backward, flat, start, total = in_reverse(problem), rows.reshape(-1), 0, None
    size = sum(leaf.size for leaf in jax.tree.leaves(trainable))
    for block in backward.blocks:
        height = eqx.filter_eval_shape(block.rows, eqx.combine(trainable, frozen), block.sample()).size
        part = flat[start : start + block.num_samples * height].reshape(block.num_samples, height)
        start += part.size
        part = jnp.pad(part, ((0, block.padding), (0, 0)))

        def one(sample: tuple[PyTree, Array], block: Block = block) -> PyTree:
            _, pull = jax.vjp(lambda theta: block.rows(eqx.combine(theta, frozen), sample[0]), trainable)
            return pull(sample[1])[0]

        found = _sum_over(one, (block.inputs, part), None if block.sharding is not None else CHUNK_ENTRIES // size)
        total = found if total is None else jax.tree.map(jnp.add, total, found)
    return total


def _sum_over(function: Callable[[PyTree], PyTree], samples: PyTree, chunk: int | None) -> PyTree:
    """The sum of a function over samples, evaluated for `chunk` samples at a time."""

    def summed(samples: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), jax.vmap(function)(samples))

    count = jax.tree.leaves(samples)[0].shape[0]
    if chunk is None or chunk >= count:
        return summed(samples)
    chunk = max(chunk, 1)
    whole = count // chunk * chunk
    chunks = jax.tree.map(lambda leaf: leaf[:whole].reshape(-1, chunk, *leaf.shape[1:]), samples)
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(summed, samples))
    total, _ = jax.lax.scan(lambda total, part: (jax.tree.map(jnp.add, total, summed(part)), None), zero, chunks)
    if whole == count:
        return total
    return jax.tree.map(jnp.add, total, summed(jax.tree.map(lambda leaf: leaf[whole:], samples)))


def for_gradients(problem: AnyProblem, params: Params) -> AnyProblem:
    """The problem for `jax.grad` of its cost: by one VJP of all samples if JAX allows it, else as `both_ways`."""
    wrapped = both_ways(problem, params)
    if wrapped is problem:
        return problem
    trainable, frozen = problem.partition(params)
    direct = in_reverse(wrapped)
    lacks = _lacks_reverse(lambda trainable: direct.cost(eqx.combine(trainable, frozen)), trainable)
    return direct if lacks is None else wrapped


def said_of(blocks: tuple[Block, ...], rows: int, columns: int, itemsize: int) -> str:
    """A message about the cost of the mode that the networks of a problem lack; empty if they lack none."""
    own = one_ways(blocks)
    if not own:
        return ""
    modes = sorted({"in reverse" if network.reverse else "in forward mode" for network in own})
    products = "a VJP for each output" if all(network.reverse for network in own) else "a JVP for each parameter"
    return (
        f"the network has derivatives {' and '.join(modes)} only: D, {rows} × {columns}, is computed by {products} of "
        f"a sample and held, {rows * columns * itemsize / 2**20:.3g} MiB; products with D use this matrix"
    )


def _is_one_way(node: Any) -> bool:
    return isinstance(node, OneWay)


class _Modes(NamedTuple):
    """Why a network lacks a mode, None if it has it; and the reasons for each leaf that lacks a mode."""

    forward: str | None
    reverse: str | None
    leaves: tuple[tuple[str, str, str], ...] = ()


def _without_samples(block: Block) -> Block:
    return eqx.tree_at(lambda block: block.inputs, block, None)


@eqx.filter_jit
def _contents(block: Block, trainable: PyTree, frozen: PyTree, sample: PyTree) -> Contents:
    rows = jax.make_jaxpr(lambda trainable: block.rows(eqx.combine(trainable, frozen), sample))
    found = list(_equations(rows(trainable).jaxpr))
    dtypes = {getattr(out.aval, "dtype", jnp.dtype(bool)) for equation in found for out in equation.outvars}
    return Contents(
        frozenset(equation.primitive.name for equation in found),
        frozenset(dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)),
    )


@eqx.filter_jit
def _modes(block: Block, trainable: PyTree, frozen: PyTree, sample: PyTree) -> _Modes:
    """Read from jaxprs, once for each shape; nothing is computed."""

    def rows(trainable: PyTree) -> Array:
        return block.rows(eqx.combine(trainable, frozen), sample)

    forward, reverse = _lacks_forward(rows, trainable), _lacks_reverse(rows, trainable)
    if forward is None or reverse is None:
        return _Modes(forward, reverse)
    leaves, treedef = jax.tree.flatten(trainable)
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(trainable)]
    found = []
    for index, (name, leaf) in enumerate(zip(names, leaves, strict=True)):

        def alone(leaf: Array, index: int = index) -> Array:
            return rows(jax.tree.unflatten(treedef, [*leaves[:index], leaf, *leaves[index + 1 :]]))

        reasons = _lacks_forward(alone, leaf), _lacks_reverse(alone, leaf)
        if any(reason is not None for reason in reasons):
            found.append((name, *(reason or "it has it" for reason in reasons)))
    return _Modes(forward, reverse, tuple(found))


def _lacks_forward(function: Callable[[PyTree], Array], point: PyTree) -> str | None:
    try:
        jaxpr = jax.make_jaxpr(lambda point: jax.jvp(function, (point,), (point,)))(point).jaxpr
    except (TypeError, ValueError, NotImplementedError) as error:
        return _first_line(error)
    return (
        "a `jax.custom_vjp`" if any(equation.primitive.name == REVERSE_ONLY for equation in _equations(jaxpr)) else None
    )


def _lacks_reverse(function: Callable[[PyTree], Array], point: PyTree) -> str | None:
    def pulled(point: PyTree) -> PyTree:
        outputs, pull = jax.vjp(function, point)
        return pull(outputs)

    try:
        jax.make_jaxpr(pulled)(point)
    except (TypeError, ValueError, NotImplementedError) as error:
        return _first_line(error)
    return None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _neither(found: _Modes) -> str:
    lines = [
        f"`{name or 'params'}`: forward mode, {forward}; reverse mode, {reverse}"
        for name, forward, reverse in found.leaves
    ]
    return (
        "the network has derivatives by all its trainable parameters neither in forward nor in reverse mode. The "
        "reasons are: " + "; ".join(lines) + f". {INSTEAD}"
    )


def _equations(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """All equations, including those inside others."""
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if isinstance(inner, ClosedJaxpr):
                    yield from _equations(inner.jaxpr)
                elif isinstance(inner, Jaxpr):
                    yield from _equations(inner)
