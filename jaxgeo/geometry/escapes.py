"""Leave a local equilibrium, where the flows stand still although C > 0."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from jaxgeo._checks import check_count
from jaxgeo.outputs import Params
from jaxgeo.problem import Problem

MAX_PARAMS = 4096


class Escape(NamedTuple):
    """The step that leaves a local equilibrium.

    - `params`: θ + κV.
    - `cost`, `new_cost`: C at θ, and at θ + κV.
    - `alpha`: the index α of g_α, in the order of the curvatures.
    - `kappa`: κ, with its sign, for V of length 1.
    - `curvature`: Vᵀ∂²C V at θ, ∂² = ∂²/∂θ²: negative at a saddle point, not at a local minimum.
    """

    params: Params
    cost: Float[Array, ""]
    new_cost: Float[Array, ""]
    alpha: Int[Array, ""]
    kappa: Float[Array, ""]
    curvature: Float[Array, ""]


def find_escape(problem: Problem, params: Params, *, max_directions: int = 64) -> Escape:
    """The step θ + κV, along one of the V = ∇θg_α, that lowers the cost most.

    Paper: (4.15)–(4.17)

    At an equilibrium with C > 0, D has lost rank and Dᵀ∇ₓC = 0. Near it the critical points are the zeros of functions
    g_α = w_α·∇θC. Their gradients V = ∇g_α = ∂²C w_α are normal to the critical set: C is constant along this set, but
    changes across it. The w_α are the eigenvectors of ∂²C = ∂²C/∂θ², so the V are orthogonal, and each is parallel to
    its w_α. C changes by κ²Vᵀ∂²C V/2 to lowest order: at a saddle point some α lowers it at once, while a local minimum
    needs a finite step. The search therefore takes the α, the sign of κ and its size, from 2⁻²⁰ to 2⁶ times the root
    mean square of θ times √K, that give the lowest cost.

    **Arguments:**

    - `max_directions`: how many α to try, in order of increasing curvature. They include the flat directions, which are
        tangential to the critical set: these lead away from a local minimum to where D has more rank.

    **Raises:** `ValueError` if there are more than 4096 parameters, because ∂²C is formed.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: a[0] * a[1] * x, jnp.ones(1), jg.L2(jnp.ones(1)))
    >>> found = jg.geometry.find_escape(problem, jnp.zeros(2))
    >>> float(found.curvature.round(6)), bool(found.new_cost < found.cost)
    (-1.0, True)

    ```
    """
    check_count("max_directions", max_directions)
    problem.check(params)
    return _find(problem, params, int(max_directions))


@eqx.filter_jit
def _find(problem: Problem, params: Params, max_directions: int) -> Escape:
    problem, trainable = problem.restrict(params)
    flat, unravel = ravel_pytree(trainable)
    if flat.size > MAX_PARAMS:
        raise ValueError(f"`escape` forms the Hessian of the cost, for K ≤ {MAX_PARAMS} parameters; got K={flat.size}.")

    def cost(theta: Float[Array, " K"]) -> Float[Array, ""]:
        return problem.cost(unravel(theta))

    curvatures, normals = jnp.linalg.eigh(jax.hessian(cost)(flat))
    normals = normals[:, :max_directions].T
    # θ = 0 sets no scale of length, so use 1 there.
    size = jnp.linalg.norm(flat)
    sizes = jnp.where(size > 0, size, 1) * 2.0 ** jnp.arange(-20, 7, dtype=flat.dtype)
    kappas = jnp.concatenate([-sizes, sizes])

    def costs_along(normal: Float[Array, " K"]) -> Float[Array, " steps"]:
        return jax.vmap(lambda kappa: cost(flat + kappa * normal))(kappas)

    costs = jax.lax.map(costs_along, normals)
    costs = jnp.where(jnp.isfinite(costs), costs, jnp.inf)
    alpha, step = jnp.unravel_index(jnp.argmin(costs), costs.shape)
    _, end = problem.extend(unravel(flat + kappas[step] * normals[alpha]))
    return Escape(end, cost(flat), costs[alpha, step], alpha, kappas[step], curvatures[alpha])


def escape(problem: Problem, params: Params) -> Params:
    """θ + κV of `find_escape`, where the cost is lower: pass this function to `jaxgeo.solve_flow` as `restart`.

    Paper: (4.15)–(4.17)

    **Raises:** `RuntimeError` if no step along any V lowers the cost.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: a[0] * a[1] * x, jnp.ones(1), jg.L2(jnp.ones(1)))
    >>> flow = jg.RankAdaptiveFlow()
    >>> sol = jg.solve_flow(problem, flow, jnp.array([0.0, 0.0]), cost_tol=1e-12, restart=jg.geometry.escape)
    >>> bool(sol.final_cost <= 1.001e-12)
    True

    ```
    """
    found = find_escape(problem, params)
    # The decrease must exceed the round-off of a sum of QN squares.
    if not found.new_cost < found.cost * (1 - 1e-10):
        raise RuntimeError(
            f"no step lowers the cost {float(found.cost):.3g}: this may be a global minimum of the cost. Compare "
            "`jaxgeo.theory.critical_cost`."
        )
    return found.params
