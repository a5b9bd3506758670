"""The horizontal lift: an output velocity v, lifted to the parameter velocity D⁺v."""

from jaxtyping import Array, Float

from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.solvers import QR, AbstractLiftSolver, GramCholesky
from jaxgeo.problem import Params, Problem


def lift(
    problem: Problem, params: Params, velocity: Float[Array, "N Q"], solver: AbstractLiftSolver | None = None
) -> Params:
    """D⁺v = argmin |θ̇| over the θ̇ for which |Dθ̇ − v| is smallest.

    Paper: (1.23), (5.2)

    **Arguments:**

    - `velocity`: v, of shape (N, Q).
    - `solver`: how to solve; by default a Cholesky factorisation of DDᵀ for K ≥ QN, and QR of D for K < QN.

    **Returns:** θ̇, like `params`; zero at frozen arrays.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: a @ x, jnp.eye(2), jg.L2(jnp.zeros(2)))
    >>> jg.lift(problem, jnp.zeros(2), jnp.array([[3.0], [4.0]])).tolist()
    [3.0, 4.0]

    ```
    """
    jacobian = problem.jacobian(params)
    if solver is None:
        solver = default_solver(jacobian)
    return jacobian.embed(solver.solve(jacobian, velocity))


def default_solver(jacobian: Jacobian) -> AbstractLiftSolver:
    """The solver for a D of full rank: on the smaller side of D."""
    return GramCholesky() if jacobian.in_size() >= jacobian.out_size() else QR()
