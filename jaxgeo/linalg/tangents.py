"""Helpers for derivatives: along a tangent, taken from another quantity, of a norm at zero, or refused."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float, PyTree

from jaxgeo._sums import total


def tangent_of(function: Callable[[PyTree], PyTree], primal: PyTree, tangent: PyTree) -> PyTree:
    """The derivative of `function` at `primal` along `tangent`, which is None at leaves that do not move.

    The result is None wherever the function returns something without a derivative, such as integers.
    """
    moving = jax.tree.map(lambda leaf: leaf is not None, tangent, is_leaf=lambda leaf: leaf is None)
    dynamic, static = eqx.partition(primal, moving)

    def of_moving(dynamic: PyTree) -> PyTree:
        return eqx.filter(function(eqx.combine(dynamic, static)), eqx.is_inexact_array)

    return jax.jvp(of_moving, (dynamic,), (tangent,))[1]


def filled(tangent: PyTree, primal: PyTree) -> PyTree:
    """A tangent with zeros in place of None, for leaves of `primal` that do not move."""
    return jax.tree.map(
        lambda leaf, value: jnp.zeros_like(value) if leaf is None else leaf,
        tangent,
        primal,
        is_leaf=lambda leaf: leaf is None,
    )


@jax.custom_jvp
def attach(value: PyTree, carrier: PyTree) -> PyTree:
    """`value`, with the derivative of `carrier`, the same quantity computed less precisely."""
    return value


@attach.defjvp
def _(primals: tuple, tangents: tuple) -> tuple[PyTree, PyTree]:
    return attach(*primals), tangents[1]


def freeze(tree: PyTree) -> PyTree:
    """The same tree without derivatives, as input of a factorisation."""
    return jax.tree.map(lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_inexact_array(leaf) else leaf, tree)


def norm(tree: PyTree) -> Float[Array, ""]:
    """The length of a pytree, with derivative 0 rather than NaN where the length is 0."""
    return root(dot(tree, tree))


def dot(first: PyTree, second: PyTree) -> Float[Array, ""]:
    """The sum of the products of all numbers of two pytrees."""
    return jax.tree.reduce(jnp.add, jax.tree.map(lambda one, other: total(one * other), first, second))


def root(square: Float[Array, ""]) -> Float[Array, ""]:
    """√square, with derivative 0 rather than NaN at 0."""
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, jnp.ones_like(square))), square)


def forward_only(tree: PyTree, message: str) -> PyTree:
    """The same tree with derivatives in forward mode only; reverse mode raises.

    **Raises:** `NotImplementedError` with the message, when a reverse-mode derivative passes through.
    """

    def marked(leaf: PyTree) -> PyTree:
        return _forward_only.bind(leaf, message=message) if eqx.is_inexact_array(leaf) else leaf

    return jax.tree.map(marked, tree)


def _refuse(cotangent: Any, value: Any, *, message: str) -> None:
    # JAX passes a placeholder for the value.
    del cotangent, value
    raise NotImplementedError(message)


_forward_only = Primitive("forward_only")
_forward_only.def_impl(lambda value, **_: value)
_forward_only.def_abstract_eval(lambda value, **_: value)
ad.deflinear2(_forward_only, _refuse)
batching.defvectorized(_forward_only)
mlir.register_lowering(_forward_only, lambda _, value, **__: [value])
