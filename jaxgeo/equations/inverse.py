"""Inverse problems: find a coefficient of an equation from values of its solution."""

import functools
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxgeo._checks import check_count, check_number, check_positive
from jaxgeo.equations.box import Box
from jaxgeo.equations.condition import Condition
from jaxgeo.equations.derivatives import Field, partials
from jaxgeo.equations.equation import Equation
from jaxgeo.equations.points import in_box
from jaxgeo.equations.ready import burgers_1d


class Inverse(eqx.Module):
    """Find a positive coefficient from measurements of the solution, which may be noisy.

    The logarithm of the coefficient is trained together with the parameters of the network.

    - `make`: returns the equation for a coefficient, with its solution.
    - `coefficient`: the true one, which the measurements come from. `start`: the first guess.
    - `count`: the number of measurements, at uniform points. `noise`: their standard deviation.
    - `widths`: the widths of the hidden layers.

    ```python
    >>> import jax, jaxgeo as jg
    >>> sought = jg.equations.heat_inverse((6,), noise=0.01)
    >>> params = sought.init(jax.random.key(0))
    >>> round(float(sought.estimate(params)), 6), [each.name for each in sought.conditions(jax.random.key(1))]
    (0.5, ['equation', 'measurements'])

    ```
    """

    make: Callable[[float | Float[Array, ""]], Equation] = eqx.field(static=True)
    coefficient: float = eqx.field(static=True)
    start: float = eqx.field(static=True)
    count: int = eqx.field(static=True)
    noise: float = eqx.field(static=True)

    def __check_init__(self):
        check_positive("coefficient", self.coefficient)
        check_positive("start", self.start)
        check_count("count", self.count)
        check_number("noise", self.noise, least=0)

    @property
    def equation(self) -> Equation:
        """The equation with the true coefficient."""
        return self.make(self.coefficient)

    def init(self, key: Array) -> dict[str, PyTree]:
        """Initial parameters: a network, and the logarithm of the first guess."""
        return {"network": self.equation.init(key), "log_coefficient": jnp.log(jnp.asarray(self.start, float))}

    def estimate(self, params: PyTree) -> Float[Array, ""]:
        """The coefficient that was found."""
        return jnp.exp(params["log_coefficient"])

    def measurements(self, key: Array) -> tuple[Float[Array, "count d"], Float[Array, " count"]]:
        """Random points, and values measured there."""
        places, error = jax.random.split(key)
        points = self.equation.elsewhere(places, self.count)
        exact = jax.vmap(self.equation.solution)(points)
        return points, exact + self.noise * jax.random.normal(error, exact.shape, exact.dtype)

    def conditions(self, key: Array) -> list[Condition]:
        """The equation and random measurements, for `jaxgeo.fit`.

        If the measurements are noisy, the equation has a hundred times their weight, so that the network cannot violate
        it to fit the noise.
        """
        points, values = self.measurements(key)
        weight = 1.0 if self.noise == 0 else 0.01
        box = self.equation.box
        return [
            Condition(self._inside, box, name="equation"),
            Condition(self._value, box, points=points, values=values, weight=weight, name="measurements"),
        ]

    def standard_error(self, points: Float[Array, "m d"]) -> Float[Array, ""]:
        """σ/√Σ(∂u*/∂c)², that of the coefficient from noisy values at these points if the equation holds exactly."""

        def value(coefficient: Array, point: Array) -> Array:
            return self.make(coefficient).solution(point)

        slopes = jax.vmap(jax.jacfwd(value), (None, 0))(jnp.asarray(self.coefficient, points.dtype), points)
        return self.noise / jnp.linalg.norm(slopes)

    def error(self, params: PyTree, points: Float[Array, "m d"]) -> Float[Array, ""]:
        """|u − u*|/|u*| at the points, the relative L2 error."""
        return self.equation.error(params["network"], points)

    def _inside(self, params: PyTree, x: Float[Array, " d"]) -> Array:
        equation = self.make(self.estimate(params))
        return equation.residual(equation.field(params["network"]), x)

    def _value(self, params: PyTree, x: Float[Array, " d"]) -> Array:
        return self.equation.field(params["network"])(x)


def heat_inverse(
    widths: tuple[int, ...] = (20, 20),
    diffusivity: float = 0.1,
    start: float = 0.5,
    count: int = 200,
    noise: float = 0.0,
) -> Inverse:
    """Find κ in u_t = κ u_xx on the unit square from values of u inside.

    u starts as sin πx and is 0 at both ends, so u* = e^{−κπ²t} sin πx. The initial and boundary values are met exactly.

    **Arguments:**

    - `widths`: the widths of the hidden layers.
    - `diffusivity`: the true κ. `start`: the first guess.
    - `count`: the number of measurements. `noise`: their standard deviation.
    """
    return Inverse(functools.partial(_heat, widths), float(diffusivity), float(start), count, float(noise))


def burgers_inverse(
    widths: tuple[int, ...] = (20, 20, 20),
    viscosity: float = 0.01 / math.pi,
    start: float = 0.01,
    count: int = 500,
    noise: float = 0.0,
) -> Inverse:
    """Find ν in u_t + u u_x = ν u_xx, the equation of `jaxgeo.equations.burgers_1d`, from values of u inside.

    **Arguments:**

    - `widths`: the widths of the hidden layers.
    - `viscosity`: the true ν, at least 0.003. `start`: the first guess.
    - `count`: the number of measurements. `noise`: their standard deviation.
    """
    return Inverse(functools.partial(burgers_1d, widths), float(viscosity), float(start), count, float(noise))


def _heat(widths: tuple[int, ...], diffusivity: float | Float[Array, ""]) -> Equation:
    box = Box(t=(0, 1), x=(0, 1))

    def solution(x: Array) -> Array:
        return jnp.exp(-diffusivity * np.pi**2 * x[0]) * jnp.sin(jnp.pi * x[1])

    def residual(u: Field, x: Array) -> Array:
        by_time, twice = partials(u, "t xx", box.names)(x)
        return by_time - diffusivity * twice

    def output(value: Array, x: Array) -> Array:
        return jnp.sin(jnp.pi * x[1]) + box.vanishing(x, t=0, x=(0, 1)) * value

    return Equation(residual, solution, in_box(box), 2, widths, (1000, 0), box, output=output)
