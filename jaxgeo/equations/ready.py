"""Differential equations with a known solution, for networks that are trained on their residuals.

The problems and sizes of arXiv 2405.15603 and 2505.12149, so that errors can be set beside the published ones.
"""

import functools
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxgeo._checks import check_count, check_number, is_count
from jaxgeo.equations.derivatives import Field, gradient, laplacian
from jaxgeo.equations.network import Network, check_sizes
from jaxgeo.problem import Problem, residual_problem

Points = tuple[Float[Array, "interior d"], Float[Array, "boundary d"]]


class Equation(eqx.Module):
    """A differential equation, its solution, where to ask for it, and a network to solve it with.

    The cost of a network u is half the mean square of the residual inside, plus half that of u − u* on the boundary,
    if there are points there.

    - `residual`: of a field at a point of the interior; 0 for the solution.
    - `solution`: u*.
    - `draw`: points of interior and boundary, from a key and the number of each.
    - `widths`: of the hidden layers, with tanh.
    - `counts`: by default how many points inside and on the boundary.
    - `dim`: of a point.
    - `domain`: from where to where each coordinate goes; by default from 0 to 1.
    - `features`: what the network sees of a point; periodic ones make u periodic. By default the point.
    - `output`: u from the network's value and the point, so that it meets conditions exactly. By default the value.

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
    domain: tuple[tuple[float, float], ...] | None = eqx.field(static=True, default=None)
    features: Callable[[Float[Array, " d"]], Float[Array, " f"]] | None = eqx.field(static=True, default=None)
    output: Callable[[Float[Array, ""], Float[Array, " d"]], Float[Array, ""]] | None = eqx.field(
        static=True, default=None
    )

    def __check_init__(self):
        check_sizes("widths", self.widths)

    def init(self, key: Array) -> PyTree:
        """Initial parameters, in JAX's default floating-point type."""
        dtype = jnp.result_type(float)
        point = jax.ShapeDtypeStruct((self.dim,), dtype)
        seen = self.dim if self.features is None else jax.eval_shape(self.features, point).size
        return Network((seen, *self.widths, 1), dtype, key=key)

    def field(self, params: PyTree) -> Field:
        """u of a point."""

        def u(x: Float[Array, " d"]) -> Float[Array, ""]:
            value = params(x if self.features is None else self.features(x))[0]
            return value if self.output is None else self.output(value, x)

        return u

    def points(self, key: Array, counts: tuple[int, int] | None = None) -> Points:
        """Points of the interior and the boundary: for a fixed set, or a fresh one at every step."""
        if counts is not None and (
            not isinstance(counts, tuple)
            or len(counts) != 2
            or not is_count(counts[0])
            or not (is_count(counts[1]) or counts[1] == 0)
        ):
            raise ValueError(
                "`counts` must be two integers, points inside and on the boundary, positive or, where there is no "
                f"boundary, 0; got {counts!r}."
            )
        return self.draw(key, *(self.counts if counts is None else counts))

    def points_by_residual(
        self, params: PyTree, key: Array, counts: tuple[int, int] | None = None, candidates: int = 10
    ) -> Points:
        """Points as `points`, those of the interior where the residual of the network is large, and elsewhere too.

        Of `candidates` times as many the density is |r|/mean |r| + 1 times the usual one, by which no place is left
        without points.

        Reference: C. Wu, M. Zhu, Q. Tan, Y. Kartha, L. Lu, A comprehensive study of non-adaptive and residual-based
            adaptive sampling for physics-informed neural networks, Computer Methods in Applied Mechanics and
            Engineering 403, 2023
        """
        check_count("candidates", candidates)
        inside, edge = self.counts if counts is None else counts
        drawing, choosing = jax.random.split(key)
        wide, boundary = self.points(drawing, (candidates * inside, edge))
        sizes = jnp.abs(jax.vmap(functools.partial(self._inside, params))(wide))
        mean = jnp.mean(sizes)
        density = sizes / jnp.where(mean > 0, mean, 1) + 1
        # The largest of these are a draw without replacement in proportion to the density.
        _, chosen = jax.lax.top_k(jnp.log(density) + jax.random.gumbel(choosing, sizes.shape, sizes.dtype), inside)
        return wide[chosen], boundary

    def problem(self, points: Points) -> Problem:
        """Least squares at these points."""
        inside, edge = points
        blocks = [(self._inside, inside, 1.0), (self._miss, edge, 1.0)]
        return residual_problem(blocks if len(edge) else blocks[:1])

    def elsewhere(self, key: Array, count: int) -> Float[Array, "count d"]:
        """Uniform points of the domain, at which to measure the error of what was trained on others."""
        return _uniform(key, count, ((0.0, 1.0),) * self.dim if self.domain is None else self.domain)

    def error(self, params: PyTree, points: Float[Array, "m d"]) -> Float[Array, ""]:
        """|u − u*|/|u*| at the points, the relative L2 error."""
        miss = jax.vmap(functools.partial(self._miss, params))(points)
        return jnp.linalg.norm(miss) / jnp.linalg.norm(jax.vmap(self.solution)(points))

    def _inside(self, params: PyTree, x: Float[Array, " d"]) -> Float[Array, ""]:
        return self.residual(self.field(params), x)

    def _miss(self, params: PyTree, x: Float[Array, " d"]) -> Float[Array, ""]:
        return self.field(params)(x) - self.solution(x)


def poisson_2d(widths: tuple[int, ...] = (64,)) -> Equation:
    """−Δu = 2π² u on the unit square, u* = sin πx sin πy, which is 0 on the edge. The points lie on a grid.

    **Arguments:**

    - `widths`: of the hidden layers.
    """

    def solution(x: Array) -> Array:
        return jnp.prod(jnp.sin(jnp.pi * x))

    def residual(u: Field, x: Array) -> Array:
        return laplacian(u)(x) + 2 * jnp.pi**2 * solution(x)

    return Equation(residual, solution, _grid(4), 2, widths, (900, 120))


def heat_1d(widths: tuple[int, ...] = (64,)) -> Equation:
    """u_t = u_xx/4 for (t, x) in the unit square, u* = e^{−π²t/4} sin πx, from the start and two sides. On a grid.

    **Arguments:**

    - `widths`: of the hidden layers.
    """

    def solution(x: Array) -> Array:
        return jnp.exp(-(jnp.pi**2) / 4 * x[0]) * jnp.sin(jnp.pi * x[1])

    return Equation(_heat, solution, _grid(3), 2, widths, (900, 120))


def helmholtz_2d(
    widths: tuple[int, ...] = (30, 30, 30, 30), wave_number: float = 1.0, modes: tuple[int, int] = (1, 4)
) -> Equation:
    """Δu + k²u = q on [−1, 1]², u* = sin m₁πx sin m₂πy, periodic in both directions by what the network sees.

    The network takes cos and sin of πx and πy, so there is no boundary and its points are none. As published in
    arXiv 2604.05230, with 2971 parameters.

    **Arguments:**

    - `widths`: of the hidden layers.
    - `wave_number`: k.
    - `modes`: m₁ and m₂.
    """
    frequencies = math.pi * np.asarray(modes, float)
    factor = wave_number**2 - float(np.sum(frequencies**2))

    def solution(x: Array) -> Array:
        return jnp.prod(jnp.sin(jnp.asarray(frequencies, x.dtype) * x))

    def residual(u: Field, x: Array) -> Array:
        return laplacian(u)(x) + wave_number**2 * u(x) - factor * solution(x)

    def features(x: Array) -> Array:
        return jnp.concatenate([jnp.cos(jnp.pi * x), jnp.sin(jnp.pi * x)])

    domain = ((-1.0, 1.0),) * 2
    return Equation(residual, solution, _inside(domain), 2, widths, (3500, 0), domain, features)


def burgers_1d(widths: tuple[int, ...] = (20, 20, 20), viscosity: float = 0.01 / math.pi) -> Equation:
    """u_t + u u_x = ν u_xx for t in [0, 1] and x in [−1, 1], u = −sin πx at t = 0, 0 at both ends.

    A network v makes u = −sin πx + t(1 − x²)v, which meets all conditions, so there are no points for them. At
    ν = 0.01/π u falls from nearly 1 to nearly −1 within 0.01 of x = 0. u* is by the transformation of Cole and Hopf, a
    quotient of two integrals by Gauss–Hermite quadrature.

    Reference: C. Basdevant et al., Spectral and finite difference solutions of the Burgers equation, Computers and
        Fluids 14, 1986

    **Arguments:**

    - `widths`: of the hidden layers.
    - `viscosity`: ν.

    **Raises:** `ValueError` unless ν is at least 0.003, below which the quadrature loses digits.
    """
    check_number("viscosity", viscosity, least=0.003)
    # By Newton's method from the eigenvalues of a tridiagonal matrix: good for this many.
    nodes, weights = np.polynomial.hermite.hermgauss(240)

    def solution(x: Array) -> Array:
        t, place = x
        shifted = place - 2 * jnp.sqrt(viscosity * t) * jnp.asarray(nodes, x.dtype)
        exponents = jnp.asarray(np.log(weights), x.dtype) - jnp.cos(jnp.pi * shifted) / (2 * jnp.pi * viscosity)
        share = jax.nn.softmax(exponents)
        return -jnp.sum(share * jnp.sin(jnp.pi * shifted))

    def residual(u: Field, x: Array) -> Array:
        by_time, slope = gradient(u)(x)
        return by_time + u(x) * slope - viscosity * _in_space(u, x)

    def output(value: Array, x: Array) -> Array:
        return x[0] * (1 - x[1] ** 2) * value - jnp.sin(jnp.pi * x[1])

    domain = ((0.0, 1.0), (-1.0, 1.0))
    return Equation(residual, solution, _inside(domain), 2, widths, (3000, 0), domain, output=output)


def poisson_5d(widths: tuple[int, ...] = (64, 64, 48, 48)) -> Equation:
    """−Δu = π² u on the unit cube of 5 dimensions, u* = Σ cos πx_i. One layer of 64 makes 449 parameters.

    **Arguments:**

    - `widths`: of the hidden layers.
    """

    def solution(x: Array) -> Array:
        return jnp.sum(jnp.cos(jnp.pi * x))

    def residual(u: Field, x: Array) -> Array:
        return laplacian(u)(x) + jnp.pi**2 * solution(x)

    return Equation(residual, solution, _cube(5), 5, widths, (3000, 500))


def harmonic_10d(widths: tuple[int, ...] = (256, 256, 128, 128)) -> Equation:
    """Δu = 0 on the unit cube of 10 dimensions, u* = Σ x_{2k−1} x_{2k} / 1.34.

    **Arguments:**

    - `widths`: of the hidden layers.
    """

    def solution(x: Array) -> Array:
        return jnp.sum(x[::2] * x[1::2]) / 1.34

    def residual(u: Field, x: Array) -> Array:
        return laplacian(u)(x)

    return Equation(residual, solution, _cube(10), 10, widths, (3000, 500))


def poisson_100d(widths: tuple[int, ...] = (768, 768, 512, 512)) -> Equation:
    """−Δu = −200/33.47 on the unit cube of 100 dimensions, u* = |x|²/33.47.

    **Arguments:**

    - `widths`: of the hidden layers.
    """

    def solution(x: Array) -> Array:
        return jnp.sum(x**2) / 33.47

    def residual(u: Field, x: Array) -> Array:
        return laplacian(u)(x) - 200 / 33.47

    return Equation(residual, solution, _cube(100), 100, widths, (100, 50))


def heat_4d(widths: tuple[int, ...] = (256, 256, 128, 128)) -> Equation:
    """u_t = Δu/4 for t and x in the unit cube of 4 dimensions, u* = e^{−t} Σ sin 2x_i.

    Half of the boundary's points are at the start, t = 0.

    **Arguments:**

    - `widths`: of the hidden layers.
    """

    def solution(x: Array) -> Array:
        return jnp.exp(-x[0]) * jnp.sum(jnp.sin(2 * x[1:]))

    def draw(key: Array, interior: int, boundary: int) -> Points:
        keys = jax.random.split(key, 3)
        inside = jax.random.uniform(keys[0], (interior, 5))
        start = jax.random.uniform(keys[1], (boundary // 2, 5)).at[:, 0].set(0)
        return inside, jnp.concatenate([start, _faces(keys[2], boundary - boundary // 2, 5, fixed=1)])

    return Equation(_heat, solution, draw, 5, widths, (3000, 500))


def log_fokker_planck_9d(widths: tuple[int, ...] = (256, 256, 128, 128)) -> Equation:
    """q_t = 9/2 + ∇q·x/2 + |∇q|² + Δq in 9 dimensions: the logarithm of a density on its way to rest.

    q* is the logarithm of the normal density of variance 2 − e^{−t}, on t in [0, 1] and x in [−5, 5]⁹; given is q
    at t = 0.

    **Arguments:**

    - `widths`: of the hidden layers.
    """
    dim = 9

    def solution(x: Array) -> Array:
        variance = 2 - jnp.exp(-x[0])
        return -0.5 * (dim * jnp.log(2 * jnp.pi * variance) + jnp.sum(x[1:] ** 2) / variance)

    def residual(u: Field, x: Array) -> Array:
        slope, spread = gradient(u)(x), _in_space(u, x)
        return slope[0] - dim / 2 - 0.5 * slope[1:] @ x[1:] - slope[1:] @ slope[1:] - spread

    def draw(key: Array, interior: int, boundary: int) -> Points:
        points = jax.random.uniform(key, (interior + boundary, dim + 1))
        points = points.at[:, 1:].set(10 * points[:, 1:] - 5)
        return points[:interior], points[interior:].at[:, 0].set(0)

    domain = ((0.0, 1.0), *((-5.0, 5.0),) * dim)
    return Equation(residual, solution, draw, dim + 1, widths, (3000, 1000), domain)


def _heat(u: Field, x: Array) -> Array:
    """u_t − Δu/4, t the first coordinate."""
    by_time = jax.jvp(u, (x,), (jnp.zeros_like(x).at[0].set(1),))[1]
    return by_time - _in_space(u, x) / 4


def _in_space(u: Field, x: Array) -> Array:
    """Δu in all coordinates but the first."""
    return laplacian(lambda place: u(jnp.concatenate([x[:1], place])))(x[1:])


def _uniform(key: Array, count: int, domain: tuple[tuple[float, float], ...]) -> Float[Array, "count d"]:
    low, high = jnp.asarray(domain).T
    return low[None] + (high - low)[None] * jax.random.uniform(key, (count, len(domain)))


def _inside(domain: tuple[tuple[float, float], ...]) -> Callable[[Array, int, int], Points]:
    """Uniform in a box, where conditions are met by the output."""

    def draw(key: Array, interior: int, boundary: int) -> Points:
        if boundary:
            raise ValueError(f"this equation has no boundary to put points on; got {boundary} where 0 are needed.")
        return _uniform(key, interior, domain), jnp.zeros((0, len(domain)))

    return draw


def _cube(dim: int) -> Callable[[Array, int, int], Points]:
    """Uniform in the unit cube and on its faces."""

    def draw(key: Array, interior: int, boundary: int) -> Points:
        keys = jax.random.split(key)
        return jax.random.uniform(keys[0], (interior, dim)), _faces(keys[1], boundary, dim)

    return draw


def _faces(key: Array, count: int, dim: int, fixed: int = 0) -> Float[Array, "count dim"]:
    """Uniform on the faces of the unit cube, except those of the first `fixed` coordinates."""
    keys = jax.random.split(key, 3)
    points = jax.random.uniform(keys[0], (count, dim))
    axis = jax.random.randint(keys[1], (count,), fixed, dim)
    side = jax.random.bernoulli(keys[2], shape=(count,)).astype(points.dtype)
    return points.at[jnp.arange(count), axis].set(side)


def _grid(sides: int) -> Callable[[Array, int, int], Points]:
    """Midpoints of the cells of the unit square, and evenly along 3 or 4 of its sides; the key is not used."""

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
