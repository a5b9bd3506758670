"""What every solver of the lift has in common: its interface, its report, and the Gram matrix."""

import abc
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jaxgeo.linalg.jacobian import Jacobian

Damping = float | Float[Array, ""] | None


class LiftInfo(NamedTuple):
    """How a lift went. Arrays only and always the same ones, so that it can be carried through a scan.

    - `outcome`: 0 solved; 1 solved again with damping; 2 by an eigendecomposition or least squares after a
        factorisation failed; 3 not solved, the velocity is not finite.
    - `rank`: numerical rank of D where the solver knows it, else −1.
    - `residual`: |Dθ̇ − v| / |v|, 0 for v = 0, in the parameters' dtype.
    """

    outcome: Int[Array, ""]
    rank: Int[Array, ""]
    residual: Float[Array, ""]


class AbstractLiftSolver(eqx.Module):
    """θ̇ = D⁺v: of the θ̇ for which |Dθ̇ − v| is smallest, the one of smallest norm."""

    @abc.abstractmethod
    def solve(
        self, jacobian: Jacobian, velocity: Float[Array, "N Q"], damping: Damping = None
    ) -> tuple[PyTree, LiftInfo]:
        """θ̇ = Dᵀ(DDᵀ + λ)⁻¹v with λ = damping · trace(DDᵀ)/QN, and D⁺v without damping.

        **Returns:** θ̇ as a pytree like the trainable parameters, and how it went.
        """


def gram_matrix(jacobian: Jacobian, dtype: jnp.dtype) -> Float[Array, "QN QN"]:
    """G = DDᵀ, formed in `dtype` from factors in the parameters' dtype."""
    matrix = jacobian.as_matrix().astype(dtype)
    return jax.lax.dot_general(matrix, matrix, (((1,), (1,)), ((), ())), precision=jax.lax.Precision.HIGHEST)


def relative_residual(jacobian: Jacobian, solution: PyTree, velocity: Float[Array, "N Q"]) -> Float[Array, ""]:
    """|Dθ̇ − v| / |v|, and 0 for v = 0."""
    return relative_norm(jacobian.mv(solution) - velocity, velocity)


def relative_norm(error: Float[Array, "..."], scale: Float[Array, "..."]) -> Float[Array, ""]:
    """|error| / |scale|, and 0 where the scale is 0; nothing overflows or underflows on the way."""
    largest = jnp.max(jnp.abs(scale))
    unit = jnp.where(largest > 0, largest, 1)
    ratio = jnp.linalg.norm(jnp.ravel(error / unit)) / jnp.linalg.norm(jnp.ravel(scale / unit))
    return jnp.where(largest == 0, jnp.zeros_like(ratio), ratio)


def is_finite(tree: PyTree) -> Array:
    """Whether every number in `tree` is finite."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
