"""Products without TF32, and float64 for parts of a float32 computation without x64 for the whole program."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp

from jaxgeo.linalg.tangents import tangent_of

Function = TypeVar("Function", bound=Callable[..., Any])


def without_tf32(fun: Function) -> Function:
    """`fun`, with all products of float32 numbers in full float32 precision, whatever the caller has set."""

    @functools.wraps(fun)
    def run(*args: Any, **kwargs: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return fun(*args, **kwargs)

    return cast(Function, run)


def is_available(dtype: jnp.dtype) -> bool:
    """Whether JAX can make arrays of `dtype` under its current settings: float64 needs x64."""
    return jax.dtypes.canonicalize_dtype(dtype) == dtype


def in_dtype(fun: Callable[..., Any], dtype: jnp.dtype) -> Callable[..., Any]:
    """`fun`, run so that it can make arrays of `dtype`; arguments and results are pytrees of arrays.

    `jax.enable_x64` acts while a function is traced. `vmap` of something traced before (a jitted function, the body
    of a scan) applies batching rules later, outside the context. Some of these rules turn float64 into float32, which
    XLA then refuses. So the function has its own batching rule, which enters the context again. Derivatives do not pass
    through: give them a rule of their own, as `jaxgeo.linalg.solvers.derivatives` does.

    Do not run users' code inside: its arrays of the default dtype would become float64.

    ```python
    >>> import jax, jax.numpy as jnp
    >>> from jaxgeo.linalg.precision import in_dtype
    >>> def total(x):
    ...     return jnp.sum(x.astype(jnp.float64)).astype(x.dtype)
    >>> jax.vmap(jax.jit(in_dtype(total, jnp.dtype("float64"))))(jnp.ones((2, 3), jnp.float32)).tolist()
    [3.0, 3.0]

    ```
    """
    return fun if is_available(dtype) else _in_float64(fun)


def _in_float64(fun: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        with jax.enable_x64(True):
            closed, constants = _closed(fun, *args)
        return call(closed, constants, *args)

    def call(closed: Callable[..., Any], *operands: Any) -> Any:
        def evaluate(*operands: Any) -> Any:
            with jax.enable_x64(True):
                return closed(*operands)

        custom = jax.custom_batching.custom_vmap(evaluate)

        @custom.def_vmap
        def _(axis_size: int, in_batched: Any, *operands: Any) -> tuple[Any, Any]:
            axes = jax.tree.map(lambda batched: 0 if batched else None, tuple(in_batched))
            out = call(jax.vmap(closed, in_axes=axes, axis_size=axis_size), *operands)
            return out, jax.tree.map(lambda _: True, out)

        return custom(*operands)

    return run


def _closed(fun: Callable[..., Any], *args: Any) -> tuple[Callable[..., Any], list[Any]]:
    """`fun` as a function of the arrays that it closes over and of its arguments, and these arrays.

    A function with its own batching rule must not close over arrays: inside a branch of a `jax.lax.cond` with a batched
    predicate JAX would batch them, and then fail.
    """
    closed, shapes = jax.make_jaxpr(fun, return_shape=True)(*args)

    def evaluate(constants: list[Any], *args: Any) -> Any:
        return jax.tree.unflatten(
            jax.tree.structure(shapes), jax.core.eval_jaxpr(closed.jaxpr, constants, *jax.tree.leaves(args))
        )

    return evaluate, closed.consts


def cond_any(predicate: jax.Array, true: Callable[..., Any], false: Callable[..., Any], *operands: Any) -> Any:
    """`jax.lax.cond` for an expensive, rarely taken `true` branch, which under `vmap` runs only if a member needs it.

    `jax.lax.cond` of a batched predicate always computes both branches; so do derivatives of this function. Operands,
    and branches that are modules, may hold leaves that are not arrays. What a branch closes over has no derivative.
    """
    return _cond_any(predicate, true, false, operands)


def rescue_if(predicate: jax.Array, rescue: Callable[..., Any], usual: Any, *operands: Any) -> Any:
    """`usual`, or `rescue(usual, *operands)` if the predicate holds: `cond_any` for a result that may need rescue."""
    return cond_any(predicate, rescue, _as_usual, usual, *operands)


def _as_usual(usual: Any, *operands: Any) -> Any:
    return usual


@eqx.filter_custom_jvp
def _cond_any(predicate: jax.Array, true: Callable[..., Any], false: Callable[..., Any], operands: tuple) -> Any:
    dynamic, static = eqx.partition((true, false, operands), eqx.is_array)

    def whole(choose: int) -> Callable[..., Any]:
        def branch(*dynamic: Any) -> Any:
            parts = eqx.combine(dynamic, static)
            return parts[choose](*parts[2])

        return branch

    (true_closed, of_true), (false_closed, of_false) = (_closed(whole(choose), *dynamic) for choose in (0, 1))
    return _cond_of_arrays(
        predicate,
        lambda constants, _, *operands: true_closed(constants, *operands),
        lambda _, constants, *operands: false_closed(constants, *operands),
        of_true,
        of_false,
        *dynamic,
    )


@_cond_any.def_jvp
def _(primals: tuple, tangents: tuple) -> tuple[Any, Any]:
    # Unlike `custom_vmap`, `jax.lax.cond` has a reverse mode.
    predicate, *rest = primals

    def chosen(rest: list) -> Any:
        true, false, operands = rest
        return jax.lax.cond(predicate, lambda: true(*operands), lambda: false(*operands))

    return _cond_any(*primals), tangent_of(chosen, rest, list(tangents[1:]))


def _cond_of_arrays(predicate: jax.Array, true: Callable[..., Any], false: Callable[..., Any], *operands: Any) -> Any:
    def run(predicate: jax.Array, *operands: Any) -> Any:
        return jax.lax.cond(predicate, true, false, *operands)

    call = jax.custom_batching.custom_vmap(run)

    @call.def_vmap
    def _(axis_size: int, in_batched: Any, predicate: jax.Array, *operands: Any) -> tuple[Any, Any]:
        axes = jax.tree.map(lambda batched: 0 if batched else None, tuple(in_batched[1:]))
        usual = jax.vmap(false, in_axes=axes, axis_size=axis_size)
        if not in_batched[0]:
            rare = jax.vmap(true, in_axes=axes, axis_size=axis_size)
            out = _cond_of_arrays(predicate, rare, usual, *operands)
            return out, jax.tree.map(lambda _: True, out)

        def either(predicate: jax.Array, *operands: Any) -> Any:
            chosen = jax.vmap(true, in_axes=axes, axis_size=axis_size)(*operands)
            return jax.tree.map(
                lambda yes, no: jnp.where(predicate.reshape(-1, *[1] * (yes.ndim - 1)), yes, no),
                chosen,
                usual(*operands),
            )

        out = _cond_of_arrays(jnp.any(predicate), either, lambda _, *operands: usual(*operands), predicate, *operands)
        return out, jax.tree.map(lambda _: True, out)

    return call(predicate, *operands)
