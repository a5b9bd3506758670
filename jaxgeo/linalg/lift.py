"""The horizontal lift: an output velocity v, lifted to the parameter velocity D⁺v."""

import equinox as eqx
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.solvers import AbstractLiftSolver, Auto, LiftInfo
from jaxgeo.linalg.solvers.base import Damping, is_finite, relative_residual
from jaxgeo.problem import Params, Problem


@eqx.filter_jit
def lift(
    problem: Problem,
    params: Params,
    velocity: Float[Array, "N Q"],
    solver: AbstractLiftSolver | None = None,
    *,
    damping: Damping = None,
) -> Params:
    """D⁺v = argmin |θ̇| over the θ̇ for which |Dθ̇ − v| is smallest.

    Paper: (1.23), (5.2)

    **Arguments:**

    - `velocity`: v, of shape (N, Q).
    - `solver`: how to solve; `jaxgeo.linalg.Auto()` by default.
    - `damping`: with it the damped lift Dᵀ(DDᵀ + λ)⁻¹v, λ = damping · trace(DDᵀ)/QN.

    **Returns:** θ̇, like `params`; zero at frozen arrays.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: a @ x, jnp.eye(2), jg.L2(jnp.zeros(2)))
    >>> jg.lift(problem, jnp.zeros(2), jnp.array([[3.0], [4.0]])).tolist()
    [3.0, 4.0]

    ```
    """
    jacobian = problem.jacobian(params)
    solver = Auto() if solver is None else solver
    solution, _ = solver.solve(jacobian, velocity, damping)
    return jacobian.embed(solution)


def lift_gradient(
    jacobian: Jacobian, gradient: PyTree, damping: Damping, solver: AbstractLiftSolver | None = None
) -> tuple[PyTree, LiftInfo]:
    """(DᵀD + λ)⁻¹g for a gradient g in parameter space, λ = damping · trace(DDᵀ)/QN; (DᵀD)⁺g without damping.

    For g = Dᵀw it is the (damped) lift of w.
    """
    del solver
    matrix = jacobian.as_matrix()
    flat = ravel_pytree(gradient)[0]
    u, values, vt = jnp.linalg.svd(matrix, full_matrices=False)
    keep = values > 2 * max(matrix.shape) * float(jnp.finfo(matrix.dtype).eps) * values[0]
    coefficients = vt @ flat
    if damping is None:
        solution = vt.T @ jnp.where(keep, coefficients / jnp.where(keep, values**2, 1), 0)
    else:
        shift = jnp.asarray(damping, matrix.dtype) * jnp.sum(values**2) / len(matrix)
        outside = flat - vt.T @ coefficients
        # What round-off leaves outside range(Dᵀ) must not be divided by λ.
        floor = 10 * jnp.finfo(matrix.dtype).eps * jnp.linalg.norm(flat)
        outside = jnp.where(jnp.linalg.norm(outside) > floor, outside, 0)
        solution = vt.T @ (coefficients / (values**2 + shift)) + outside / shift
    solution = jacobian.unravel(solution)
    outcome = jnp.where(is_finite(solution), 0, 3)
    target = (u @ jnp.where(keep, coefficients / jnp.where(keep, values, 1), 0)).reshape(jacobian.outputs.shape)
    residual = relative_residual(jacobian, solution, target)
    return solution, LiftInfo(outcome, jnp.sum(keep, dtype=outcome.dtype), residual)
