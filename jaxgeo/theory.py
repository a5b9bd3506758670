"""Closed forms from the paper. They use nothing that jaxgeo computes, so its results can be checked against them."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxgeo._checks import MOST, as_real, check_count, check_number, check_positive, is_concrete


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
    s = as_real("s", s, finite=False)
    check_number("cost0", cost0, least=0, most=MOST)
    _check_samples(num_samples)
    return jnp.exp(-2 * s / num_samples) * cost0


def outputs_at(
    s: Float[ArrayLike, ""], outputs0: Float[ArrayLike, "N Q"], targets: Float[ArrayLike, "N Q"], num_samples: int
) -> Float[Array, "N Q"]:
    """x(s) = y + e^{-s/N} (x(0) − y), component by component.

    Paper: (1.13); Theorem 2.1, (2.7)

    **Arguments:**

    - `s`: flow time.
    - `outputs0`, `targets`: x(0) and y, of one shape (N, Q).
    - `num_samples`: N.

    **Raises:** `ValueError` if the shapes differ, if `s` is not a number, or if `num_samples` is not a positive
    integer.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> jg.theory.outputs_at(0.0, jnp.zeros((1, 2)), jnp.ones((1, 2)), 1).tolist()
    [[0.0, 0.0]]

    ```
    """
    check_number("s", s)
    _check_samples(num_samples)
    outputs0, targets = as_real("outputs0", outputs0), as_real("targets", targets)
    if outputs0.shape != targets.shape:
        raise ValueError(f"`outputs0` and `targets` must have one shape; got {outputs0.shape} and {targets.shape}.")
    return targets + jnp.exp(-jnp.asarray(s) / num_samples) * (outputs0 - targets)


def stopping_time(cost0: Float[ArrayLike, ""], tol: Float[ArrayLike, ""], num_samples: int) -> Float[Array, ""]:
    """s_ε = (N/2) log(C(0)/ε), the flow time at which the cost reaches ε = `tol`; 0 if it is already there.

    Paper: Theorem 2.3, (2.17), (2.18)

    **Arguments:**

    - `cost0`, `tol`: C(0) and ε.
    - `num_samples`: N.

    **Raises:** `ValueError` if `tol` is not positive, or if `cost0` is negative.

    ```python
    >>> import jaxgeo as jg, math
    >>> float(jg.theory.stopping_time(1.0, math.exp(-2.0), 100)).__round__(6)
    100.0

    ```
    """
    check_number("cost0", cost0, least=0, most=MOST)
    check_positive("tol", tol)
    _check_samples(num_samples)
    return jnp.maximum(num_samples / 2 * jnp.log(cost0 / jnp.asarray(tol)), 0.0)


def critical_cost(orthogonal_gradient: Float[ArrayLike, "N Q"], num_samples: int) -> Float[Array, ""]:
    """(N/2) |𝒫⊥∇ₓC|², the cost at a critical point of the underparametrized flow.

    Paper: Theorem 5.1, (5.7)

    **Arguments:**

    - `orthogonal_gradient`: 𝒫⊥∇ₓC, the part of the output gradient outside range(D).
    - `num_samples`: N.
    """
    _check_samples(num_samples)
    return num_samples / 2 * jnp.sum(as_real("orthogonal_gradient", orthogonal_gradient) ** 2)


def num_steps(
    cost0: Float[ArrayLike, ""], tol: Float[ArrayLike, ""], learning_rate: Float[ArrayLike, ""]
) -> Float[Array, ""]:
    """log(ε/C(0)) / 2log(1 − η), rounded up: how many Euler steps of flow time ηN bring the cost to ε = `tol`.

    Paper: (2.18) for (1.11) by Euler's method, where each step multiplies x − y by 1 − η

    This is exact if the outputs are linear in θ, and correct to first order in η otherwise.

    **Arguments:**

    - `cost0`, `tol`: C(0) and ε.
    - `learning_rate`: η in (0, 1], the step in units of N.

    ```python
    >>> import jaxgeo as jg
    >>> float(jg.theory.num_steps(1.0, 0.25 ** 5, 0.5))
    5.0

    ```
    """
    check_number("cost0", cost0, least=0, most=MOST)
    check_positive("tol", tol)
    check_positive("learning_rate", learning_rate)
    needed = jnp.log(cost0 / jnp.asarray(tol)) / (-2 * jnp.log1p(-jnp.asarray(learning_rate)))
    # Round-off must not turn a whole number of steps into one more.
    eps = jnp.finfo(needed.dtype).eps
    return jnp.maximum(jnp.ceil(needed * (1 - 8 * eps)), 0)


def _check_samples(num_samples: int) -> None:
    if is_concrete(num_samples):
        check_count("num_samples", num_samples)


def __dir__() -> list[str]:
    """The closed forms, without the names that this module imports."""
    own = {name for name, value in globals().items() if getattr(value, "__module__", "") == __name__}
    return sorted(name for name in own if not name.startswith("_"))
