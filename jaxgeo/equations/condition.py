"""Conditions for a network to meet: an equation, boundary values or measured data, and where they hold."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import equinox as eqx
import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from jaxgeo._checks import as_real, check_count, check_function, check_positive, is_concrete
from jaxgeo.equations.box import Box
from jaxgeo.equations.points import Draw, on_boxes

Where = Box | Sequence[Box] | Draw


class Condition(eqx.Module):
    """A residual that should be 0 at points of a place. `jaxgeo.fit` takes such conditions.

    The cost of a condition is `weight` times half the mean square of the residual over its points.

    **Arguments:**

    - `residual`: a function of the model and one point that returns one or more numbers.
    - `where`: a `Box`, several boxes, such as the faces of one, or a function `(key, count)` that draws points, of
        shape (count, d), from any other region. It may be None if `points` are given.
    - `points`: points to use instead of drawn ones, of shape (m, d): places of measurements, or a grid.
    - `values`: what the residual should be instead of 0: one number; a function of the point; or measured data, an
        array with one entry for each of `points`.
    - `count`: how many points to draw; by default it depends on the number of parameters.
    - `weight`: the weight of the condition in the cost. Give noisy data less weight than the equation, such as 0.01:
        otherwise the network fits the noise and violates the equation.
    - `name`: by default the name of the function.

    **Raises:** `ValueError` if there is neither a place nor points, if points are not finite or lie outside the boxes,
    or if there are not as many values as points.

    ```python
    >>> import jax.numpy as jnp
    >>> from jaxgeo.equations import Box, Condition
    >>> box = Box(t=(0, 1), x=(-1, 1))
    >>> def u(slope, point):
    ...     return slope * point[1]
    >>> start = Condition(u, box.face(t=0), values=lambda point: 2 * point[1])
    >>> float(start.residual_at(jnp.array(3.0), jnp.array([0.0, 0.5])))
    0.5

    ```
    """

    residual: Callable[[PyTree, Array], Array]
    places: tuple[Box, ...]
    draw_points: Draw | None
    points: Float[Array, "m d"] | None
    data: Array | None
    target: Callable[[Array], Array] | float
    count: int | None = eqx.field(static=True)
    weight: float = eqx.field(static=True)
    name: str = eqx.field(static=True)

    def __init__(
        self,
        residual: Callable[[PyTree, Array], Array],
        where: Where | None = None,
        *,
        points: ArrayLike | None = None,
        values: ArrayLike | Callable[[Array], Array] = 0.0,
        count: int | None = None,
        weight: float = 1.0,
        name: str | None = None,
    ):
        check_function("residual", residual)
        check_positive("weight", weight)
        if count is not None:
            check_count("count", count)
            if points is not None:
                raise ValueError("`count` is the number of points to draw; leave it out if you pass `points`.")
        self.residual = residual
        self.name = getattr(residual, "__name__", type(residual).__name__) if name is None else name
        self.places, self.draw_points = _read_place(where, points is not None)
        self.points = None if points is None else self._read_points(points)
        self.count, self.weight = count, float(weight)
        self.data, self.target = None, 0.0
        if callable(values):
            self.target = values
        elif np.ndim(values) == 0:
            self.target = float(as_real("values", values))
        else:
            self.data = as_real("values", values)
            if self.points is None or len(self.data) != len(self.points):
                given = "there are no `points`" if self.points is None else f"{len(self.points)} `points`"
                raise ValueError(
                    f"`values` with a leading axis are data, one entry for each of `points`; got {len(self.data)} "
                    f"values where {given}. Pass a function of the point if points are drawn."
                )

    @property
    def is_drawn(self) -> bool:
        """Whether its points are drawn, so that new ones can be drawn."""
        return self.points is None

    @property
    def is_face(self) -> bool:
        """Whether its points lie on faces only."""
        return bool(self.places) and all(place.is_face for place in self.places)

    def residual_at(self, model: PyTree, sample: PyTree) -> Array:
        """The residual minus its value at one point; for data, a sample is a point and a value."""
        if self.data is not None:
            point, value = sample
        else:
            point, value = sample, self.target(sample) if callable(self.target) else self.target
        try:
            return self.residual(model, point) - value
        except (IndexError, TypeError, ValueError) as error:
            error.add_note(
                f"The residual {self.name} was called with one point, of shape {np.shape(point)}. Write it for "
                "a single point: jaxgeo maps it over all points."
            )
            raise

    def draw(self, key: Array, count: int) -> Float[Array, "count d"]:
        """Points of the place; several boxes get the same number each.

        **Raises:** `ValueError` if there is no place, or if a function draws anything but `count` points.
        """
        if self.draw_points is not None:
            points = self.draw_points(key, count)
            if not isinstance(points, jax.Array) or points.ndim != 2 or len(points) != count:
                raise ValueError(f"`where` of {self.name} must draw points of shape ({count}, d); got {points!r}.")
            return points
        if not self.places:
            raise ValueError(f"{self.name} has fixed points, but no place to draw others from.")
        return on_boxes(list(jax.random.split(key, len(self.places))), count, self.places)

    def describe(self, point: Array) -> str:
        """A point with the names of its coordinates: "(t, x) = (0, 0.3)"."""
        numbers = ", ".join(f"{float(each):.6g}" for each in np.asarray(point).ravel())
        return f"({', '.join(self.places[0].names)}) = ({numbers})" if self.places else f"({numbers})"

    def _read_points(self, points: ArrayLike) -> Float[Array, "m d"]:
        found = as_real("points", points)
        if found.ndim != 2 or not found.size:
            raise ValueError(f"`points` of {self.name} must have shape (m, d); got {found.shape}.")
        if not self.places:
            return found
        if found.shape[1] != self.places[0].dim:
            raise ValueError(
                f"`points` of {self.name} must have {self.places[0].dim} coordinates, "
                f"{', '.join(self.places[0].names)}; got {found.shape[1]}."
            )
        if is_concrete(found):
            outside = np.all([place.outside(np.asarray(found)) for place in self.places], axis=0)
            if outside.any():
                first = int(np.argmax(outside))
                raise ValueError(
                    f"{int(outside.sum())} of the {len(found)} `points` of {self.name} lie outside "
                    f"{' and '.join(map(repr, self.places))}, the first at index {first}: "
                    f"{self.describe(found[first])}."
                )
        return found


def _read_place(where: Any, has_points: bool) -> tuple[tuple[Box, ...], Draw | None]:
    """The boxes, or the function that draws points."""
    if isinstance(where, Box):
        return (where,), None
    if isinstance(where, Sequence) and where and all(isinstance(each, Box) for each in where):
        if len({each.names for each in where}) > 1:
            raise ValueError(f"the boxes of `where` must have the same coordinates; got {where!r}.")
        return tuple(where), None
    if callable(where):
        return (), cast(Draw, where)
    if where is None and has_points:
        return (), None
    raise ValueError(
        "`where` must be a `jaxgeo.equations.Box`, several of them, or a function `(key, count)` that draws points; "
        f"got {where!r}."
    )
