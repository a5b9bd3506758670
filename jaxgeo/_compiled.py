"""Methods that compile themselves, and that `jax.jit` takes like any function."""

from collections.abc import Callable
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

import equinox as eqx

Owner = TypeVar("Owner", bound=eqx.Module)
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class compiled(Generic[Owner, Arguments, Result]):
    """`eqx.filter_jit` for a method of a module.

    A method of `eqx.filter_jit` is as hashable as the arrays of its module, which are not, so `jax.jit` refuses it.
    """

    def __init__(self, method: Callable[Concatenate[Owner, Arguments], Result]):
        self.method = eqx.filter_jit(method)
        self.__doc__ = method.__doc__
        self.__wrapped__ = method

    @overload
    def __get__(self, instance: None, owner: Any) -> "compiled[Owner, Arguments, Result]": ...
    @overload
    def __get__(self, instance: Owner, owner: Any) -> Callable[Arguments, Result]: ...
    def __get__(self, instance: Owner | None, owner: Any) -> Any:
        return self if instance is None else Bound(self.method, instance)


class Bound(eqx.Module):
    """A compiled method of a module, the same as any other of the same instance."""

    method: Callable[..., Any]
    instance: eqx.Module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.method(self.instance, *args, **kwargs)

    def __hash__(self) -> int:
        return hash((id(self.instance), id(self.method)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bound) and self.instance is other.instance and self.method is other.method
