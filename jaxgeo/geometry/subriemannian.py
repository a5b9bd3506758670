"""The metric that the outputs induce on parameters, and the curvature of the horizontal bundle range(Dᵀ)."""

from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from jaxgeo._checks import as_real, check_function
from jaxgeo._fields import FUNCTION, Checked
from jaxgeo.geometry.dense import dense_jacobian
from jaxgeo.linalg.lifting import check_output_velocity, check_solver, check_velocity, lift, lift_gradient
from jaxgeo.linalg.solvers import AbstractLiftSolver
from jaxgeo.linalg.spectra import count_above
from jaxgeo.outputs import Params
from jaxgeo.problem import Problem


def pullback_metric(problem: Problem, params: Params, first: PyTree, second: PyTree) -> Float[Array, ""]:
    """⟨DV, DW⟩: the Euclidean metric of output space, pulled back to parameter velocities V and W.

    Paper: (2.22), (2.25); (5.14), (5.15)

    On range(Dᵀ) it is the bundle metric h, and on ker D it vanishes. If K ≤ QN and D has rank K, it is the Riemannian
    metric g = DᵀD on all of parameter space.

    **Arguments:**

    - `first`, `second`: V and W, like `params`.

    **Raises:** `ValueError` unless both velocities are like `params`.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: a @ x, jnp.array([[2.0, 0.0]]), jg.L2(jnp.zeros(1)))
    >>> float(jg.geometry.pullback_metric(problem, jnp.zeros(2), jnp.array([1.0, 5.0]), jnp.array([3.0, 7.0])))
    12.0

    ```
    """
    first = check_velocity(problem, params, "first", first)
    return _metric(problem, params, first, check_velocity(problem, params, "second", second))


@eqx.filter_jit
def _metric(problem: Problem, params: Params, first: PyTree, second: PyTree) -> Float[Array, ""]:
    jacobian = problem.jacobian(params)
    return jnp.sum(jacobian.mv(first) * jacobian.mv(second))


@eqx.filter_jit
def pullback_gradient(
    problem: Problem,
    params: Params,
    function: Callable[[Params], Float[Array, ""]] | None = None,
    solver: AbstractLiftSolver | None = None,
) -> PyTree:
    """(DᵀD)⁺∇θF, the gradient of F in `pullback_metric`: the horizontal V with ⟨DV, DW⟩ = dF(W) for horizontal W.

    Paper: Prop. 2.4, (2.23), (2.24), (2.30); Prop. 5.3, (5.16)–(5.18)

    For the cost it is D⁺∇ₓC, so −grad C is the adapted flow.

    **Arguments:**

    - `function`: F, a function from params to a number; the cost by default.
    - `solver`: as for `jaxgeo.lift`.

    **Raises:** `ValueError` unless `function` returns one real number.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: a * x, jnp.array([2.0]), jg.L2(jnp.array([4.0])))
    >>> float(jg.geometry.pullback_gradient(problem, jnp.array(1.0)))
    -1.0

    ```
    """
    jacobian = problem.jacobian(params)
    function = problem.cost if function is None else function
    check_function("function", function)
    value = eqx.filter_eval_shape(function, params)
    if not isinstance(value, jax.ShapeDtypeStruct) or value.shape or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(f"`function` must return one real number; got {value!r}.")
    gradient = jax.grad(lambda trainable: function(eqx.combine(trainable, jacobian.frozen)))(jacobian.trainable)
    solution, _ = lift_gradient(jacobian, gradient, None, solver)
    return jacobian.embed(solution)


class ConstantField(eqx.Module):
    """The vector field on output space that equals `value` everywhere."""

    value: Float[Array, "N Q"] = eqx.field(converter=partial(as_real, "value"))

    def __call__(self, outputs: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return self.value


class HorizontalField(Checked):
    """θ ↦ D⁺v(x[θ]), the horizontal lift of a vector field v on output space.

    Paper: (2.31)

    It is the horizontal field that D maps to v if D has rank QN, and to 𝒫v otherwise.

    **Arguments:**

    - `problem`: the problem with this D.
    - `field`: v, a function from outputs to output velocities, such as a `ConstantField`.
    - `solver`: as for `jaxgeo.lift`.
    """

    problem: Problem
    field: Callable[[Float[Array, "N Q"]], Float[Array, "N Q"]] = eqx.field(metadata=FUNCTION)
    solver: AbstractLiftSolver | None = eqx.field(converter=check_solver, default=None)

    def __call__(self, params: Params) -> PyTree:
        return lift(self.problem, params, self.field(self.problem.outputs(params)), self.solver)


def lie_bracket(first: Callable[[Params], PyTree], second: Callable[[Params], PyTree], params: Params) -> PyTree:
    """[V, W] = W′V − V′W at `params`, by a JVP of each field along the other.

    Paper: (2.31)

    **Arguments:**

    - `first`, `second`: V and W, functions from params to velocities like them, such as a `HorizontalField`.

    **Returns:** [V, W], like `params`, with None in place of anything but floating-point arrays.

    **Raises:** `ValueError` if `params` has no floating-point array, or if a field returns velocities of another form.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> jg.geometry.lie_bracket(lambda a: jnp.array([1.0, 0.0]), lambda a: a[0] * a, jnp.array([2.0, 3.0])).tolist()
    [4.0, 3.0]

    ```
    """
    check_function("first", first)
    check_function("second", second)
    if not jax.tree.leaves(eqx.filter(params, eqx.is_inexact_array)):
        raise ValueError("`params` has no floating-point array to differentiate the fields by.")
    return _bracket(first, second, params)


@eqx.filter_jit
def _bracket(first: Callable[[Params], PyTree], second: Callable[[Params], PyTree], params: Params) -> PyTree:
    moving, still = eqx.partition(params, eqx.is_inexact_array)
    form = jax.tree.map(jnp.shape, moving)
    for name, field in (("first", first), ("second", second)):
        found = jax.tree.map(jnp.shape, eqx.filter(field(params), eqx.is_inexact_array))
        if found != form:
            raise ValueError(f"`{name}` must return velocities like `params`, of shapes {form}; got {found}.")

    def along(field: Callable[[Params], PyTree], direction: Callable[[Params], PyTree]) -> PyTree:
        def values(moving: PyTree) -> PyTree:
            return eqx.filter(field(eqx.combine(moving, still)), eqx.is_inexact_array)

        velocity = eqx.filter(direction(params), eqx.is_inexact_array)
        return jax.jvp(values, (moving,), (velocity,))[1]

    return jax.tree.map(jnp.subtract, along(second, first), along(first, second))


def curvature(
    problem: Problem,
    params: Params,
    first: ArrayLike,
    second: ArrayLike,
    solver: AbstractLiftSolver | None = None,
) -> PyTree:
    """(1 − P)[V, W], the vertical part of the bracket of the horizontal lifts V = D⁺v and W = D⁺w.

    Paper: (2.31)

    It depends only on v and w at this point, and vanishes for all v and w exactly where range(Dᵀ) is integrable. With
    ψ_V = D⁺ᵀV it is (1 − P)(∂_V(Dᵀψ_W) − ∂_W(Dᵀψ_V)), where ψ is held fixed, so derivatives of D⁺ are not needed.

    **Arguments:**

    - `first`, `second`: v and w, of shape (N, Q).
    - `solver`: as for `jaxgeo.lift`.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: a @ x, jnp.eye(3)[:2], jg.L2(jnp.zeros(2)))
    >>> flat = jg.geometry.curvature(problem, jnp.zeros(3), jnp.array([[1.0], [0.0]]), jnp.array([[0.0], [1.0]]))
    >>> flat.tolist()  # a linear model has none
    [0.0, 0.0, 0.0]

    ```
    """
    first = check_output_velocity(problem, params, "first", first)
    second = check_output_velocity(problem, params, "second", second)
    return _curvature(problem, params, first, second, check_solver(solver))


@eqx.filter_jit
def _curvature(
    problem: Problem,
    params: Params,
    first: Float[Array, "N Q"],
    second: Float[Array, "N Q"],
    solver: AbstractLiftSolver,
) -> PyTree:
    jacobian = problem.jacobian(params)

    def lifted(rows: Array) -> PyTree:
        return solver.solve(jacobian, rows)[0]

    first_lift, transpose = jax.vjp(lifted, first)
    second_lift = lifted(second)

    def bend(direction: PyTree, other: PyTree) -> PyTree:
        """∂_direction(Dᵀψ), with the ψ of `other`."""
        (psi,) = transpose(other)

        def pulled(trainable: PyTree) -> PyTree:
            return problem.jacobian(eqx.combine(trainable, jacobian.frozen)).T.mv(psi)

        return jax.jvp(pulled, (jacobian.trainable,), (direction,))[1]

    bracket = jax.tree.map(jnp.subtract, bend(first_lift, second_lift), bend(second_lift, first_lift))
    horizontal = lifted(jacobian.mv(bracket))
    return jacobian.embed(jax.tree.map(jnp.subtract, bracket, horizontal))


def nonintegrability(problem: Problem, params: Params, rtol: float = 1e-10) -> float:
    """The root mean square of |(1 − P)[Eᵢ, Eⱼ]| over pairs from an orthonormal basis E of range(Dᵀ).

    Paper: (2.31), Remark 5.4

    In units of 1/|θ|. It is zero exactly if range(Dᵀ) satisfies the Frobenius condition at `params`. This always holds
    for K ≤ QN and D of rank K, where nothing is vertical. Holds an array of rank² · K numbers.

    **Arguments:**

    - `rtol`: singular values of D below `rtol` times the largest count as zero.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: a @ x, jnp.eye(3)[:2], jg.L2(jnp.zeros(2)))
    >>> jg.geometry.nonintegrability(problem, jnp.zeros(3))
    0.0

    ```
    """
    left, values, right = np.linalg.svd(dense_jacobian(problem, params).matrix, full_matrices=False)
    rank = count_above(values, rtol)
    if rank < 2:
        return 0.0
    psi = jnp.asarray((left[:, :rank] / values[:rank]).T)
    bent = np.asarray(_bends(problem, params, jnp.asarray(right[:rank]), psi), np.float64)
    brackets = (bent - bent.swapaxes(0, 1))[np.triu_indices(rank, 1)]
    vertical = brackets - brackets @ right[:rank].T @ right[:rank]
    return float(np.sqrt(np.mean(np.sum(vertical**2, axis=1))))


@eqx.filter_jit
def _bends(
    problem: Problem, params: Params, basis: Float[Array, "rank K"], psi: Float[Array, "rank QN"]
) -> Float[Array, "rank rank K"]:
    """∂ᵢ(Dᵀψⱼ) for directions i of the basis."""
    problem, trainable = problem.restrict(params)
    flat, unravel = ravel_pytree(trainable)

    def pulled(theta: Array, rows: Array) -> Array:
        at = problem.jacobian(unravel(theta))
        return ravel_pytree(at.T.mv(rows.reshape(at.outputs.shape)))[0]

    def bend(direction: Array, rows: Array) -> Array:
        return jax.jvp(lambda theta: pulled(theta, rows), (flat,), (direction,))[1]

    over_rows = jax.vmap(bend, in_axes=(None, 0))
    return jax.vmap(over_rows, in_axes=(0, None))(basis.astype(flat.dtype), psi.astype(flat.dtype))
