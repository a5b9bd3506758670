"""Critical points of the flows: test for them, find the manifold that they form, and move along it or onto it."""

from dataclasses import dataclass
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree
from numpy.typing import NDArray

from jaxgeo._checks import MOST, check_count, check_number, check_rows, is_count
from jaxgeo.geometry.dense import dense_jacobian
from jaxgeo.linalg.spectra import count_above
from jaxgeo.outputs import Params
from jaxgeo.problem import Problem

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Equilibrium:
    """How far a point is from an equilibrium of the flows.

    Paper: Lemma 3.2, (3.10), (3.11); Theorem 4.2, (4.12); (5.6)

    - `gradient`: |∇ₓC|, 0 at a minimum over all outputs.
    - `standard`: |Dᵀ∇ₓC|, the speed of θ along `StandardFlow`.
    - `adapted`: |𝒫∇ₓC|, the speed of x along `RankAdaptiveFlow`.
    - `rank`: r, the rank of D. `num_rows`: QN. `num_params`: K.
    - `largest`, `smallest`: the singular values σ₁ and σ_r of D, so that σ_r·adapted ≤ standard ≤ σ₁·adapted: the two
        flows have the same equilibria (Theorem 4.2).
    - `lost`: an orthonormal basis of ker Dᵀ, of shape (QN − r, N, Q).
    """

    gradient: float
    standard: float
    adapted: float
    rank: int
    num_rows: int
    num_params: int
    largest: float
    smallest: float
    lost: Floats

    def __str__(self) -> str:
        return (
            f"|∇ₓC| = {self.gradient:.3g}, |Dᵀ∇ₓC| = {self.standard:.3g}, |𝒫∇ₓC| = {self.adapted:.3g}; "
            f"QN = {self.num_rows}, K = {self.num_params}, rank(D) = {self.rank}, with singular values from "
            f"{self.largest:.3g} to {self.smallest:.3g}"
        )

    __repr__ = __str__

    def is_critical(self, tol: float = 1e-8) -> bool:
        """Whether the outputs stand still up to `tol`, an absolute bound on |𝒫∇ₓC|.

        At a positive minimum of the cost compare with a part of `gradient`, such as `tol=1e-6 * found.gradient`.
        """
        return self.adapted <= tol

    @property
    def dimension(self) -> int:
        """K − r, the dimension of the critical manifold through a critical point if D has rank r nearby.

        Paper: Theorem 4.2, (4.14)
        """
        return self.num_params - self.rank


def equilibrium(problem: Problem, params: Params, rtol: float = 1e-8) -> Equilibrium:
    """How far `params` is from an equilibrium of the standard and of the adapted flow.

    Paper: Lemma 3.2, (3.10), (3.11); Theorem 4.2, (4.12); (5.6)

    **Arguments:**

    - `rtol`: singular values of D below `rtol` times the largest count as zero.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: a * x, jnp.array([1.0, 1.0]), jg.L2(jnp.array([0.0, 2.0])))
    >>> found = jg.geometry.equilibrium(problem, jnp.array(1.0))
    >>> found.is_critical(), found.rank, round(found.gradient, 6)
    (True, 1, 0.707107)

    ```
    """
    matrix, outputs = dense_jacobian(problem, params)
    gradient = np.asarray(problem.loss.gradient(outputs), np.float64).reshape(-1)
    left, values, _ = np.linalg.svd(matrix, full_matrices=True)
    rank = count_above(values, rtol)
    return Equilibrium(
        gradient=float(np.linalg.norm(gradient)),
        standard=float(np.linalg.norm(matrix.T @ gradient)),
        adapted=float(np.linalg.norm(left[:, :rank].T @ gradient)),
        rank=rank,
        num_rows=matrix.shape[0],
        num_params=matrix.shape[1],
        largest=float(values[0]),
        smallest=float(values[rank - 1]) if rank else 0.0,
        lost=left[:, rank:].T.reshape(-1, *outputs.shape),
    )


class _Frame(NamedTuple):
    """g_α = ⟨e_α, ∇ₓC⟩ at a point, for the r dominant left singular vectors e_α of D, and their gradients."""

    components: Float[Array, " rank"]
    gradients: Float[Array, "rank K"]


class _Cost(eqx.Module):
    """C as a function of the K trainable numbers, for a problem that has no other parameters."""

    problem: Problem
    params: PyTree

    def __call__(self, theta: Float[Array, " K"]) -> Float[Array, ""]:
        return self.problem.cost(self.at(theta))

    def flat(self) -> Float[Array, " K"]:
        return ravel_pytree(self.params)[0]

    def at(self, theta: Float[Array, " K"]) -> PyTree:
        return ravel_pytree(self.params)[1](theta)

    def hessian(self, theta: Float[Array, " K"], directions: Float[Array, "m K"]) -> Float[Array, "m K"]:
        """The Hessian of C times each direction."""
        return jax.vmap(lambda direction: jax.jvp(jax.grad(self), (theta,), (direction,))[1])(directions)


def _frame(cost: _Cost, theta: Float[Array, " K"], rank: int) -> _Frame:
    jacobian = cost.problem.jacobian(cost.at(theta))
    left, values, right = jnp.linalg.svd(jacobian.as_matrix(), full_matrices=False)
    left, values, right = left[:, :rank], values[:rank], right[:rank]
    components = left.T @ cost.problem.loss.gradient(jacobian.outputs).reshape(-1)
    # ∇θC = Σ σ_α u_α g_α near a point where D keeps its rank. Where g = 0 its derivative is Σ σ_α u_α ⊗ ∇g_α.
    return _Frame(components, cost.hessian(theta, right) / values[:, None])


@eqx.filter_jit
def _frame_at(problem: Problem, params: Params, rank: int) -> _Frame:
    cost = _Cost(*problem.restrict(params))
    return _frame(cost, cost.flat(), rank)


@dataclass(frozen=True)
class CriticalManifold:
    """The manifold of critical points through one of them, to first order.

    Vectors are flat, in the order of the columns of D; `Jacobian.unravel` turns one into a velocity.

    Paper: Theorem 4.2, (4.13), (4.14)

    - `rank`: r, the rank of D.
    - `gradients`: ∇g_α for α = 1…r, of shape (r, K), where M_crit = {g_α = 0}.
    - `normal`: an orthonormal basis of their span, of shape (m, K), along which the Hessian of C is diagonal.
    - `curvatures`: the second derivatives of C along `normal`, ascending.
    - `tangent`: an orthonormal basis of all other directions, of shape (K − m, K).
    """

    rank: int
    gradients: Floats
    normal: Floats
    curvatures: Floats
    tangent: Floats

    @property
    def dimension(self) -> int:
        """K − rank{∇g_α}, which is K − r if the ∇g_α are independent."""
        return len(self.tangent)

    @property
    def escapes(self) -> Floats:
        """The directions of `normal` along which the cost falls, steepest first; none at a minimum.

        Paper: (4.15)–(4.17)
        """
        return self.normal[self.curvatures < -1e-8 * np.abs(self.curvatures).max(initial=0.0)]


def critical_manifold(problem: Problem, params: Params, rtol: float = 1e-8) -> CriticalManifold:
    """The tangent and normal spaces of the critical manifold at the critical point `params`.

    Paper: Theorem 4.2, (4.13), (4.14), (4.16)

    D must keep its rank r near `params`. Then M_crit is the set where the r functions g_α = ⟨e_α, ∇ₓC⟩ vanish, and has
    dimension K − r if their gradients are independent. Decomposes K × K matrices.

    **Arguments:**

    - `rtol`: singular values of D, and of {∇g_α}, below `rtol` times the largest count as zero.

    **Raises:** `ValueError` if |𝒫∇ₓC| is more than 1e-6 of its scale, because `params` is then not critical.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: a[0] * a[1] * x, jnp.array([1.0, 1.0]), jg.L2(jnp.array([0.0, 2.0])))
    >>> manifold = jg.geometry.critical_manifold(problem, jnp.array([1.0, 1.0]))
    >>> manifold.rank, manifold.dimension, abs(manifold.tangent.round(6)).tolist()
    (1, 1, [[0.707107, 0.707107]])

    ```
    """
    state = equilibrium(problem, params, rtol)
    scale = float(jnp.linalg.norm(problem.loss.gradient(jnp.zeros_like(problem.outputs(params)))))
    if state.adapted > 1e-6 * max(scale, state.gradient):
        raise ValueError(
            f"`params` is not a critical point: |𝒫∇ₓC| = {state.adapted:.3g}, with |∇ₓC| = {state.gradient:.3g}. "
            "Follow a flow further, or call `nearest_critical` first."
        )
    frame = _frame_at(problem, params, state.rank)
    gradients = np.asarray(frame.gradients, np.float64)
    _, values, basis = np.linalg.svd(gradients)
    count = count_above(values, rtol) if state.rank else 0
    span, tangent = basis[:count], basis[count:]
    cost = _Cost(*problem.restrict(params))
    theta = cost.flat()
    curved = np.asarray(eqx.filter_jit(cost.hessian)(theta, jnp.asarray(span, theta.dtype)), np.float64)
    small = curved @ span.T
    curvatures, axes = np.linalg.eigh((small + small.T) / 2)
    return CriticalManifold(state.rank, gradients, axes.T @ span, curvatures, tangent)


def nearest_critical(problem: Problem, params: Params, rank: int, num_steps: int = 8) -> Params:
    """Move from a point near the critical manifold onto it, by Newton's method with the shortest step each time.

    Paper: (4.14)

    **Arguments:**

    - `rank`: r, the rank of D there.
    - `num_steps`: the number of Newton steps; each about doubles the correct digits.

    **Raises:** `ValueError` if D cannot have this rank.
    """
    problem.check(params)
    check_count("num_steps", num_steps)
    return _nearest(problem, params, _checked_rank(problem, params, rank), int(num_steps))


@eqx.filter_jit
def _nearest(problem: Problem, params: Params, rank: int, num_steps: int) -> Params:
    cost = _Cost(*problem.restrict(params))

    def step(theta: Array, _: None) -> tuple[Array, None]:
        return _correct(cost, theta, rank), None

    theta, _ = jax.lax.scan(step, cost.flat(), length=num_steps)
    return cost.problem.extend(cost.at(theta))[1]


def _correct(cost: _Cost, theta: Float[Array, " K"], rank: int) -> Float[Array, " K"]:
    frame = _frame(cost, theta, rank)
    return theta - jnp.linalg.lstsq(frame.gradients, frame.components, rcond=1e-8)[0]


class Walk(NamedTuple):
    """Points of a critical manifold.

    - `points`: flat parameters, of shape (steps + 1, K), in the order of the columns of D.
    - `costs`: C there.
    - `residuals`: |𝒫∇ₓC| there.
    """

    points: Float[Array, "points K"]
    costs: Float[Array, " points"]
    residuals: Float[Array, " points"]


def walk_critical(
    problem: Problem, params: Params, direction: Float[ArrayLike, " K"], step: float, num_steps: int, rank: int
) -> Walk:
    """Walk along the critical manifold from the critical point `params`, by steps along it and Newton steps back to it.

    Paper: (4.14)

    The cost stays constant, because its gradient vanishes everywhere on the manifold.

    **Arguments:**

    - `direction`: the initial direction, a flat vector of shape (K,), such as a row of `CriticalManifold.tangent`. The
        walk then goes as straight on as the manifold allows.
    - `step`: the length of a step in parameter space; negative to go backwards.
    - `num_steps`: the number of steps.
    - `rank`: r, the rank of D.

    **Raises:** `ValueError` if `direction` does not have shape (K,), if `step` is not finite, if `num_steps` is not a
    positive integer, or if D cannot have this rank.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: a[0] * a[1] * x, jnp.array([1.0, 1.0]), jg.L2(jnp.array([0.0, 2.0])))
    >>> walk = jg.geometry.walk_critical(problem, jnp.ones(2), jnp.array([1.0, -1.0]), 0.1, 5, 1)
    >>> (walk.points[:, 0] * walk.points[:, 1]).round(9).tolist()  # a hyperbola
    [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]

    ```
    """
    problem.check(params)
    heading = check_rows("direction", direction, (problem.num_params(params),))
    check_number("step", step, least=-MOST, most=MOST)
    check_count("num_steps", num_steps)
    return _walk(problem, params, heading, step, int(num_steps), _checked_rank(problem, params, rank))


def _checked_rank(problem: Problem, params: Params, rank: int) -> int:
    most = min(problem.num_rows(params), problem.num_params(params))
    if not is_count(rank, 0) or rank > most:
        raise ValueError(f"`rank` must be an integer from 0 to min(QN, K)={most}; got {rank!r}.")
    return int(rank)


@eqx.filter_jit
def _walk(
    problem: Problem, params: Params, direction: Float[Array, " K"], step: float, num_steps: int, rank: int
) -> Walk:
    cost = _Cost(*problem.restrict(params))

    def look(theta: Array) -> tuple[Array, Array]:
        return cost(theta), jnp.linalg.norm(_frame(cost, theta, rank).components)

    def go(state: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], tuple[Array, Array, Array]]:
        theta, heading = state
        gradients = _frame(cost, theta, rank).gradients
        heading = heading - jnp.linalg.lstsq(gradients, gradients @ heading, rcond=1e-8)[0]
        heading = heading / jnp.linalg.norm(heading)
        theta = theta + jnp.asarray(step, theta.dtype) * heading
        theta = jax.lax.fori_loop(0, 4, lambda _, theta: _correct(cost, theta, rank), theta)
        return (theta, heading), (theta, *look(theta))

    start = cost.flat()
    _, (points, costs, residuals) = jax.lax.scan(go, (start, direction.astype(start.dtype)), length=num_steps)
    cost0, residual0 = look(start)
    return Walk(
        jnp.concatenate([start[None], points]),
        jnp.concatenate([cost0[None], costs]),
        jnp.concatenate([residual0[None], residuals]),
    )
