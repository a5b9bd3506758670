"""Check the arguments of `fit` before using them."""

import math
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optax
from jaxtyping import Array

from jaxgeo._checks import check_count, check_function, check_kind, check_number, check_positive
from jaxgeo.costs import AbstractCost, SumOfSquares
from jaxgeo.fitting.course import Renewal
from jaxgeo.fitting.interrupt import Interruptible
from jaxgeo.fitting.methods import Method, method_named
from jaxgeo.flows import AbstractFlow
from jaxgeo.optim.problem_maker import check_maker

# The largest number below 1.
BELOW_ONE = math.nextafter(1.0, 0.0)


def check_numbers(
    *,
    tol: Any,
    keep_every: Any,
    seed: Any,
    max_steps: Any,
    max_seconds: Any,
    optional: dict[str, Any],
) -> None:
    """Raise a `ValueError` that names the argument unless each number is valid and in range."""
    try:
        check_number("tol", tol, least=0, most=BELOW_ONE)
    except ValueError:
        raise ValueError(
            f"`tol` is relative to the cost at the start, so it must be a number in [0, 1); got {tol!r}."
        ) from None
    check_number("keep_every", keep_every, least=0)
    check_count("seed", seed, least=0)
    check_count("max_steps", max_steps)
    if max_seconds is not None:
        check_positive("max_seconds", max_seconds)
    for name, count in optional.items():
        if count is not None:
            check_count(name, count)


def check_functions(
    *, record: Any, progress: Any, callbacks: Any, interruptible: Any
) -> tuple[Callable[..., bool | None], ...]:
    """The callbacks, from any sequence; raises a `ValueError` that names the argument unless all are functions."""
    for name, function in (("record", record), ("progress", progress)):
        if function is not None:
            check_function(name, function)
    try:
        found = tuple(callbacks)
    except TypeError:
        raise ValueError(
            f"`callbacks` must be a list of functions, even for a single one; got {callbacks!r}."
        ) from None
    for index, callback in enumerate(found):
        check_function(f"callbacks[{index}]", callback)
    if interruptible is not None:
        check_kind("interruptible", interruptible, Interruptible, "a `jaxgeo.fitting.Interruptible` or None")
    return found


def read_method(method: Any) -> Method:
    """The flow or optimizer for `method`; raises `ValueError` if there is none."""
    if isinstance(method, str):
        return method_named(method)
    if isinstance(method, AbstractFlow | optax.GradientTransformation):
        return method
    raise ValueError(
        '`method` must be a name such as "adapted" or "adam", a flow such as `jaxgeo.AdaptedFlow()`, or an optax '
        f"transformation such as `optax.adam(1e-3)`; got {method!r}."
    )


def make_cost(cost: Any, targets: Array) -> AbstractCost:
    """The cost of these targets; raises an error that names `cost` unless it makes one."""
    check_maker(cost)
    if cost is SumOfSquares:
        raise ValueError("`cost` must be made from targets, and `SumOfSquares` takes none; pass `jaxgeo.L2`.")
    try:
        made = cost(targets)
    except TypeError as error:
        raise TypeError(
            f"`cost` cannot be called with the targets alone ({error}); if it takes more arguments, pass "
            "`lambda targets: …`."
        ) from error
    if not isinstance(made, AbstractCost):
        raise ValueError(f"`cost` must make a cost from the targets, such as `jaxgeo.L2(targets)`; got {made!r}.")
    return made


def read_renewal(points: Any, renew_every: int | None, record_every: int | None) -> Renewal:
    """How and when points are drawn; raises `ValueError` if the options do not go together."""
    kinds = ("residual", "uniform", "fixed")
    if points is not None and points not in kinds:
        raise ValueError(f"`points` must be one of {', '.join(map(repr, kinds))}; got {points!r}.")
    if points == "fixed" and renew_every is not None:
        raise ValueError(
            f"`renew_every` is {renew_every}, but fixed `points` are never redrawn; leave one of them out."
        )
    if renew_every is not None and record_every is not None and renew_every % record_every:
        raise ValueError(
            "points are redrawn at the end of a part, so `renew_every` must be a multiple of `record_every`; got "
            f"{renew_every} and {record_every}."
        )
    return Renewal("residual" if points is None else points, renew_every)


def read_pair(validation: Any) -> tuple[Any, Any]:
    """Held-out inputs and targets; raises `ValueError` unless `validation` is a pair."""
    if not isinstance(validation, Sequence) or isinstance(validation, str) or len(validation) != 2:
        raise ValueError(f"`validation` must be a pair, (inputs, targets); got {type(validation).__name__}"
                         f"{f' of {len(validation)}' if isinstance(validation, tuple | list) else ''}.")  # fmt: skip
    return validation[0], validation[1]


def read_folder(folder: Any) -> Path:
    """The path of the folder; raises `ValueError` if it is not a path, or the path of a file."""
    if not isinstance(folder, str | os.PathLike) or not os.fspath(folder):
        raise ValueError(f"`folder` must be the path of a folder, such as runs/first; got {folder!r}.")
    path = Path(folder)
    try:
        found = path.stat()
    except FileNotFoundError:
        return path
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"cannot write to the `folder` {str(path)!r} ({reason}); choose another.") from error
    if not stat.S_ISDIR(found.st_mode):
        raise ValueError(f"`folder` is {path}, which is a file; pass the path of an existing or new folder.")
    return path
