"""Projectors onto the directions that D acts on, and that it reaches."""

import equinox as eqx
from jaxtyping import Array, Float, PyTree

from jaxgeo.linalg.solvers import AbstractLiftSolver, Auto
from jaxgeo.problem import Params, Problem


@eqx.filter_jit
def horizontal_projection(
    problem: Problem, params: Params, velocity: PyTree, solver: AbstractLiftSolver | None = None
) -> PyTree:
    """Pθ̇ = D⁺Dθ̇, the part of a parameter velocity in range(Dᵀ), which is what moves the outputs.

    Paper: (2.3)

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
    jacobian = problem.jacobian(params)
    solver = Auto() if solver is None else solver
    moved, _ = problem.partition(velocity)
    solution, _ = solver.solve(jacobian, jacobian.mv(moved))
    return jacobian.embed(solution)


@eqx.filter_jit
def output_projection(
    problem: Problem, params: Params, velocity: Float[Array, "N Q"], solver: AbstractLiftSolver | None = None
) -> Float[Array, "N Q"]:
    """𝒫v = DD⁺v, the part of an output velocity in range(D), which is what parameters can follow.

    Paper: (4.3), (5.4)

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
    jacobian = problem.jacobian(params)
    solver = Auto() if solver is None else solver
    solution, _ = solver.solve(jacobian, velocity)
    return jacobian.mv(solution)
