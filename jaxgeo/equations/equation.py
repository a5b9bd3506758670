"""A differential equation with a known solution, as a problem for a network."""

import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo._checks import check_count, is_count
from jaxgeo.equations.box import Box
from jaxgeo.equations.condition import Condition
from jaxgeo.equations.derivatives import Field
from jaxgeo.equations.network import Network, check_sizes
from jaxgeo.equations.points import Points, choose_by_residual
from jaxgeo.problem import Problem, residual_problem


class Equation(eqx.Module):
    """A differential equation with its solution, points to train on, and a network to solve it.

    The cost of a network u is half the mean square of the residual inside, plus half that of u − u* on the boundary,
    if there are points there.

    - `residual`: the residual of a field at a point of the interior; 0 for the solution.
    - `solution`: u*.
    - `draw`: draws points of interior and boundary, from a key and the number of each.
    - `widths`: the widths of the hidden layers, with tanh.
    - `counts`: the default numbers of points inside and on the boundary.
    - `dim`: the number of coordinates of a point.
    - `domain`: a `Box`; by default each coordinate goes from 0 to 1.
    - `features`: turns a point into the inputs of the network; periodic features make u periodic. By default the
        inputs are the point.
    - `output`: turns the network's value and the point into u, so that u meets conditions exactly. By default u is the
        value.
    - `outputs`: how many functions are sought; u is a number for one, and a vector for more.
    - `edge`: the faces on which `conditions` draws points of the boundary; by default `draw` decides.

    ```python
    >>> import jax, jaxgeo as jg
    >>> equation = jg.equations.poisson_2d()
    >>> params = equation.init(jax.random.key(0))
    >>> problem = equation.problem(equation.points(jax.random.key(1)))
    >>> problem.num_params(params), problem.num_rows(params)
    (257, 1020)

    ```
    """

    residual: Callable[[Field, Array], Array] = eqx.field(static=True)
    solution: Field = eqx.field(static=True)
    draw: Callable[[Array, int, int], Points] = eqx.field(static=True)
    dim: int = eqx.field(static=True)
    widths: tuple[int, ...] = eqx.field(static=True)
    counts: tuple[int, int] = eqx.field(static=True)
    domain: Box | None = eqx.field(static=True, default=None)
    features: Callable[[Float[Array, " d"]], Float[Array, " f"]] | None = eqx.field(static=True, default=None)
    output: Callable[[Array, Float[Array, " d"]], Array] | None = eqx.field(static=True, default=None)
    outputs: int = eqx.field(static=True, default=1)
    edge: tuple[Box, ...] = eqx.field(static=True, default=())

    def __check_init__(self):
        check_sizes("widths", self.widths)

    def init(self, key: Array) -> PyTree:
        """Initial parameters, in JAX's default floating-point dtype."""
        dtype = jnp.result_type(float)
        point = jax.ShapeDtypeStruct((self.dim,), dtype)
        seen = self.dim if self.features is None else jax.eval_shape(self.features, point).size
        return Network((seen, *self.widths, self.outputs), dtype, key=key)

    def field(self, params: PyTree) -> Field:
        """u, as a function of a point."""

        def u(x: Float[Array, " d"]) -> Array:
            values = params(x if self.features is None else self.features(x))
            value = values[0] if self.outputs == 1 else values
            return value if self.output is None else self.output(value, x)

        return u

    @property
    def box(self) -> Box:
        """The domain, with coordinates x1, x2, … if it has no names of its own."""
        return Box(**{f"x{i}": (0, 1) for i in range(1, self.dim + 1)}) if self.domain is None else self.domain

    def conditions(self) -> list[Condition]:
        """The equation and, if there are points on the boundary, the values there, for `jaxgeo.fit`."""
        inside, edge = self.counts
        equation = Condition(self._inside, self.box, count=inside, name="equation")
        if not edge:
            return [equation]
        return [equation, Condition(self._miss, self.edge or _Boundary(self), count=edge, name="boundary")]

    def points(self, key: Array, counts: tuple[int, int] | None = None) -> Points:
        """Points of the interior and the boundary, to train on one fixed set or on a new one at every step."""
        if counts is not None and (
            not isinstance(counts, tuple)
            or len(counts) != 2
            or not is_count(counts[0])
            or not (is_count(counts[1]) or counts[1] == 0)
        ):
            raise ValueError(
                "`counts` must be two integers, the numbers of points inside and on the boundary; the first must be "
                f"positive, and the second may be 0; got {counts!r}."
            )
        return self.draw(key, *(self.counts if counts is None else counts))

    def points_by_residual(
        self, params: PyTree, key: Array, counts: tuple[int, int] | None = None, candidates: int = 10
    ) -> Points:
        """Points as from `points`, with more of the interior points where the residual of the network is large.

        They are chosen among `candidates` times as many, with |r|/mean |r| + 1 times the usual density, so no place is
        left without points.

        Reference: C. Wu, M. Zhu, Q. Tan, Y. Kartha, L. Lu, A comprehensive study of non-adaptive and residual-based
            adaptive sampling for physics-informed neural networks, Computer Methods in Applied Mechanics and
            Engineering 403, 2023
        """
        check_count("candidates", candidates)
        inside, edge = self.counts if counts is None else counts
        drawing, choosing = jax.random.split(key)
        wide, boundary = self.points(drawing, (candidates * inside, edge))
        residuals = jax.vmap(functools.partial(self._inside, params))(wide)
        sizes = jnp.linalg.norm(residuals.reshape(len(wide), -1), axis=1)
        chosen = choose_by_residual(choosing, sizes, inside)
        return wide[chosen], boundary

    def problem(self, points: Points) -> Problem:
        """The problem of least squares at these points."""
        inside, edge = points
        blocks = [(self._inside, inside, 1.0), (self._miss, edge, 1.0)]
        return residual_problem(blocks if len(edge) else blocks[:1])

    def elsewhere(self, key: Array, count: int) -> Float[Array, "count d"]:
        """Uniform points of the domain, to measure the error away from the training points."""
        return self.box.uniform(key, count)

    def error(self, params: PyTree, points: Float[Array, "m d"]) -> Float[Array, ""]:
        """|u − u*|/|u*| at the points, the relative L2 error."""
        miss = jax.vmap(functools.partial(self._miss, params))(points)
        return jnp.linalg.norm(miss.ravel()) / jnp.linalg.norm(jax.vmap(self.solution)(points).ravel())

    def _inside(self, params: PyTree, x: Float[Array, " d"]) -> Array:
        return self.residual(self.field(params), x)

    def _miss(self, params: PyTree, x: Float[Array, " d"]) -> Array:
        return self.field(params)(x) - self.solution(x)


class _Boundary(eqx.Module):
    """Draws points on the boundary of an equation."""

    equation: Equation

    def __call__(self, key: Array, count: int) -> Float[Array, "count d"]:
        return self.equation.points(key, (1, count))[1]
