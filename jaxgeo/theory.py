"""Closed forms of the source. Imports nothing else of jaxgeo, so that they can judge it."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float


def cost_at(s: Float[ArrayLike, "..."], cost0: Float[ArrayLike, ""], num_samples: int) -> Float[Array, "..."]:
    """C(s) = e^{-2s/N} C(0), the cost along the adapted flow and in the comparison model.

    Paper: (1.14), (2.6)

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
    return jnp.exp(-2 * jnp.asarray(s) / num_samples) * cost0


def outputs_at(
    s: Float[ArrayLike, ""], outputs0: Float[ArrayLike, "N Q"], targets: Float[ArrayLike, "N Q"], num_samples: int
) -> Float[Array, "N Q"]:
    """x(s) = y + e^{-s/N} (x(0) − y), component by component.

    Paper: (1.13), (2.7)

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> jg.theory.outputs_at(0.0, jnp.zeros((1, 2)), jnp.ones((1, 2)), 1).tolist()
    [[0.0, 0.0]]

    ```
    """
    targets = jnp.asarray(targets)
    return targets + jnp.exp(-jnp.asarray(s) / num_samples) * (outputs0 - targets)


def stopping_time(cost0: Float[ArrayLike, ""], tol: Float[ArrayLike, ""], num_samples: int) -> Float[Array, ""]:
    """s_ε = (N/2) log(C(0)/ε), when the cost reaches ε = `tol`; 0 if it is there already.

    Paper: (2.18)

    ```python
    >>> import jaxgeo as jg, math
    >>> float(jg.theory.stopping_time(1.0, math.exp(-2.0), 100)).__round__(6)
    100.0

    ```
    """
    return jnp.maximum(num_samples / 2 * jnp.log(cost0 / jnp.asarray(tol)), 0.0)


def critical_cost(orthogonal_gradient: Float[ArrayLike, "N Q"], num_samples: int) -> Float[Array, ""]:
    """(N/2) |𝒫⊥∇ₓC|², the cost at a critical point of the underparametrized flow.

    Paper: (5.7)

    **Arguments:**

    - `orthogonal_gradient`: 𝒫⊥∇ₓC, the part of the output gradient outside range(D).
    - `num_samples`: N.
    """
    return num_samples / 2 * jnp.sum(jnp.asarray(orthogonal_gradient) ** 2)


def num_steps(
    cost0: Float[ArrayLike, ""], tol: Float[ArrayLike, ""], learning_rate: Float[ArrayLike, ""]
) -> Float[Array, ""]:
    """log(ε/C(0)) / 2log(1 − η), rounded up: Euler steps of flow time ηN until the cost reaches ε = `tol`.

    Paper: (2.18) for (1.11) by Euler's method, where each step multiplies x − y by 1 − η

    Exact for outputs linear in θ, and to first order in η otherwise.

    **Arguments:**

    - `learning_rate`: η in (0, 1], the step in units of N.

    ```python
    >>> import jaxgeo as jg
    >>> float(jg.theory.num_steps(1.0, 0.25 ** 5, 0.5))
    5.0

    ```
    """
    needed = jnp.log(cost0 / jnp.asarray(tol)) / (-2 * jnp.log1p(-jnp.asarray(learning_rate)))
    # A whole number of steps must not become one more by round-off.
    eps = jnp.finfo(needed.dtype).eps
    return jnp.maximum(jnp.ceil(needed * (1 - 8 * eps)), 0)
