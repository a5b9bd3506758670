"""What the outputs of one sample depend on, read off their jaxpr: nothing is computed, so no numbers can mislead.

Batch normalisation in training mode, given one sample at a time, subtracts from each number the mean of that one
number. The difference is 0 for every sample, so everything computed from it is the same for every sample. To detect
this, the jaxpr is followed with one rule of algebra besides the usual dependence of a result on its operands: a
difference of equal values is 0, and a product with 0 is 0. Two values are known to be equal if they come from equal
operations on equal values. A mean over an axis of length 1, a reshape and a division by 1 leave a value unchanged.

The result of an operation that is not listed depends on all operands. So outputs that are reported not to depend on the
sample really do not.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from jaxtyping import PyTree

# The sources that values are traced back to.
SAMPLE, STATISTICS = "sample", "statistics"
# The function of JAX whose result is a random mask, such as that of dropout.
MASK = "_bernoulli"
CALLS = ("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "custom_jvp_call",
         "custom_vjp_call", "custom_vjp_call_jaxpr")  # fmt: skip
# Operations that map zeros to zeros.
KEEP_ZERO = (
    "reshape", "squeeze", "expand_dims", "broadcast_in_dim", "transpose", "slice", "rev", "concatenate", "copy",
    "convert_element_type", "reduce_precision", "stop_gradient", "reduce_sum", "cumsum", "neg", "abs", "sign", "sqrt",
    "square", "real",
)  # fmt: skip
# Operations that return zeros if one operand is zero.
PRODUCTS = ("mul", "dot_general", "conv_general_dilated")
# Operations that keep all numbers and their order if they keep the size.
RESHAPES = ("reshape", "squeeze", "expand_dims", "broadcast_in_dim", "copy", "stop_gradient", "reduce_sum")


class Reads(NamedTuple):
    """What outputs depend on: they are computed from all `named`, and truly depend on `sources`.

    - `fixed_mask`: whether a random mask is drawn on the way that does not depend on the sample.
    """

    named: frozenset[str]
    sources: frozenset[str]
    fixed_mask: bool


class _Value(NamedTuple):
    """What is known about a value. Values with equal `key` hold the same numbers in the same order.

    - `constant`: the number that all its entries equal, None if unknown.
    """

    key: int
    named: frozenset[str]
    sources: frozenset[str]
    constant: float | None = None


def reads(function: Callable[..., Any], arguments: Sequence[PyTree], names: Sequence[PyTree]) -> Reads:
    """What the outputs of a function depend on.

    **Arguments:**

    - `arguments`: what the function takes, arrays or their shapes.
    - `names`: pytrees like these, with the source that each array is, or "" for none.
    """
    closed = jax.make_jaxpr(function)(*arguments)
    follower = _Follower()
    values = []
    for index, name in enumerate(jax.tree.leaves(list(names))):
        source = frozenset({name} - {""})
        values.append(_Value(follower.intern(("argument", index)), source, source))
    outputs = follower.follow(closed.jaxpr, closed.consts, values)
    named, sources = _union(value.named for value in outputs), _union(value.sources for value in outputs)
    return Reads(named, sources, follower.fixed_mask)


def _union(sets: Iterable[frozenset[str]]) -> frozenset[str]:
    return frozenset[str]().union(*sets)


class _Follower:
    """Evaluates a jaxpr on `_Value`s."""

    def __init__(self):
        self._keys: dict[Any, int] = {}
        self.fixed_mask = False

    def intern(self, key: Any) -> int:
        """A number for a key, so that keys do not nest."""
        return self._keys.setdefault(key, len(self._keys))

    def follow(self, jaxpr: Jaxpr, consts: Sequence[Any], arguments: Sequence[_Value]) -> list[_Value]:
        none: frozenset[str] = frozenset()
        environment: dict[Any, _Value] = {
            var: _Value(self.intern(("constant", id(value))), none, none)
            for var, value in zip(jaxpr.constvars, consts, strict=True)
        }
        environment.update(zip(jaxpr.invars, arguments, strict=True))

        def read(var: Any) -> _Value:
            return self._literal(var) if isinstance(var, Literal) else environment[var]

        for eqn in jaxpr.eqns:
            results = self._results(eqn, [read(var) for var in eqn.invars])
            environment.update(zip(eqn.outvars, results, strict=True))
        return [read(var) for var in jaxpr.outvars]

    def _literal(self, literal: Literal) -> _Value:
        array = np.asarray(literal.val)
        constant = float(array) if array.ndim == 0 and array.dtype.kind in "fiub" else None
        key = self.intern(("literal", str(array.dtype), array.tobytes()))
        return _Value(key, frozenset(), frozenset(), constant)

    def _results(self, eqn: JaxprEqn, values: list[_Value]) -> list[_Value]:
        inner = _called(eqn)
        if eqn.params.get("name") == MASK:
            self.fixed_mask |= all(SAMPLE not in value.sources for value in values)
        if inner is not None:
            return self.follow(*inner, values)
        named = _union(value.named for value in values)
        if len(eqn.outvars) == 1 and values:
            known = self._zero(eqn, values) or self._same(eqn, values)
            if known is not None:
                return [known._replace(named=named)]
        sources = _union(value.sources for value in values)
        key = self._key(eqn, values)
        return [_Value(self.intern((key, index)), named, sources) for index in range(len(eqn.outvars))]

    def _zero(self, eqn: JaxprEqn, values: list[_Value]) -> _Value | None:
        """The result if algebra says that it is 0, otherwise None."""
        name, zeros = eqn.primitive.name, [value.constant == 0 for value in values]
        is_zero = (
            (name in PRODUCTS and any(zeros))
            or (name in KEEP_ZERO and all(zeros))
            or (name == "div" and zeros[0])
            or (name == "integer_pow" and zeros[0] and eqn.params["y"] > 0)
        )
        if name in ("sub", "add") and _size(eqn.invars[0]) == _size(eqn.invars[1]):
            one, other = (value.key for value in values)
            opposite = {("neg", one): other, ("neg", other): one}
            is_zero = is_zero or (
                one == other if name == "sub" else any(self._keys.get(key) == value for key, value in opposite.items())
            )
        return _Value(self.intern("zero"), frozenset(), frozenset(), 0.0) if is_zero else None

    def _same(self, eqn: JaxprEqn, values: list[_Value]) -> _Value | None:
        """The operand that the result equals, number by number; for a negation, the operand with another key."""
        name, size, first = eqn.primitive.name, _size(eqn.outvars[0]), values[0]
        if name == "neg":
            return first._replace(key=self.intern(("neg", first.key)), constant=None)
        if name == "convert_element_type":
            exact = _holds(eqn.outvars[0], eqn.invars[0])
            return first if exact or first.constant in (0, 1) else None
        if name == "broadcast_in_dim" and first.constant is not None:
            return first
        if name in RESHAPES:
            return first if size == _size(eqn.invars[0]) else None
        neutral = {"mul": 1, "div": 1, "add": 0, "sub": 0}.get(name)
        if neutral is None:
            return None
        if values[1].constant == neutral and size == _size(eqn.invars[0]):
            return first
        if name in ("mul", "add") and first.constant == neutral and size == _size(eqn.invars[1]):
            return values[1]
        return None

    def _key(self, eqn: JaxprEqn, values: list[_Value]) -> Any:
        """Equal for equal operations on equal values."""
        operands = tuple((value.key, _shape(var)) for value, var in zip(values, eqn.invars, strict=True))
        key = (eqn.primitive.name, operands, tuple(sorted(eqn.params.items(), key=lambda item: item[0])))
        try:
            hash(key)
        except TypeError:
            return ("unique", len(self._keys))
        return ("unique", len(self._keys)) if eqn.effects else key


def _called(eqn: JaxprEqn) -> tuple[Jaxpr, Sequence[Any]] | None:
    """The function that this operation calls with its operands unchanged; None for any other operation."""
    if eqn.primitive.name not in CALLS:
        return None
    for value in eqn.params.values():
        # In JAX 0.12 the two are the same class.
        if isinstance(value, ClosedJaxpr) and len(value.jaxpr.invars) == len(eqn.invars):
            return value.jaxpr, value.consts
        if isinstance(value, Jaxpr) and len(value.invars) == len(eqn.invars):
            return value, ()
    return None


def _shape(var: Any) -> tuple[int, ...]:
    return var.aval.shape


def _size(var: Any) -> int:
    return math.prod(_shape(var))


def _holds(wide: Any, narrow: Any) -> bool:
    """Whether the floating-point dtype of one variable holds every number of that of the other."""
    dtypes = wide.aval.dtype, narrow.aval.dtype
    if not all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes):
        return False
    larger, smaller = (jnp.finfo(dtype) for dtype in dtypes)
    return larger.nmant >= smaller.nmant and larger.maxexp >= smaller.maxexp
