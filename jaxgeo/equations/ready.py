"""Differential equations with a known solution, for networks that are trained on their residuals.

The problems and sizes are those of arXiv 2405.15603, 2505.12149 and 2604.05230, so errors can be compared with theirs.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgeo._checks import check_number, check_positive
from jaxgeo.equations.box import Box
from jaxgeo.equations.derivatives import Field, gradient, laplacian
from jaxgeo.equations.equation import Equation
from jaxgeo.equations.network import check_sizes, count_params
from jaxgeo.equations.points import POINTS_PER_PARAMETER, Points, in_box, in_box_and_faces, in_cube, on_faces, on_grid


def poisson_2d(widths: tuple[int, ...] = (64,)) -> Equation:
    """−Δu = 2π² u on the unit square, u* = sin πx sin πy, which is 0 on the edge. The points lie on a grid.

    **Arguments:**

    - `widths`: the widths of the hidden layers.
    """

    def solution(x: Array) -> Array:
        return jnp.prod(jnp.sin(jnp.pi * x))

    def residual(u: Field, x: Array) -> Array:
        return laplacian(u)(x) + 2 * jnp.pi**2 * solution(x)

    box = Box(x=(0, 1), y=(0, 1))
    return Equation(residual, solution, on_grid(4), 2, widths, (900, 120), box, edge=box.faces())


def heat_1d(widths: tuple[int, ...] = (64,)) -> Equation:
    """u_t = u_xx/4 for (t, x) in the unit square, u* = e^{−π²t/4} sin πx, given at t = 0 and on two sides. On a grid.

    **Arguments:**

    - `widths`: the widths of the hidden layers.
    """

    def solution(x: Array) -> Array:
        return jnp.exp(-(jnp.pi**2) / 4 * x[0]) * jnp.sin(jnp.pi * x[1])

    box = Box(t=(0, 1), x=(0, 1))
    edge = (box.face(t=0), *box.faces("x"))
    return Equation(_heat, solution, on_grid(3), 2, widths, (900, 120), box, edge=edge)


def helmholtz_2d(
    widths: tuple[int, ...] = (30, 30, 30, 30),
    wave_number: float = 1.0,
    modes: tuple[int, int] = (1, 4),
    *,
    periodic: bool = True,
) -> Equation:
    """Δu + k²u = q on [−1, 1]², u* = sin m₁πx sin m₂πy, which is periodic in both directions, and 0 on the edge.

    The network takes cos and sin of πx and πy, which makes u periodic: there is no boundary, and there are no points
    on it. As published in arXiv 2604.05230, with 2971 parameters. Without `periodic`, it takes x and y, and u* is given
    on the edge.

    **Arguments:**

    - `widths`: the widths of the hidden layers.
    - `wave_number`: k.
    - `modes`: m₁ and m₂.
    - `periodic`: make u periodic.
    """
    frequencies = math.pi * np.asarray(modes, float)
    factor = wave_number**2 - float(np.sum(frequencies**2))

    def solution(x: Array) -> Array:
        return jnp.prod(jnp.sin(jnp.asarray(frequencies, x.dtype) * x))

    def residual(u: Field, x: Array) -> Array:
        return laplacian(u)(x) + wave_number**2 * u(x) - factor * solution(x)

    def features(x: Array) -> Array:
        return jnp.concatenate([jnp.cos(jnp.pi * x), jnp.sin(jnp.pi * x)])

    domain = Box(x=(-1, 1), y=(-1, 1))
    if periodic:
        return Equation(residual, solution, in_box(domain), 2, widths, (3500, 0), domain, features)
    return Equation(residual, solution, in_box_and_faces(domain), 2, widths, (2000, 400), domain, edge=domain.faces())


def burgers_1d(
    widths: tuple[int, ...] = (20, 20, 20),
    viscosity: float | Float[Array, ""] = 0.01 / math.pi,
    *,
    periodic: bool = False,
) -> Equation:
    """u_t + u u_x = ν u_xx for t in [0, 1] and x in [−1, 1], u = −sin πx at t = 0, 0 at both ends.

    With a network v, u = −sin πx + t(1 − x²)v meets all conditions, so they need no points. With `periodic`, v takes t,
    cos πx and sin πx, and u = −sin πx + tv, which leaves it to the equation that u is 0 at both ends. For ν = 0.01/π, u
    falls from nearly 1 to nearly −1 within 0.01 of x = 0. The Cole–Hopf transformation gives u* as a quotient of two
    integrals, which are computed by Gauss–Hermite quadrature.

    Reference: C. Basdevant et al., Spectral and finite difference solutions of the Burgers equation, Computers and
        Fluids 14, 1986

    **Arguments:**

    - `widths`: the widths of the hidden layers. There are 3 points for each parameter, and at least 3000.
    - `viscosity`: ν.
    - `periodic`: make u periodic in x.

    **Raises:** `ValueError` unless ν is at least 0.003, below which the quadrature loses digits.
    """
    check_number("viscosity", viscosity, least=0.003)
    check_sizes("widths", widths)
    # NumPy refines eigenvalues of a tridiagonal matrix by Newton's method, which is accurate for this many nodes.
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

    def features(x: Array) -> Array:
        return jnp.stack([x[0], jnp.cos(jnp.pi * x[1]), jnp.sin(jnp.pi * x[1])])

    def output(value: Array, x: Array) -> Array:
        return x[0] * (1 if periodic else 1 - x[1] ** 2) * value - jnp.sin(jnp.pi * x[1])

    domain = Box(t=(0, 1), x=(-1, 1))
    counts = max(3000, POINTS_PER_PARAMETER * count_params((3 if periodic else 2, *widths, 1))), 0
    return Equation(
        residual, solution, in_box(domain), 2, widths, counts, domain, features if periodic else None, output
    )


def kovasznay_2d(widths: tuple[int, ...] = (20, 20, 20), reynolds: float = 20.0) -> Equation:
    """The steady flow behind a grid: u·∇u + ∇p = Δu/Re and ∇·u = 0 for x in [−1/2, 1] and y in [−1/2, 3/2].

    Three functions, both velocities and the pressure, are sought from their boundary values.

    Reference: L. Kovasznay, Laminar flow behind a two-dimensional grid, Mathematical Proceedings of the Cambridge
        Philosophical Society 44, 1948

    **Arguments:**

    - `widths`: the widths of the hidden layers.
    - `reynolds`: Re.

    **Raises:** `ValueError` unless Re is positive.
    """
    check_positive("reynolds", reynolds)
    rate = reynolds / 2 - math.sqrt(reynolds**2 / 4 + 4 * math.pi**2)

    def solution(x: Array) -> Array:
        decay, turn = jnp.exp(rate * x[0]), 2 * jnp.pi * x[1]
        across = rate / (2 * jnp.pi) * decay * jnp.sin(turn)
        return jnp.stack([1 - decay * jnp.cos(turn), across, (1 - decay**2) / 2])

    def residual(u: Callable[[Array], Array], x: Array) -> Array:
        by_x, by_y, by_xx, by_yy = box.partials(u, "x y xx yy")(x)
        along, across, _ = u(x)
        pressure = jnp.stack([by_x[2], by_y[2]])
        momentum = along * by_x[:2] + across * by_y[:2] + pressure - (by_xx + by_yy)[:2] / reynolds
        return jnp.append(momentum, by_x[0] + by_y[1])

    box = Box(x=(-0.5, 1), y=(-0.5, 1.5))
    return Equation(residual, solution, in_box_and_faces(box), 2, widths, (2000, 400), box, outputs=3)


def poisson_5d(widths: tuple[int, ...] = (64, 64, 48, 48)) -> Equation:
    """−Δu = π² u on the unit cube of 5 dimensions, u* = Σ cos πx_i. One layer of width 64 has 449 parameters.

    **Arguments:**

    - `widths`: the widths of the hidden layers.
    """

    def solution(x: Array) -> Array:
        return jnp.sum(jnp.cos(jnp.pi * x))

    def residual(u: Field, x: Array) -> Array:
        return laplacian(u)(x) + jnp.pi**2 * solution(x)

    return Equation(residual, solution, in_cube(5), 5, widths, (3000, 500))


def harmonic_10d(widths: tuple[int, ...] = (256, 256, 128, 128)) -> Equation:
    """Δu = 0 on the unit cube of 10 dimensions, u* = Σ x_{2k−1} x_{2k} / 1.34.

    **Arguments:**

    - `widths`: the widths of the hidden layers.
    """

    def solution(x: Array) -> Array:
        return jnp.sum(x[::2] * x[1::2]) / 1.34

    def residual(u: Field, x: Array) -> Array:
        return laplacian(u)(x)

    return Equation(residual, solution, in_cube(10), 10, widths, (3000, 500))


def poisson_100d(widths: tuple[int, ...] = (768, 768, 512, 512)) -> Equation:
    """−Δu = −200/33.47 on the unit cube of 100 dimensions, u* = |x|²/33.47.

    **Arguments:**

    - `widths`: the widths of the hidden layers.
    """

    def solution(x: Array) -> Array:
        return jnp.sum(x**2) / 33.47

    def residual(u: Field, x: Array) -> Array:
        return laplacian(u)(x) - 200 / 33.47

    return Equation(residual, solution, in_cube(100), 100, widths, (100, 50))


def heat_4d(widths: tuple[int, ...] = (256, 256, 128, 128)) -> Equation:
    """u_t = Δu/4 for t and x in the unit cube of 4 dimensions, u* = e^{−t} Σ sin 2x_i.

    Half of the boundary points are at the start, t = 0.

    **Arguments:**

    - `widths`: the widths of the hidden layers.
    """

    def solution(x: Array) -> Array:
        return jnp.exp(-x[0]) * jnp.sum(jnp.sin(2 * x[1:]))

    def draw(key: Array, interior: int, boundary: int) -> Points:
        keys = jax.random.split(key, 3)
        inside = jax.random.uniform(keys[0], (interior, 5))
        start = jax.random.uniform(keys[1], (boundary // 2, 5)).at[:, 0].set(0)
        return inside, jnp.concatenate([start, on_faces(keys[2], boundary - boundary // 2, 5, fixed=1)])

    return Equation(_heat, solution, draw, 5, widths, (3000, 500))


def log_fokker_planck_9d(widths: tuple[int, ...] = (256, 256, 128, 128)) -> Equation:
    """q_t = 9/2 + ∇q·x/2 + |∇q|² + Δq in 9 dimensions: the logarithm of a density that relaxes to equilibrium.

    q* is the logarithm of the normal density of variance 2 − e^{−t}, for t in [0, 1] and x in [−5, 5]⁹. The values
    at t = 0 are given.

    **Arguments:**

    - `widths`: the widths of the hidden layers.
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

    domain = Box(t=(0, 1), **{f"x{i}": (-5, 5) for i in range(1, dim + 1)})
    return Equation(residual, solution, draw, dim + 1, widths, (3000, 1000), domain)


def _heat(u: Field, x: Array) -> Array:
    """u_t − Δu/4, where t is the first coordinate."""
    by_time = jax.jvp(u, (x,), (jnp.zeros_like(x).at[0].set(1),))[1]
    return by_time - _in_space(u, x) / 4


def _in_space(u: Field, x: Array) -> Array:
    """Δu in all coordinates except the first."""
    return laplacian(lambda place: u(jnp.concatenate([x[:1], place])))(x[1:])
