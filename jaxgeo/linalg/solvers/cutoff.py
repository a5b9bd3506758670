"""Which singular values of D count: a smooth filter for flows, a hard cut-off for diagnostics."""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgeo._checks import MOST, check_kind, check_number, check_positive


class AbstractCutoff(eqx.Module):
    """Decides which share of each singular direction of D to solve for."""

    rcond: eqx.AbstractVar[float | None]

    @abc.abstractmethod
    def __call__(self, ratios: Float[Array, " n"], floor: float) -> Float[Array, " n"]:
        """Shares in [0, 1] of 1/σ for `ratios` σ/σ_max; `floor` is their round-off, the default for `rcond`."""

    @abc.abstractmethod
    def full(self, floor: float) -> float:
        """The ratio from which the share is 1."""


class HardCutoff(AbstractCutoff):
    """Count σ > rcond · σ_max, and leave out the others.

    For diagnostics: the velocity of a flow would jump when a singular value crosses the cut-off.

    **Arguments:**

    - `rcond`: by default the round-off in σ/σ_max.
    """

    rcond: float | None = None

    def __check_init__(self):
        _check_rcond(self.rcond)

    def __call__(self, ratios: Float[Array, " n"], floor: float) -> Float[Array, " n"]:
        return (ratios > self.full(floor)).astype(ratios.dtype)

    def full(self, floor: float) -> float:
        return floor if self.rcond is None else self.rcond


class SmoothCutoff(AbstractCutoff):
    """Leave out σ < rcond · σ_max, count σ > width · rcond · σ_max in full, and change smoothly (C²) in between.

    For flows: the velocity stays continuous when D loses rank, so adaptive steps pass through without collapsing. Above
    the transition the lift is exactly D⁺v; below it, directions of pure round-off are left out exactly.

    **Arguments:**

    - `rcond`: by default the round-off in σ/σ_max.
    - `width`: the width of the transition, as a ratio.
    """

    rcond: float | None = None
    width: float = 4.0

    def __check_init__(self):
        _check_rcond(self.rcond)
        check_number("width", self.width, above=1, most=MOST)

    def __call__(self, ratios: Float[Array, " n"], floor: float) -> Float[Array, " n"]:
        low = floor if self.rcond is None else self.rcond
        tiny = jnp.finfo(ratios.dtype).tiny
        position = jnp.clip(jnp.log(jnp.maximum(ratios, tiny) / low) / jnp.log(self.width), 0, 1)
        return position**3 * (10 - 15 * position + 6 * position**2)

    def full(self, floor: float) -> float:
        return (floor if self.rcond is None else self.rcond) * self.width


def check_factoring(cutoff: Any, name: str, dtype: Any) -> None:
    """Raise unless `cutoff` is a cut-off and `dtype`, called `name`, is None or a real dtype that LAPACK supports.

    **Raises:** `ValueError` with the name.
    """
    check_kind("cutoff", cutoff, AbstractCutoff, "a cut-off, such as `jaxgeo.linalg.HardCutoff(1e-8)`")
    try:
        known = dtype is None or jnp.dtype(dtype) in (jnp.float32, jnp.float64)
    except TypeError:
        known = False
    if not known:
        raise ValueError(f"`{name}` must be float64, float32 or None; got {dtype!r}.")


def _check_rcond(rcond: float | None) -> None:
    if rcond is not None:
        check_positive("rcond", rcond)
