"""Closed forms of the source. Imports nothing else of jaxgeo, so that they can judge it."""

import math

import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float


def cost_at(s: Float[ArrayLike, "..."], cost0: Float[ArrayLike, ""], num_samples: int) -> Float[Array, "..."]:
    """C(s) = e^{-2s/N} C(0), the cost along the adapted flow and in the comparison model.

    Paper: (1.14); Theorem 2.1, (2.6)

    **Arguments:**

    - `s`: flow time.
    - `cost0`: C(0).
    - `num_samples`: N.

    ```python
    >>> import jaxgeo as jg
    >>> round(float(jg.theory.cost_at(50.0, 2.0, 100)), 6)
    0.735759

    ```
    """
    _check("s", s, infinite=True, scalar=False)
    _check("cost0", cost0, least=0)
    _check_count(num_samples)
    return jnp.exp(-2 * jnp.asarray(s) / num_samples) * cost0


def outputs_at(
    s: Float[ArrayLike, ""], outputs0: Float[ArrayLike, "N Q"], targets: Float[ArrayLike, "N Q"], num_samples: int
) -> Float[Array, "N Q"]:
    """x(s) = y + e^{-s/N} (x(0) − y), component by component.

    Paper: (1.13); Theorem 2.1, (2.7)

    **Arguments:**

    - `s`: flow time.
    - `outputs0`, `targets`: x(0) and y, of one shape (N, Q).
    - `num_samples`: N.

    **Raises:** `ValueError` if the shapes differ, or a number is not one.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> jg.theory.outputs_at(0.0, jnp.zeros((1, 2)), jnp.ones((1, 2)), 1).tolist()
    [[0.0, 0.0]]

    ```
    """
    _check("s", s, infinite=True)
    _check("outputs0", outputs0, scalar=False)
    _check("targets", targets, scalar=False)
    _check_count(num_samples)
    outputs0, targets = jnp.asarray(outputs0), jnp.asarray(targets)
    if outputs0.shape != targets.shape:
        raise ValueError(f"`outputs0` and `targets` must have one shape; got {outputs0.shape} and {targets.shape}.")
    return targets + jnp.exp(-jnp.asarray(s) / num_samples) * (outputs0 - targets)


def stopping_time(cost0: Float[ArrayLike, ""], tol: Float[ArrayLike, ""], num_samples: int) -> Float[Array, ""]:
    """s_ε = (N/2) log(C(0)/ε), when the cost reaches ε = `tol`; 0 if it is there already.

    Paper: Theorem 2.3, (2.17), (2.18)

    **Arguments:**

    - `cost0`, `tol`: C(0) and ε.
    - `num_samples`: N.

    **Raises:** `ValueError` unless `tol` is positive and `cost0` not negative.

    ```python
    >>> import jaxgeo as jg, math
    >>> float(jg.theory.stopping_time(1.0, math.exp(-2.0), 100)).__round__(6)
    100.0

    ```
    """
    _check("cost0", cost0, least=0)
    _check("tol", tol, positive=True)
    _check_count(num_samples)
    return jnp.maximum(num_samples / 2 * jnp.log(cost0 / jnp.asarray(tol)), 0.0)


def critical_cost(orthogonal_gradient: Float[ArrayLike, "N Q"], num_samples: int) -> Float[Array, ""]:
    """(N/2) |𝒫⊥∇ₓC|², the cost at a critical point of the underparametrized flow.

    Paper: Theorem 5.1, (5.7)

    **Arguments:**

    - `orthogonal_gradient`: 𝒫⊥∇ₓC, the part of the output gradient outside range(D).
    - `num_samples`: N.
    """
    _check("orthogonal_gradient", orthogonal_gradient, scalar=False)
    _check_count(num_samples)
    return num_samples / 2 * jnp.sum(jnp.asarray(orthogonal_gradient) ** 2)


def num_steps(
    cost0: Float[ArrayLike, ""], tol: Float[ArrayLike, ""], learning_rate: Float[ArrayLike, ""]
) -> Float[Array, ""]:
    """log(ε/C(0)) / 2log(1 − η), rounded up: Euler steps of flow time ηN until the cost reaches ε = `tol`.

    Paper: (2.18) for (1.11) by Euler's method, where each step multiplies x − y by 1 − η

    Exact for outputs linear in θ, and to first order in η otherwise.

    **Arguments:**

    - `cost0`, `tol`: C(0) and ε.
    - `learning_rate`: η in (0, 1], the step in units of N.

    ```python
    >>> import jaxgeo as jg
    >>> float(jg.theory.num_steps(1.0, 0.25 ** 5, 0.5))
    5.0

    ```
    """
    _check("cost0", cost0, least=0)
    _check("tol", tol, positive=True)
    _check("learning_rate", learning_rate, positive=True)
    needed = jnp.log(cost0 / jnp.asarray(tol)) / (-2 * jnp.log1p(-jnp.asarray(learning_rate)))
    # A whole number of steps must not become one more by round-off.
    eps = jnp.finfo(needed.dtype).eps
    return jnp.maximum(jnp.ceil(needed * (1 - 8 * eps)), 0)


def _check(
    name: str,
    value: ArrayLike,
    *,
    least: float = -math.inf,
    positive: bool = False,
    infinite: bool = False,
    scalar: bool = True,
) -> None:
    """Raise `ValueError` unless `value` is what the formula is for; what is traced is let through."""
    if isinstance(value, jax.core.Tracer):
        return
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.array(None)
    wanted = ("a number" if scalar else "numbers") + ", positive" * positive + f", at least {least:g}" * (least == 0)
    fits = array.dtype.kind in "fiu" or jnp.issubdtype(array.dtype, jnp.floating)
    if fits:
        array = array.astype(np.float64)
        fits = not np.isnan(array).any() and (infinite or bool(np.isfinite(array).all()))
        fits = fits and bool((array >= least).all()) and not (positive and (array <= 0).any())
    if not fits or (scalar and array.ndim):
        raise ValueError(f"`{name}` must be {wanted}; got {value!r}.")


def _check_count(num_samples: int) -> None:
    if isinstance(num_samples, jax.core.Tracer):
        return
    if not isinstance(num_samples, int | np.integer) or num_samples < 1:
        raise ValueError(f"`num_samples` must be a positive integer; got {num_samples!r}.")


def __dir__() -> list[str]:
    """The closed forms, and not what they are written with."""
    own = {name for name, value in globals().items() if getattr(value, "__module__", "") == __name__}
    return sorted(name for name in own if not name.startswith("_"))
