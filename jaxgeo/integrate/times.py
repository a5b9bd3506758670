"""Times of an integration: checks, the latest end, and the times at which to record."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxgeo import theory
from jaxgeo._checks import MOST, as_real, check_number, is_concrete
from jaxgeo.problem import Problem

Scalar = float | Float[Array, ""]


def check_times(s0: Scalar, s1: Scalar | None, cost_tol: Scalar | None) -> None:
    """Raise `ValueError` unless `s1` or `cost_tol` gives an end to integrate to that is not before `s0`."""
    if s1 is None and cost_tol is None:
        raise ValueError("pass `s1` (a flow time), `cost_tol` (a cost), or both; got neither.")
    check_number("s0", s0, least=0, most=MOST)
    if s1 is not None and is_concrete((s0, s1)) and s1 < s0:
        raise ValueError(f"`s1` must not come before `s0`; got s0={s0} and s1={s1}.")


def check_save_at(save_at: ArrayLike, s0: Scalar = 0.0, s1: Scalar | None = None) -> None:
    """Raise `ValueError` unless `save_at` are increasing times from `s0` to `s1`; traced ones pass."""
    if not is_concrete(save_at):
        return
    # Also works under `jit`, where arrays made from numbers would be traced.
    with jax.ensure_compile_time_eval():
        times = np.asarray(as_real("save_at", save_at))
    if times.ndim != 1 or times.size == 0:
        raise ValueError(f"`save_at` must be a vector of flow times; got shape {times.shape}.")
    if not (times[0] >= 0 and (np.diff(times) > 0).all()):
        raise ValueError(f"`save_at` must be increasing and not negative; got {save_at}.")
    if is_concrete(s0) and times[0] < s0:
        raise ValueError(f"`save_at` must not come before `s0`={s0}; got {times[0]}.")
    if s1 is not None and is_concrete(s1) and times[-1] > s1:
        raise ValueError(f"`save_at` must not go beyond `s1`={s1}; got {times[-1]}.")


def latest_end(
    problem: Problem, cost0: Float[Array, ""], s0: Array, s1: Scalar | None, cost_tol: Scalar | None, law: bool
) -> tuple[Scalar, Float[Array, ""] | None]:
    """The latest time to stop at, and s_ε, which only a law tells."""
    if cost_tol is None:
        assert s1 is not None
        return s1, None
    # Round-off may turn a cost of zero negative.
    needed = theory.stopping_time(jnp.maximum(cost0, 0), cost_tol, problem.num_samples)
    if s1 is None:
        # The law says when the cost reaches its tolerance; an orbit on the law needs little more time.
        s1 = s0 + 1.05 * needed + 0.1 * problem.num_samples if law else jnp.inf
    return jnp.where(cost0 <= cost_tol, s0, s1), s0 + needed if law else None


def times_within(save_at: Float[Array, " times"], end: Float[Array, ""]) -> Float[Array, " kept"]:
    """The times before the end; if the end is not known yet, all times, with later ones moved to the end."""
    if is_concrete((save_at, end)):
        return save_at[save_at <= end]
    return jnp.minimum(save_at, end)


def times_after(times: Float[Array, " times"], s: Float[Array, ""]) -> Float[Array, " kept"]:
    """The times still to come; the present one if there is none."""
    later = times[times > s]
    return later if later.size else s[None]
