"""What every solver of the lift has in common: its interface and its report."""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxgeo._checks import MOST, check_number
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.tangents import norm

Damping = float | Float[Array, ""] | None


SOLVED, DAMPED, DECOMPOSED, FAILED, CONTRADICTED = range(5)


def check_damping(damping: Any) -> None:
    """Raise if there is damping that is no number, negative or not finite; a traced one is let through.

    **Raises:** `ValueError` with the name.
    """
    if damping is not None:
        check_number("damping", damping, least=0, most=MOST)


class LiftInfo(NamedTuple):
    """How a lift went. Arrays only and always the same ones, so that it can be carried through a scan.

    - `outcome`: 0 solved; 1 solved again with damping; 2 by an eigendecomposition or singular values after a
        factorisation failed; 3 not solved, as D or the velocity is not finite: the lift is then 0; 4 solved with rows
        of D in place of the Kronecker factors of each leaf, as DDᵀ from those contradicted products with D.
    - `rank`: numerical rank of D where the solver knows it, else −1.
    - `residual`: |Dθ̇ − v| / |v|, 0 for v = 0, in the parameters' dtype.
    - `mismatch`: how far DDᵀ, as it was assembled, is off products with D: |Gψ − D(Dᵀψ)| / |ψ| for the ψ of this lift,
        in units of √QN mean eigenvalues of DDᵀ + λ. A right G leaves round-off; 0 where no G was assembled or it was
        not compared.
    """

    outcome: Int[Array, ""]
    rank: Int[Array, ""]
    residual: Float[Array, ""]
    mismatch: Float[Array, ""]


class AbstractLiftSolver(eqx.Module):
    """θ̇ = D⁺v: of the θ̇ for which |Dθ̇ − v| is smallest, the one of smallest norm."""

    @abc.abstractmethod
    def factorise(self, jacobian: Jacobian, damping: Damping = None) -> "AbstractFactorised":
        """What all lifts through this D share: θ̇ = Dᵀ(DDᵀ + λ)⁻¹v, λ = damping · trace(DDᵀ)/QN; D⁺v without damping."""

    def solve(
        self, jacobian: Jacobian, velocity: Float[Array, "N Q"], damping: Damping = None
    ) -> tuple[PyTree, LiftInfo]:
        """One lift: `factorise`, then `AbstractFactorised.lift`."""
        return self.factorise(jacobian, damping).lift(velocity)


class AbstractFactorised(eqx.Module):
    """D, made ready for lifts."""

    @abc.abstractmethod
    def lift(self, velocity: Float[Array, "N Q"]) -> tuple[PyTree, LiftInfo]:
        """The lift of an output velocity.

        **Returns:** θ̇ as a pytree like the trainable parameters, and how it went. θ̇ is finite always: where
        D or v is not, it is 0 and the outcome 3.
        """

    @property
    @abc.abstractmethod
    def correct(self) -> Callable[[Float[Array, "N Q"]], PyTree] | None:
        """Lifts what is missing somewhere, once through the factorisation: without refinement and report, and with the
        derivative of the lift. A module, so that rules for derivatives can see what it holds.

        None where each lift starts anew, by iterations or a pass over the samples.
        """


def conclude(
    jacobian: Jacobian,
    solution: PyTree,
    velocity: Float[Array, "N Q"],
    outcome: Int[Array, ""],
    rank: Int[Array, ""],
    mismatch: Float[Array, ""] | None = None,
    missed: Float[Array, "N Q"] | None = None,
) -> tuple[PyTree, LiftInfo]:
    """The solution with its report; 0 and the outcome 3 in place of a solution that is not finite.

    **Arguments:**

    - `missed`: v − Dθ̇ where it is known already; the reported residual then has no derivative.
    """
    finite = is_finite((solution, velocity))
    # `where` on both sides: a NaN that is only selected away comes back in the gradient.
    solution = jax.tree.map(lambda leaf: jnp.where(finite, leaf, jnp.zeros_like(leaf)), solution)
    if missed is None:
        residual = relative_norm(jacobian.mv(solution) - velocity, velocity)
    else:
        residual = jax.lax.stop_gradient(relative_norm(missed, velocity))
    outcome = jnp.where(finite, outcome, FAILED).astype(jnp.int32)
    residual = jnp.where(finite & jnp.isfinite(residual), residual, jnp.ones_like(residual))
    mismatch = jnp.zeros_like(residual) if mismatch is None else jax.lax.stop_gradient(mismatch.astype(residual.dtype))
    return solution, LiftInfo(outcome, jnp.where(finite, rank, -1).astype(jnp.int32), residual, mismatch)


def relative_norm(error: Float[Array, "..."], scale: Float[Array, "..."]) -> Float[Array, ""]:
    """|error| / |scale|, and 0 where the scale is 0; nothing overflows or underflows on the way."""
    largest = jnp.max(jnp.abs(scale))
    unit = jnp.where(largest > 0, largest, jnp.ones_like(largest))
    size = norm(scale / unit)
    ratio = norm(error / unit) / jnp.where(largest == 0, jnp.ones_like(size), size)
    return jnp.where(largest == 0, jnp.zeros_like(ratio), ratio)


def is_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether every number in `tree` is finite."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
