"""Projectors onto the parameter directions that D acts on, and the output directions that it reaches."""

import equinox as eqx
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from jaxgeo.linalg.lifting import check_output_velocity, check_solver, check_velocity
from jaxgeo.linalg.solvers import AbstractLiftSolver
from jaxgeo.outputs import Params
from jaxgeo.problem import Problem


def horizontal_projection(
    problem: Problem, params: Params, velocity: PyTree, solver: AbstractLiftSolver | None = None
) -> PyTree:
    """Pθ̇ = D⁺Dθ̇, the part of a parameter velocity in range(Dᵀ), which moves the outputs.

    Paper: (1.25), (2.3)

    **Arguments:**

    - `velocity`: θ̇, like `params`.
    - `solver`: as for `jaxgeo.lift`.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: a @ x, jnp.array([[1.0, 0.0]]), jg.L2(jnp.zeros(1)))
    >>> jg.geometry.horizontal_projection(problem, jnp.zeros(2), jnp.array([3.0, 4.0])).tolist()
    [3.0, 0.0]

    ```
    """
    return _horizontal(problem, params, check_velocity(problem, params, "velocity", velocity), check_solver(solver))


@eqx.filter_jit
def _horizontal(problem: Problem, params: Params, moved: PyTree, solver: AbstractLiftSolver) -> PyTree:
    jacobian = problem.jacobian(params)
    solution, _ = solver.solve(jacobian, jacobian.mv(moved))
    return jacobian.embed(solution)


def output_projection(
    problem: Problem, params: Params, velocity: ArrayLike, solver: AbstractLiftSolver | None = None
) -> Float[Array, "N Q"]:
    """𝒫v = DD⁺v, the part of an output velocity in range(D), which the parameters can follow.

    Paper: (1.32), (4.2), (5.4), (5.5)

    The remainder v − 𝒫v = 𝒫⊥v vanishes for the velocity ∂ₛx of the outputs along any flow of the parameters.

    **Arguments:**

    - `velocity`: v, of shape (N, Q).
    - `solver`: as for `jaxgeo.lift`.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: a * x, jnp.array([1.0, 0.0]), jg.L2(jnp.zeros(2)))
    >>> jg.geometry.output_projection(problem, jnp.array(0.0), jnp.array([[3.0], [4.0]])).tolist()
    [[3.0], [0.0]]

    ```
    """
    velocity = check_output_velocity(problem, params, "velocity", velocity)
    return _attainable(problem, params, velocity, check_solver(solver))


@eqx.filter_jit
def _attainable(
    problem: Problem, params: Params, velocity: Float[Array, "N Q"], solver: AbstractLiftSolver
) -> Float[Array, "N Q"]:
    jacobian = problem.jacobian(params)
    solution, _ = solver.solve(jacobian, velocity)
    return jacobian.mv(solution)
