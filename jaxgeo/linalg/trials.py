"""Evaluate a network where it may raise an error at run time: trial steps that raise are rejected, not fatal."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, jaxpr_as_fun
from jaxtyping import Array, PyTree

from jaxgeo.linalg.one_way import contents_of
from jaxgeo.outputs import AnyProblem, Params

# How `equinox.error_if` raises from within a compiled program, and with it diffrax, lineax and optimistix.
CALLBACK = "pure_callback"


class NanForErrors(eqx.Module):
    """A network whose outputs are NaN where it would raise an error at run time.

    - `apply`: the network itself.
    """

    apply: Callable[[PyTree, PyTree], Array]

    def __call__(self, params: Params, sample: PyTree) -> Array:
        arrays, rest = eqx.partition((params, sample), eqx.is_array)
        leaves, treedef = jax.tree.flatten(arrays)

        def outputs(*leaves: Array) -> Array:
            return self.apply(*eqx.combine(jax.tree.unflatten(treedef, leaves), rest))

        (found,) = jaxpr_as_fun(_without_errors(jax.make_jaxpr(outputs)(*leaves)))(*leaves)
        return found


def for_trials(problem: AnyProblem, params: Params) -> AnyProblem:
    """The problem to evaluate at trial steps; the problem itself if no network can raise an error at run time."""
    parts = problem.partition(params)
    blocks = tuple(
        eqx.tree_at(lambda block: block.apply, block, NanForErrors(block.apply))
        if CALLBACK in contents_of(block, *parts).operations
        else block
        for block in problem.blocks
    )
    if all(new is old for new, old in zip(blocks, problem.blocks, strict=True)):
        return problem
    return eqx.tree_at(lambda problem: problem.blocks, problem, blocks)


@dataclass(frozen=True)
class _NanForError:
    """Callbacks in a row, with NaN as the result if one raises a `RuntimeError`, as that of Equinox is.

    Equinox has a second callback for devices that ignore what the first raises. It waits for the user, so it must not
    be called if the first has raised.

    - `first`, `then`: `then` is None, or is called with what `first` returns and the remaining arguments.
    - `split`: how many arguments are for `first`.
    """

    first: Callable[..., Any]
    then: Callable[..., Any] | None
    split: int
    outputs: tuple[jax.ShapeDtypeStruct, ...]

    def __call__(self, *args: Any) -> Any:
        try:
            found = self.first(*args[: self.split])
            return found if self.then is None else self.then(*found, *args[self.split :])
        except RuntimeError:
            return [np.full(output.shape, _nan(output.dtype), output.dtype) for output in self.outputs]


def _nan(dtype: np.dtype) -> float:
    return np.nan if jnp.issubdtype(dtype, jnp.inexact) else 0


def _without_errors(closed: ClosedJaxpr) -> ClosedJaxpr:
    return closed.replace(jaxpr=_in_jaxpr(closed.jaxpr))


def _in_jaxpr(jaxpr: Jaxpr) -> Jaxpr:
    before = [None, *jaxpr.eqns]
    return jaxpr.replace(eqns=[_in_equation(eqn, last) for eqn, last in zip(jaxpr.eqns, before, strict=False)])


def _in_equation(eqn: JaxprEqn, last: JaxprEqn | None) -> JaxprEqn:
    if eqn.primitive.name != CALLBACK:
        return eqn.replace(params={name: _in_parameter(value) for name, value in eqn.params.items()})
    outputs = tuple(jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in eqn.params["result_avals"])
    first, then, invars, split = eqn.params["callback"], None, eqn.invars, len(eqn.invars)
    if last is not None and last.primitive.name == CALLBACK and eqn.invars[: len(last.outvars)] == last.outvars:
        first, then, split = last.params["callback"], first, len(last.invars)
        invars = [*last.invars, *eqn.invars[len(last.outvars) :]]
    callback = _NanForError(first, then, split, outputs)
    return eqn.replace(invars=invars, params=eqn.params | {"callback": callback})


def _in_parameter(value: Any) -> Any:
    match value:
        case ClosedJaxpr():
            return _without_errors(value)
        case Jaxpr():
            return _in_jaxpr(value)
        case tuple() if any(isinstance(each, ClosedJaxpr | Jaxpr) for each in value):
            return tuple(_in_parameter(each) for each in value)
        case _:
            return value
