"""Boxes with named coordinates, their faces, and helpers for outputs that meet conditions exactly."""

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgeo._checks import MOST, check_number
from jaxgeo._names import did_you_mean
from jaxgeo.equations.derivatives import partials


class Box(eqx.Module):
    """A box in named coordinates. A point holds one number for each coordinate, in this order.

    **Arguments:**

    - `sides`: the range of each coordinate, such as `t=(0, 1)`. A side of length 0 makes the box a face.

    **Raises:** `ValueError` unless each side is two finite numbers, of which the second is not smaller.

    ```python
    >>> import jax, jax.numpy as jnp
    >>> from jaxgeo.equations import Box
    >>> box = Box(t=(0, 1), x=(-1, 1))
    >>> box.uniform(jax.random.key(0), 5).shape, box.face(t=0)
    ((5, 2), Box(t=(0, 0), x=(-1, 1)))
    >>> float(box.vanishing(jnp.array([1.0, 0.5]), t=0, x=(-1, 1)))
    0.75
    >>> u_t, u_xx = box.partials(lambda point: point[0] * point[1] ** 3, "t xx")(jnp.array([2.0, 3.0]))
    >>> float(u_t), float(u_xx)
    (27.0, 36.0)

    ```
    """

    names: tuple[str, ...] = eqx.field(static=True)
    low: tuple[float, ...] = eqx.field(static=True)
    high: tuple[float, ...] = eqx.field(static=True)

    def __init__(self, **sides: tuple[float, float]):
        if not sides:
            raise ValueError("a box needs coordinates, such as `Box(t=(0, 1), x=(-1, 1))`; got none.")
        for name, side in sides.items():
            pair = isinstance(side, Sequence) and len(side) == 2 and all(isinstance(end, Real) for end in side)
            if not pair or not -MOST <= float(side[0]) <= float(side[1]) <= MOST:
                raise ValueError(
                    f"`{name}` must be two finite numbers, its lower and upper end, such as (0, 1); got {side!r}."
                )
        self.names = tuple(sides)
        self.low = tuple(float(side[0]) for side in sides.values())
        self.high = tuple(float(side[1]) for side in sides.values())

    def __repr__(self) -> str:
        sides = zip(self.names, self.low, self.high, strict=True)
        return f"Box({', '.join(f'{name}=({low:g}, {high:g})' for name, low, high in sides)})"

    @property
    def dim(self) -> int:
        """The number of coordinates."""
        return len(self.names)

    @property
    def is_face(self) -> bool:
        """Whether a side has length 0."""
        return any(low == high for low, high in zip(self.low, self.high, strict=True))

    def uniform(self, key: Array, count: int) -> Float[Array, "count d"]:
        """Points drawn uniformly from the box."""
        low, high = jnp.asarray(self.low), jnp.asarray(self.high)
        return low[None] + (high - low)[None] * jax.random.uniform(key, (count, self.dim))

    def face(self, **where: float) -> "Box":
        """The part of the box where these coordinates have these values, such as `face(t=0)`.

        **Raises:** `ValueError` if there is no such coordinate, or if a value lies outside the box.
        """
        sides = dict(zip(self.names, zip(self.low, self.high, strict=True), strict=True))
        for name, value in where.items():
            self.index(name)
            check_number(name, value, least=sides[name][0], most=sides[name][1])
            sides[name] = (float(value), float(value))
        return Box(**sides)

    def faces(self, *names: str) -> tuple["Box", ...]:
        """Both faces of each of these coordinates, all by default: the places of boundary conditions."""
        chosen = names or self.names
        ends = [(name, end[self.index(name)]) for name in chosen for end in (self.low, self.high)]
        return tuple(self.face(**{name: end}) for name, end in ends)

    def outside(self, points: Float[np.ndarray, "m d"]) -> np.ndarray:
        """Which points lie outside by more than round-off."""
        low, high = np.asarray(self.low), np.asarray(self.high)
        eps = float(np.finfo(points.dtype).eps)
        margin = 8 * eps * np.maximum(np.abs(low), np.abs(high))
        return np.any((points < low - margin) | (points > high + margin), axis=1)

    def partials(self, u: Callable[..., Array], wanted: str) -> Callable[..., tuple[Array, ...]]:
        """Partial derivatives by the names of the coordinates, such as "t x xx"; see `jaxgeo.equations.partials`."""
        return partials(u, wanted, self.names)

    def vanishing(self, point: Float[Array, " d"], **where: float | tuple[float, ...]) -> Float[Array, ""]:
        """A polynomial of the point that is 0 where these coordinates have these values, and of size 1 elsewhere.

        Multiply a network by it and add a function with the right boundary values: the sum has these values for any
        weights. `vanishing(point, t=0, x=(-1, 1))` is t(1 − x²) on t in [0, 1] and x in [−1, 1].

        **Raises:** `ValueError` if there is no such coordinate, or if a value lies outside the box.
        """
        product = jnp.ones((), point.dtype)
        for name, values in where.items():
            index = self.index(name)
            low, high = self.low[index], self.high[index]
            ends = values if isinstance(values, tuple) else (values,)
            # With both ends, half the length, so that the product is 1 in the middle.
            scale = (high - low) / (2 if len(ends) > 1 else 1)
            for end in ends:
                check_number(name, end, least=low, most=high)
                sign = -1 if end == high else 1
                product = product * sign * (point[index] - end) / scale
        return product

    def scaled(self, point: Float[Array, " d"]) -> Float[Array, " d"]:
        """The point with each side scaled to [−1, 1], as input of a network."""
        low, high = jnp.asarray(self.low, point.dtype), jnp.asarray(self.high, point.dtype)
        return (2 * point - low - high) / (high - low)

    def index(self, name: Any) -> int:
        """The index of a coordinate in a point; raises `ValueError`, with the nearest name, if there is none."""
        if name not in self.names:
            raise ValueError(
                f"no coordinate {name!r}{did_you_mean(str(name), self.names)} The box has: {', '.join(self.names)}."
            )
        return self.names.index(name)
