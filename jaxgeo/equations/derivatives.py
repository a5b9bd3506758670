"""Derivatives of a scalar or vector field by its inputs, for the residuals of differential equations."""

from collections.abc import Callable, Sequence
from itertools import combinations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo._checks import check_function

Field = Callable[[Float[Array, " d"]], Float[Array, ""]]
VectorField = Callable[[Float[Array, " d"]], Float[Array, " d"]]


def gradient(u: Field) -> VectorField:
    """∇u, by forward mode: for the lift this is cheaper to differentiate than a reverse pass.

    **Arguments:**

    - `u`: a function from a point of shape (d,) to a number.

    **Returns:** a function from a point to a vector of shape (d,).
    """
    check_function("u", u)
    return jax.jacfwd(u)


def divergence(f: VectorField) -> Field:
    """∇·f, by one JVP for each of the d directions.

    **Arguments:**

    - `f`: a function from a point of shape (d,) to a vector of shape (d,).

    **Returns:** a function from a point to a number.
    """
    check_function("f", f)

    def of(x: Float[Array, " d"]) -> Float[Array, ""]:
        def along(direction: Float[Array, " d"]) -> Float[Array, ""]:
            return direction @ jax.jvp(f, (x,), (direction,))[1]

        return jnp.sum(jax.vmap(along)(jnp.eye(x.size, dtype=x.dtype)))

    return of


def laplacian(u: Callable[[Float[Array, " d"]], Array]) -> Callable[[Float[Array, " d"]], Array]:
    """Δu, by a JVP of a JVP for each of the d directions; the Hessian is never formed.

    **Arguments:**

    - `u`: a function from a point of shape (d,) to a number, or to a vector, which is treated entry by entry.

    **Returns:** a function from a point to a number or vector like that of `u`.

    ```python
    >>> import jax.numpy as jnp
    >>> from jaxgeo.equations import laplacian
    >>> float(laplacian(lambda x: x[0] ** 2 * x[1])(jnp.array([1.0, 3.0])))
    6.0

    ```
    """
    check_function("u", u)

    def of(x: Float[Array, " d"]) -> Array:
        def twice(direction: Float[Array, " d"]) -> Array:
            def slope(x: Float[Array, " d"]) -> Array:
                return jax.jvp(u, (x,), (direction,))[1]

            return jax.jvp(slope, (x,), (direction,))[1]

        return jnp.sum(jax.vmap(twice)(jnp.eye(x.size, dtype=x.dtype)), axis=0)

    return of


def partials(u: Callable[..., Array], wanted: str, coordinates: Sequence[str]) -> Callable[..., tuple[Array, ...]]:
    """Partial derivatives by name, such as u_t, u_x, u_xx and u_xt.

    One sweep of nested JVPs also gives the lower derivatives: the sweep for "xt" gives u_x and u_t too. If `u` is a
    vector field, each derivative is a vector.

    **Arguments:**

    - `u`: a function whose last argument is the point, of shape (d,): `u(point)`, or `u(params, point)`.
    - `wanted`: the derivatives, separated by spaces. Each lists the coordinates to differentiate by: "t x xx xt".
    - `coordinates`: the name of each coordinate of a point, in order: "tx" or ("t", "x").

    **Returns:** a function with the arguments of `u` that returns a tuple of the derivatives, in the given order.

    **Raises:** `ValueError` if `wanted` is empty, or if a derivative is not made of names of coordinates.

    ```python
    >>> import jax.numpy as jnp
    >>> from jaxgeo.equations import partials
    >>> u_t, u_xt, u_xx = partials(lambda point: point[0] * point[1] ** 3, "t xt xx", "tx")(jnp.array([2.0, 3.0]))
    >>> float(u_t), float(u_xt), float(u_xx)
    (27.0, 27.0, 36.0)

    ```
    """
    check_function("u", u)
    names = tuple(coordinates)
    words = [_read_word(word, names) for word in wanted.split()]
    if not words:
        raise ValueError(f'`wanted` must name derivatives, such as "t x xx"; got {wanted!r}.')
    sweeps: list[tuple[int, ...]] = []
    for word in sorted(set(words), key=len, reverse=True):
        if not any(word in _below(sweep) for sweep in sweeps):
            sweeps.append(word)

    def of(*arguments: PyTree) -> tuple[Array, ...]:
        *others, point = arguments
        found: dict[tuple[int, ...], Array] = {}
        for sweep in sweeps:
            found = _sweep(lambda x: u(*others, x), sweep, point) | found
        return tuple(found[word] for word in words)

    return of


def _read_word(word: str, names: tuple[str, ...]) -> tuple[int, ...]:
    """Which coordinates a word such as "xxt" names, in increasing order."""
    rest, indices = word, []
    while rest:
        # Try the longest name first: if there are "x" and "x1", the word "x1" means the second.
        found = max((name for name in names if rest.startswith(name)), key=len, default=None)
        if not found:
            raise ValueError(f"{word!r} is not a derivative by the coordinates {', '.join(names)}.")
        indices.append(names.index(found))
        rest = rest.removeprefix(found)
    return tuple(sorted(indices))


def _below(word: tuple[int, ...]) -> set[tuple[int, ...]]:
    return {part for length in range(len(word) + 1) for part in combinations(word, length)}


def _sweep(
    u: Callable[[Array], Array], word: tuple[int, ...], point: Float[Array, " d"]
) -> dict[tuple[int, ...], Array]:
    """The derivative that a word names, and all lower ones."""

    def level(depth: int) -> Callable[[Array], dict[tuple[int, ...], Array]]:
        if depth == 0:
            return lambda x: {(): u(x)}
        lower, index = level(depth - 1), word[depth - 1]

        def of(x: Float[Array, " d"]) -> dict[tuple[int, ...], Array]:
            values, slopes = jax.jvp(lower, (x,), (jnp.zeros_like(x).at[index].set(1),))
            return {(*below, index): slope for below, slope in slopes.items()} | values

        return of

    return level(len(word))(point)
