"""The horizontal lift: an output velocity v, lifted to the parameter velocity D⁺v."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from jaxgeo._checks import check_finite, check_kind, check_rows
from jaxgeo.linalg.gram.gram import mean_eigenvalue
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.planning.auto import Auto
from jaxgeo.linalg.solvers import AbstractLiftSolver, LiftInfo
from jaxgeo.linalg.solvers.base import Damping, check_damping
from jaxgeo.linalg.tangents import norm
from jaxgeo.outputs import AbstractProblem, Params


def lift(
    problem: AbstractProblem,
    params: Params,
    velocity: ArrayLike,
    solver: AbstractLiftSolver | None = None,
    *,
    damping: Damping = None,
) -> PyTree:
    """D⁺v = argmin |θ̇| over the θ̇ for which |Dθ̇ − v| is smallest.

    Paper: Pen[D]v of (1.23), (1.24), (2.2), (2.3), (6.1); (5.2) where K < QN

    **Arguments:**

    - `velocity`: v, of shape (N, Q).
    - `solver`: how to solve; `jaxgeo.linalg.Auto()` by default.
    - `damping`: if given, the result is the damped lift Dᵀ(DDᵀ + λ)⁻¹v with λ = damping · trace(DDᵀ)/QN.

    **Returns:** θ̇, like `params`: zero at frozen arrays, None at leaves that are not arrays.

    **Raises:** `ValueError` unless `velocity` is finite and has shape (N, Q).

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: a @ x, jnp.eye(2), jg.L2(jnp.zeros(2)))
    >>> jg.lift(problem, jnp.zeros(2), jnp.array([[3.0], [4.0]])).tolist()
    [3.0, 4.0]

    ```
    """
    velocity = check_output_velocity(problem, params, "velocity", velocity)
    check_damping(damping)
    return _lift(problem, params, velocity, check_solver(solver), damping)


@eqx.filter_jit
def _lift(
    problem: AbstractProblem,
    params: Params,
    velocity: Float[Array, "N Q"],
    solver: AbstractLiftSolver,
    damping: Damping,
) -> PyTree:
    jacobian = Jacobian(problem, params)
    solution, _ = solver.solve(jacobian, velocity, damping)
    return jacobian.embed(solution)


def check_solver(solver: AbstractLiftSolver | None, name: str = "solver") -> AbstractLiftSolver:
    """`solver`, or `Auto()` for None; raises `ValueError` unless it is an `AbstractLiftSolver`."""
    return Auto() if solver is None else check_lift_solver(name, solver)


def check_lift_solver(name: str, solver: Any) -> AbstractLiftSolver:
    """Raise `ValueError` unless `solver` is an `AbstractLiftSolver`."""
    check_kind(name, solver, AbstractLiftSolver, "a solver of the lift, such as `jaxgeo.linalg.Auto()`")
    return solver


def check_output_velocity(
    problem: AbstractProblem, params: Params, name: str, velocity: ArrayLike
) -> Float[Array, "N Q"]:
    """`velocity` as an array; raises `ValueError` unless it has the shape of the outputs and is finite.

    Also raises `ValueError` if the network cannot be evaluated at `params`.
    """
    problem.check(params)
    outputs = eqx.filter_eval_shape(problem.outputs, params)
    return check_rows(name, velocity, outputs.shape).astype(outputs.dtype)


def check_velocity(problem: AbstractProblem, params: Params, name: str, velocity: PyTree) -> PyTree:
    """The trainable part of a velocity; raises `ValueError` unless it is like that of `params`, and finite."""
    problem.check(params)
    trainable, _ = problem.partition(params)
    try:
        moved, _ = problem.partition(velocity)
    except ValueError:
        moved = None
    _check_like(name, moved, trainable)
    return moved


def _check_like(name: str, moved: PyTree, trainable: PyTree) -> None:
    shapes = jax.tree.map(jnp.shape, trainable)
    # Compare leaf by leaf: pytrees of shapes may lack a usable `==`.
    like = [[jnp.shape(leaf) for leaf in jax.tree.leaves(tree)] for tree in (moved, trainable)]
    if jax.tree.structure(moved) != jax.tree.structure(trainable) or like[0] != like[1]:
        raise ValueError(f"`{name}` must be like the trainable part of `params`, of shapes {shapes}; got {moved!r}.")
    check_finite(name, moved)


def lift_gradient(
    jacobian: Jacobian, gradient: PyTree, damping: Damping, solver: AbstractLiftSolver | None = None
) -> tuple[PyTree, LiftInfo]:
    """(DᵀD + λ)⁻¹g for a gradient g in parameter space, λ = damping · trace(DDᵀ)/QN; (DᵀD)⁺g without damping.

    Paper: (2.30), (5.17)

    g is split into Dᵀw, with w = D⁺ᵀg, and a rest g⊥ in ker D. The result is the (damped) lift of w, plus g⊥/λ. So for
    g = Dᵀw it equals the lift of w, and no difference of nearly equal terms is divided by a small λ.

    **Arguments:**

    - `jacobian`: D.
    - `gradient`: g, a pytree like the trainable parameters.
    - `damping`, `solver`: as for `lift`.

    **Returns:** a pytree like `gradient`, and the `LiftInfo` of the first solve.

    **Raises:** `ValueError` unless `gradient` is finite and like the trainable parameters.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: a @ x, jnp.diag(jnp.array([1.0, 2.0])), jg.L2(jnp.zeros(2)))
    >>> direction, _ = jg.linalg.lift_gradient(problem.jacobian(jnp.zeros(2)), jnp.array([1.0, 4.0]), None)
    >>> direction.round(12).tolist()
    [1.0, 1.0]

    ```
    """
    _check_like("gradient", gradient, jacobian.trainable)
    check_damping(damping)
    return _lift_gradient(jacobian, gradient, damping, check_solver(solver))


@eqx.filter_jit
def _lift_gradient(
    jacobian: Jacobian, gradient: PyTree, damping: Damping, solver: AbstractLiftSolver
) -> tuple[PyTree, LiftInfo]:
    # D⁺ is linear, so its VJP is its transpose.
    _, pull_back = jax.vjp(lambda rows: solver.solve(jacobian, rows)[0], jnp.zeros_like(jacobian.outputs))
    (rows,) = pull_back(gradient)
    solution, info = solver.solve(jacobian, rows, damping)
    if damping is None:
        return solution, info
    rest = jax.tree.map(jnp.subtract, gradient, jacobian.T.mv(rows))
    # Once more, to remove what is left of Dᵀw if D is ill-conditioned.
    rest = jax.tree.map(jnp.subtract, rest, jacobian.T.mv(pull_back(rest)[0]))
    # Round-off in the rest must not be divided by λ, and nothing by λ = 0, as for D = 0.
    absolute = jnp.asarray(damping, rows.dtype) * mean_eigenvalue(jacobian)
    floor = 64 * float(jnp.finfo(rows.dtype).eps) * norm(gradient)
    outside = (norm(rest) > floor) & (absolute > 0)
    scale = jnp.where(outside, 1 / jnp.where(outside, absolute, 1), 0)
    return jax.tree.map(lambda leaf, rest: leaf + scale * rest, solution, rest), info
