"""Find where a network uses each of its parameters, in its traced per-sample function; the uses give the factors of D.

If a leaf W meets an array a in a product y = W a, one sample's rows of D for that leaf are δ ⊗ a, with δ = ∂x/∂y. So a
per-sample function is traced to a jaxpr, in which its own JVPs, VJPs and Hessians are already expanded, and evaluated
with the leaves marked. Each product with a marked leaf is a *use*. The other operand is kept, and an input ε is added
to the result (a *site*). The δ of all uses then come from one VJP with respect to the ε, with W itself held fixed.

The evaluator is a small interpreter of jaxprs. Array-like types with multiple dispatch would see the same products:
quax 0.4 was tried with rules for `dot_general` alone, and marked the uses of the benchmark's MLP in 35 ms, compared
with 27 ms for plain tracing and 118 ms for this module, sites and factors included (JAX 0.12). But it would need rules
for the same primitives. And for a use inside a `scan`, the scan itself must take the ε of each iteration and return its
factors, which no value that flows through the scan can request: quax saw one product there for five layers.

Marked leaves survive transposition, reshaping, slicing and `scan`; nested `jit` and `remat` are entered. Any other
operation, including a custom derivative rule, gets the plain array, and the leaf is reported as `opaque`: its rows then
come from an ordinary per-sample VJP. Nothing is assumed about an operation that is not listed here.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from jaxtyping import Array, PyTree

from jaxgeo.linalg.gram.products import PRODUCTS
from jaxgeo.linalg.gram.uses import Marked, Recorder, bind, shape_of
from jaxgeo.linalg.gram.views import VIEWS


def follow_site(recorder: Recorder, eqn: JaxprEqn, value: Any, result: Array) -> None:
    """Let a transposed or squeezed product keep its site."""
    sited = recorder.sited.get(id(value))
    if sited is None:
        return
    if eqn.primitive.name == "transpose":
        axes = tuple(sited.axes[i] for i in eqn.params["permutation"])
    elif eqn.primitive.name == "squeeze":
        axes = tuple(axis for i, axis in enumerate(sited.axes) if i not in eqn.params["dimensions"])
    else:
        return
    recorder.follow(result, sited.site, axes, sited.way)


def _scan(recorder: Recorder, eqn: JaxprEqn, values: list) -> list:
    params = eqn.params
    inner = params["jaxpr"]
    # Arrays that are scanned over have one more axis outside than inside.
    num_scanned = sum(shape_of(var) != shape_of(its) for var, its in zip(eqn.invars, inner.jaxpr.invars, strict=True))
    num_carry = sum(shape_of(var) == shape_of(its) for var, its in zip(eqn.outvars, inner.jaxpr.outvars, strict=True))
    num_consts = len(values) - num_carry - num_scanned
    consts = values[:num_consts]
    carry = [recorder.plain(value) for value in values[num_consts : num_consts + num_carry]]
    scanned = values[num_consts + num_carry :]
    scanned = [
        recorder.plain(value) if isinstance(value, Marked) and value.axes[0] is None else value for value in scanned
    ]
    depth = recorder.depth + 1

    def run(found: Recorder, carry: Sequence[Array], slices: Sequence[Array]) -> tuple[list, list]:
        arguments = [
            value._replace(value=part, axes=value.axes[1:], loops=(*value.loops, (depth, value.axes[0])))
            if isinstance(value, Marked)
            else part
            for value, part in zip(scanned, slices, strict=True)
        ]
        outputs = found.close(_evaluate(found, inner.jaxpr, inner.consts, [*consts, *carry, *arguments]))
        return outputs[:num_carry], outputs[num_carry:]

    found = Recorder(None, depth)
    arrays = [value.value if isinstance(value, Marked) else value for value in scanned]
    one = [jax.ShapeDtypeStruct(array.shape[1:], array.dtype) for array in arrays]
    jax.eval_shape(lambda carry, slices: run(found, carry, slices), carry, one)
    recorder.opaque |= found.opaque
    first_site, first_operand = len(recorder.sites), len(recorder.operands)
    epsilons = [recorder.epsilon((params["length"], *site.shape), site.dtype) for site in found.sites]

    def body(carry: list[Array], slices: tuple) -> tuple[list[Array], tuple]:
        again = Recorder(slices[1], depth)
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
    """The equations that the results depend on, so that products that are dropped do not count as uses."""
    needed = {var for var in jaxpr.outvars if not isinstance(var, Literal)}
    live = []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or any(var in needed for var in eqn.outvars):
            live.append(eqn)
            needed.update(var for var in eqn.invars if not isinstance(var, Literal))
    return live[::-1]


def _same(eqn: JaxprEqn, values: list) -> Any:
    """A key, equal for equal operations on the same values: nested derivatives repeat the same products."""
    identities = tuple(
        (str(var.aval), np.asarray(var.val).tobytes() if np.ndim(var.val) == 0 else id(var.val))
        if isinstance(var, Literal)
        else id(value)
        for var, value in zip(eqn.invars, values, strict=True)
    )
    try:
        params = tuple((name, _exactly(value)) for name, value in sorted(eqn.params.items()))
        key = (eqn.primitive, identities, params)
        hash(key)
    except TypeError:
        return None
    return key


def _exactly(value: Any) -> Any:
    """A key, equal only for identical numbers: 0.0 == −0.0 and 1 == True, but their operations differ."""
    if isinstance(value, tuple):
        return type(value), tuple(_exactly(entry) for entry in value)
    if isinstance(value, float | complex | np.inexact):
        return type(value), repr(value)
    return type(value), value


def _evaluate(recorder: Recorder, jaxpr: Jaxpr, consts: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
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


def _step(recorder: Recorder, eqn: JaxprEqn, values: list) -> list:
    name = eqn.primitive.name
    marked = any(isinstance(value, Marked) for value in values)
    if marked and (inner := _inner_jaxpr(eqn)) is not None:
        return _evaluate(recorder, *inner, values)
    recorder.read(values)
    if not marked:
        results = bind(eqn, values)
        if name in ("transpose", "squeeze"):
            follow_site(recorder, eqn, values[0], results[0])
        return results
    if name == "scan":
        return _scan(recorder, eqn, values)
    results = None
    if name in VIEWS:
        (marked,) = values
        (value,) = bind(eqn, [marked.value])
        view = VIEWS[name](marked, value, eqn.params)
        results = None if view is None else [view]
    elif name in PRODUCTS:
        results = PRODUCTS[name](recorder, eqn, values)
    if results is None:
        results = bind(eqn, [recorder.plain(value) for value in values])
    return results


class SampleTrace:
    """A function of (leaves, sample) → rows, and the uses of its leaves.

    - `sites`, `operands`: shapes and dtypes of the ε and of the kept operands.
    - `uses`: the uses found. Leaves in `opaque` are used in other ways too, and must stay unmarked.
    - `num_rows`: Q.

    If no leaf is marked, as without `mark`, the function itself is called and never interpreted.
    """

    def __init__(
        self,
        function: Callable[[list[Array], PyTree], Array],
        leaves: Sequence[jax.ShapeDtypeStruct],
        sample: PyTree[jax.ShapeDtypeStruct],
        mark: bool = True,
    ):
        self._function = function
        # An equation keeps the matmul precision that it was traced under, wherever it runs.
        with jax.default_matmul_precision("highest"):
            closed = jax.make_jaxpr(function)(list(leaves), sample)
        self._jaxpr, self._consts = closed.jaxpr, closed.consts
        self.leaves = tuple(leaves)
        self.num_rows = math.prod(closed.out_avals[0].shape)
        self.dtype = closed.out_avals[0].dtype
        self.mark(frozenset(i for i, leaf in enumerate(leaves) if mark and math.prod(leaf.shape) > 1))

    def mark(self, leaves: frozenset[int]) -> None:
        """Find the uses of these leaves only."""
        self.marked = leaves
        recorder = Recorder(None)
        shapes = [jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in self._jaxpr.invars]
        jax.eval_shape(lambda values: self._run(recorder, values), shapes)
        self.sites = tuple(recorder.sites)
        self.operands = tuple(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in recorder.operands)
        self.uses = tuple(use for use, _ in recorder.uses)
        self.opaque = frozenset(recorder.opaque)

    def _run(self, recorder: Recorder, values: Sequence[Array]) -> Array:
        arguments = [
            Marked(value, i, value.shape, tuple((0, size) for size in value.shape), tuple(range(value.ndim)))
            if i in self.marked
            else value
            for i, value in enumerate(values)
        ]
        (rows,) = recorder.close(_evaluate(recorder, self._jaxpr, self._consts, arguments))
        return rows

    def __call__(self, leaves: Sequence[Array], epsilons: Sequence[Array], sample: PyTree) -> tuple[Array, list[Array]]:
        """(rows of one sample, operands of the uses). The derivative by an ε is the δ of its site."""
        if not self.marked:
            return self._function(list(leaves), sample), []
        recorder = Recorder(epsilons)
        rows = self._run(recorder, [*leaves, *(jnp.asarray(leaf) for leaf in jax.tree.leaves(sample))])
        return rows, recorder.operands
