"""Turn conditions into problems: choose their points, count them, and check their residuals."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxgeo.equations.condition import Condition
from jaxgeo.equations.points import POINTS_PER_PARAMETER, choose_by_residual
from jaxgeo.outputs import Params
from jaxgeo.problem import Problem, residual_problem

# Bounds of the default number of points.
FEWEST, MOST = 500, 6000
# A face gets a fifth of that number, and an update of the warm-up uses a sixth of the drawn points.
FACES, BATCH = 5, 6
# With at least `ENOUGH` measurements, one in `SHARE` is held out.
ENOUGH, SHARE = 20, 10
# Candidates for each point; those with a large residual are chosen.
CANDIDATES = 10

Samples = tuple[PyTree, ...]


class Collocation(eqx.Module):
    """Conditions on a model, and the points that are not drawn.

    - `static`: the part of the model that is not trained.
    - `given`: the given points of each condition, with values if it has them; None if its points are drawn.
    - `counts`: the number of points of each condition. `dtype`: dtype of the points, that of the parameters.
    """

    conditions: tuple[Condition, ...]
    static: PyTree
    given: tuple[PyTree, ...]
    counts: tuple[int, ...] = eqx.field(static=True)
    dtype: jnp.dtype = eqx.field(static=True)

    def problem(self, samples: Samples) -> Problem:
        """Least squares at these points."""
        kinds = zip(self.conditions, samples, strict=True)
        return residual_problem([(_Residual(self.static, each), points, each.weight) for each, points in kinds])

    def draw(self, key: Array, counts: Sequence[int] | None = None) -> Samples:
        """Points of all conditions, drawn uniformly; given points stay as they are."""
        keys = jax.random.split(key, len(self.conditions))
        wanted = self.counts if counts is None else counts
        return tuple(
            each.draw(k, count).astype(self.dtype) if given is None else given
            for each, k, count, given in zip(self.conditions, keys, wanted, self.given, strict=True)
        )

    def draw_by_residual(self, params: Params, key: Array) -> Samples:
        """Points as from `draw`, but drawn mostly where the residual of the model is large."""
        drawing, choosing = jax.random.split(key)
        wide = self.draw(drawing, [CANDIDATES * count for count in self.counts])
        keys = jax.random.split(choosing, len(self.conditions))

        def choose(each: Condition, points: PyTree, k: Array, count: int) -> PyTree:
            if not each.is_drawn:
                return points
            residuals = jax.vmap(_Residual(self.static, each), (None, 0))(params, points)
            sizes = jnp.linalg.norm(residuals.reshape(len(points), -1), axis=1)
            # Otherwise a candidate with an undefined residual would displace all others.
            return points[choose_by_residual(k, jnp.where(jnp.isfinite(sizes), sizes, 0), count)]

        return tuple(map(choose, self.conditions, wide, keys, self.counts))

    def draw_some(self, key: Array) -> Samples:
        """A smaller fresh sample for one update of a first-order method; given points are sampled at random."""
        keys = jax.random.split(key, len(self.conditions) + 1)
        counts = [max(min(count, 50), count // BATCH) for count in self.counts]
        fresh = self.draw(keys[-1], counts)

        def some(points: PyTree, k: Array, count: int, each: Condition) -> PyTree:
            if each.is_drawn:
                return points
            size = len(jax.tree.leaves(points)[0])
            index = jax.random.randint(k, (min(count, size),), 0, size)
            return jax.tree.map(lambda leaf: leaf[index], points)

        return tuple(map(some, fresh, keys[:-1], counts, self.conditions))


class _Residual(eqx.Module):
    """The residual of a condition as a function of the trained parameters and a sample."""

    static: PyTree
    condition: Condition

    def __call__(self, params: Params, sample: PyTree) -> Array:
        return self.condition.residual_at(eqx.combine(params, self.static), sample)


def collocate(
    conditions: Sequence[Condition], params: Params, static: PyTree, seed: int
) -> tuple[Collocation, Collocation]:
    """Split conditions into training and held-out points; a tenth of any measured data is held out.

    The held-out points are drawn from the same domains. This includes fixed points if their domain is known, so that
    the residual between the fixed points is seen.
    """
    leaves = jax.tree.leaves(params)
    size, dtype = sum(leaf.size for leaf in leaves), jnp.result_type(*leaves)
    usual = min(max(POINTS_PER_PARAMETER * size, FEWEST), MOST)
    counts, trained, held = [], [], []
    for index, each in enumerate(conditions):
        if each.points is None:
            share = usual // FACES if each.is_face else usual
            counts.append(share if each.count is None else each.count)
            trained.append(None)
            held.append(None)
            continue
        points = each.points.astype(dtype)
        samples = points if each.data is None else (points, each.data.astype(dtype))
        drawable = each.data is None and (each.places or each.draw_points is not None)
        if not drawable and len(points) >= ENOUGH:
            order = np.random.default_rng([seed, index]).permutation(len(points))
            out, rest = np.sort(order[: len(points) // SHARE]), np.sort(order[len(points) // SHARE :])
            trained.append(jax.tree.map(lambda leaf, rest=rest: leaf[rest], samples))
            held.append(jax.tree.map(lambda leaf, out=out: leaf[out], samples))
        else:
            trained.append(samples)
            held.append(None if drawable else samples)
        counts.append(len(jax.tree.leaves(trained[-1])[0]))
    each = tuple(conditions)
    numbers = [count if out is None else len(jax.tree.leaves(out)[0]) for count, out in zip(counts, held, strict=True)]
    return (
        Collocation(each, static, tuple(trained), tuple(counts), dtype),
        Collocation(each, static, tuple(held), tuple(numbers), dtype),
    )


def check_residuals(collocation: Collocation, params: Params, samples: Samples) -> None:
    """Raise `ValueError` if a residual is not finite somewhere, or does not depend on the parameters."""
    for each, points in zip(collocation.conditions, samples, strict=True):
        values, slopes = _along_random(_Residual(collocation.static, each), params, points)
        if complaint := complain(each, points, values, "the residual"):
            raise ValueError(f"{complaint} before training. {_REMEDY}")
        if complaint := complain(each, points, slopes, "the derivative by the parameters of the residual"):
            raise ValueError(f"{complaint} before training. {_REMEDY}")
        if not np.any(np.asarray(slopes)):
            raise ValueError(
                f"the residual {each.name!r} does not depend on the parameters of the model at any of its "
                f"{len(slopes)} points; write it as a function of the model that it is passed, `{each.name}(model, "
                "point)`, and not of another model."
            )


_REMEDY = "Keep its points away from where it is undefined, or rewrite it so that it is defined there."


def complain(each: Condition, samples: PyTree, values: Array, what: str) -> str:
    """If a condition is not finite: its name, its number of bad points and the first of them; else empty."""
    table = np.asarray(values).reshape(len(values), -1)
    bad = ~np.isfinite(table).all(axis=1)
    if not bad.any():
        return ""
    first = int(np.argmax(bad))
    point = samples[0] if each.data is not None else samples
    return (
        f"{what} {each.name!r} is not finite at {int(bad.sum())} of {len(bad)} points, the first of them "
        f"{each.describe(point[first])}"
    )


def find_fault(collocation: Collocation, params: Params, samples: Samples) -> str:
    """Which residual is not finite, and where, in words; empty if all are finite."""
    for each, points in zip(collocation.conditions, samples, strict=True):
        values, _ = _along_random(_Residual(collocation.static, each), params, points)
        if complaint := complain(each, points, values, "the residual"):
            return complaint
    return ""


@eqx.filter_jit
def _along_random(
    residual: _Residual, params: Params, samples: PyTree
) -> tuple[Float[Array, "m ..."], Float[Array, "m ..."]]:
    """The residuals at all points, and their derivatives in one random direction."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    drawn = [jax.random.normal(key, leaf.shape, leaf.dtype) for key, leaf in zip(keys, leaves, strict=True)]

    def values(params: Params) -> Array:
        return jax.vmap(residual, (None, 0))(params, samples)

    return jax.jvp(values, (params,), (jax.tree.unflatten(structure, drawn),))
