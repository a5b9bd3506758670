"""Families of flows: straight lines in output space, and the way from the standard flow to the adapted one."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from jaxgeo._checks import as_real, is_concrete
from jaxgeo._fields import Checked, number
from jaxgeo.flows.base import AbstractFlow, StandardFlow, Time
from jaxgeo.flows.lifted import lifted
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.lifting import check_solver
from jaxgeo.linalg.linearisation import counted, linearised
from jaxgeo.linalg.planning.auto import Auto
from jaxgeo.linalg.solvers import AbstractLiftSolver
from jaxgeo.metrics import Euclidean


def _as_deviation(deviation: Float[ArrayLike, "N Q"] | None) -> Float[Array, "N Q"] | None:
    return None if deviation is None else as_real("initial_deviation", deviation)


class InterpolationFlow(AbstractFlow):
    """∂ₜθ = D⁺(y − x)/(1 − t): the adapted flow in the time t = 1 − e^{-s/N}, which ends at t = 1.

    Reference: T. Chen, P. Muñoz Ewald, Gradient flow in parameter space is equivalent to linear interpolation in
    output space, 2024, arXiv 2408.01517

    For an L2 cost, K ≥ QN and D of full rank, the outputs move at constant speed on the straight line from x₀ to y,
    and the cost is (1 − t)²C₀. The flow always aims at y from the current x, and so corrects errors on the way; but the
    field is singular at t = 1. `jaxgeo.solve_interpolation` integrates it to this end point.

    **Arguments:**

    - `initial_deviation`: x₀ − y at the start. With it the flow takes the open-loop form D⁺(y − x₀), which is smooth up
        to t = 1 but corrects nothing.
    - `solver`: how to lift.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: a * x, jnp.array([2.0]), jg.L2(jnp.array([4.0])))
    >>> float(jg.InterpolationFlow()(0.5, jnp.array(1.0), problem))
    2.0

    ```
    """

    initial_deviation: Float[Array, "N Q"] | None = eqx.field(converter=_as_deviation, default=None)
    solver: AbstractLiftSolver = eqx.field(converter=check_solver, default=Auto())

    def velocity(self, s: Time, jacobian: Jacobian) -> PyTree:
        if self.initial_deviation is not None:
            shape = self.initial_deviation.shape
            if shape != jacobian.outputs.shape:
                raise ValueError(f"`initial_deviation` must have shape {jacobian.outputs.shape}; got {shape}.")
            return lifted(*counted(jacobian, -self.initial_deviation), self.solver)
        deviation = jacobian.problem.loss.deviation(jacobian.outputs)
        left = 1 - jnp.asarray(s, deviation.dtype)
        return lifted(*counted(jacobian, -deviation / left), self.solver)

    def required_rank(self, num_rows: int, num_params: int) -> int:
        return min(num_rows, num_params)

    def follows_law(self, num_rows: int, num_params: int) -> bool:
        # The law holds in another time.
        return False


class HomotopyFlow(Checked, AbstractFlow):
    """∂ₛθ = −(1 − α)∇θC − αD⁺∇ₓC, so ∂ₛx = −((1 − α)DDᵀ + α𝒫)∇ₓC: standard for α = 0, adapted for α = 1.

    Reference: T. Chen, P. Muñoz Ewald, Gradient flow in parameter space is equivalent to linear interpolation in
    output space, 2024, arXiv 2408.01517, Theorem 2.3

    Both terms vanish exactly where Dᵀ∇ₓC = 0, and their scalar product is |𝒫∇ₓC|² ≥ 0, so the equilibria are the same
    for all α.

    **Arguments:**

    - `alpha`: α in [0, 1].
    - `solver`: how to lift.

    **Raises:** `ValueError` if α lies outside [0, 1].

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: a * x, jnp.array([2.0]), jg.L2(jnp.array([4.0])))
    >>> float(jg.HomotopyFlow(0.5)(0.0, jnp.array(1.0), problem))
    2.5

    ```
    """

    alpha: float | Float[Array, ""] = eqx.field(metadata=number(least=0, most=1))
    solver: AbstractLiftSolver = eqx.field(converter=check_solver, default=Auto())

    def velocity(self, s: Time, jacobian: Jacobian) -> PyTree:
        standard = StandardFlow().velocity(s, jacobian)
        linear = linearised(jacobian, Euclidean())
        adapted = lifted(linear.jacobian, linear.descent, self.solver)
        share = jnp.asarray(self.alpha, jacobian.outputs.dtype)
        return jax.tree.map(lambda near, far: ((1 - share) * near + share * far).astype(near.dtype), standard, adapted)

    def required_rank(self, num_rows: int, num_params: int) -> None:
        return None

    def follows_law(self, num_rows: int, num_params: int) -> bool:
        return is_concrete(self.alpha) and bool(self.alpha == 1) and num_params >= num_rows
