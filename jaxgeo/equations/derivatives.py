"""Derivatives of a scalar or vector field by its inputs, for the residuals of differential equations."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgeo._checks import check_function

Field = Callable[[Float[Array, " d"]], Float[Array, ""]]
VectorField = Callable[[Float[Array, " d"]], Float[Array, " d"]]


def gradient(u: Field) -> VectorField:
    """∇u, by forward mode, which the lift differentiates at less cost than a reverse pass inside.

    **Arguments:**

    - `u`: from a point of shape (d,) to a number.

    **Returns:** a function from a point to a vector of shape (d,).
    """
    check_function("u", u)
    return jax.jacfwd(u)


def divergence(f: VectorField) -> Field:
    """∇·f, one JVP for each of the d directions.

    **Arguments:**

    - `f`: from a point of shape (d,) to a vector of shape (d,).

    **Returns:** a function from a point to a number.
    """
    check_function("f", f)

    def of(x: Float[Array, " d"]) -> Float[Array, ""]:
        def along(direction: Float[Array, " d"]) -> Float[Array, ""]:
            return direction @ jax.jvp(f, (x,), (direction,))[1]

        return jnp.sum(jax.vmap(along)(jnp.eye(x.size, dtype=x.dtype)))

    return of


def laplacian(u: Field) -> Field:
    """Δu, a JVP of a JVP for each of the d directions; never the Hessian.

    **Arguments:**

    - `u`: from a point of shape (d,) to a number.

    **Returns:** a function from a point to a number.

    ```python
    >>> import jax.numpy as jnp
    >>> from jaxgeo.equations import laplacian
    >>> float(laplacian(lambda x: x[0] ** 2 * x[1])(jnp.array([1.0, 3.0])))
    6.0

    ```
    """
    check_function("u", u)

    def of(x: Float[Array, " d"]) -> Float[Array, ""]:
        def twice(direction: Float[Array, " d"]) -> Float[Array, ""]:
            def slope(x: Float[Array, " d"]) -> Float[Array, ""]:
                return jax.jvp(u, (x,), (direction,))[1]

            return jax.jvp(slope, (x,), (direction,))[1]

        return jnp.sum(jax.vmap(twice)(jnp.eye(x.size, dtype=x.dtype)))

    return of
