"""Points in boxes and on their faces, drawn or on a grid."""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgeo.equations.box import Box

# Draws points of a place, given a key and their number.
Draw = Callable[[Array, int], Float[Array, "count d"]]
# Points of the interior, and of the boundary.
Points = tuple[Float[Array, "interior d"], Float[Array, "boundary d"]]

# By default so many points for each parameter, so that the network cannot interpolate them.
POINTS_PER_PARAMETER = 3


def choose_by_residual(key: Array, sizes: Float[Array, " m"], count: int) -> Int[Array, " count"]:
    """The indices of distinct candidates out of m, drawn with density |r|/mean |r| + 1.

    No place is left without points.

    Reference: C. Wu, M. Zhu, Q. Tan, Y. Kartha, L. Lu, A comprehensive study of non-adaptive and residual-based
        adaptive sampling for physics-informed neural networks, Computer Methods in Applied Mechanics and Engineering
        403, 2023
    """
    mean = jnp.mean(sizes)
    density = sizes / jnp.where(mean > 0, mean, 1) + 1
    # Taking the largest of these draws without replacement, in proportion to the density.
    return jax.lax.top_k(jnp.log(density) + jax.random.gumbel(key, sizes.shape, sizes.dtype), count)[1]


def in_box(box: Box) -> Callable[[Array, int, int], Points]:
    """Uniform points in a box, for an output that meets the conditions by itself."""

    def draw(key: Array, interior: int, boundary: int) -> Points:
        if boundary:
            raise ValueError(f"this equation takes no points on the boundary; pass 0 instead of {boundary}.")
        return box.uniform(key, interior), jnp.zeros((0, box.dim))

    return draw


def in_box_and_faces(box: Box) -> Callable[[Array, int, int], Points]:
    """Uniform points in a box and on its faces, the same number on each face."""

    def draw(key: Array, interior: int, boundary: int) -> Points:
        first, *keys = jax.random.split(key, 1 + len(box.faces()))
        return box.uniform(first, interior), on_boxes(keys, boundary, box.faces())

    return draw


def on_boxes(keys: Sequence[Array], count: int, boxes: Sequence[Box]) -> Float[Array, "count d"]:
    """Uniform points in several boxes, the same number in each, give or take one."""
    shares = [count // len(boxes) + (i < count % len(boxes)) for i in range(len(boxes))]
    return jnp.concatenate([box.uniform(key, share) for box, key, share in zip(boxes, keys, shares, strict=True)])


def in_cube(dim: int) -> Callable[[Array, int, int], Points]:
    """Uniform points in the unit cube and on its faces."""

    def draw(key: Array, interior: int, boundary: int) -> Points:
        keys = jax.random.split(key)
        return jax.random.uniform(keys[0], (interior, dim)), on_faces(keys[1], boundary, dim)

    return draw


def on_faces(key: Array, count: int, dim: int, fixed: int = 0) -> Float[Array, "count dim"]:
    """Uniform points on the faces of the unit cube, except those of the first `fixed` coordinates."""
    keys = jax.random.split(key, 3)
    points = jax.random.uniform(keys[0], (count, dim))
    axis = jax.random.randint(keys[1], (count,), fixed, dim)
    side = jax.random.bernoulli(keys[2], shape=(count,)).astype(points.dtype)
    return points.at[jnp.arange(count), axis].set(side)


def on_grid(sides: int) -> Callable[[Array, int, int], Points]:
    """Midpoints of the cells of the unit square, and even points on 3 or 4 of its sides; the key is not used."""

    def draw(key: Array, interior: int, boundary: int) -> Points:
        del key
        across, along = math.isqrt(interior), boundary // sides
        if across**2 != interior or along * sides != boundary:
            raise ValueError(
                f"a grid takes a square number of points inside and a multiple of {sides} on the boundary; got "
                f"{interior} and {boundary}."
            )
        ends = jnp.linspace(0, 1, across + 1)
        middles = (ends[1:] + ends[:-1]) / 2
        inside = jnp.stack(jnp.meshgrid(middles, middles), axis=-1).reshape(-1, 2)
        side, low, high = jnp.linspace(0, 1, along), jnp.zeros(along), jnp.ones(along)
        # The side with a first coordinate of 1, the end of time, comes last.
        pairs = ((low, side), (side, low), (side, high), (high, side))[:sides]
        return inside, jnp.concatenate([jnp.stack(pair, axis=-1) for pair in pairs])

    return draw
