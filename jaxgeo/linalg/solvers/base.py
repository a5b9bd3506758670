"""The interface of every solver of the lift, and its report."""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxgeo._checks import MOST, check_number
from jaxgeo._sums import largest, totals
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.tangents import root

Damping = float | Float[Array, ""] | None


SOLVED, DAMPED, DECOMPOSED, FAILED, CONTRADICTED = range(5)


def check_damping(damping: Any) -> None:
    """Raise unless `damping` is None or a finite number ≥ 0; a traced one passes.

    **Raises:** `ValueError` with the name.
    """
    if damping is not None:
        check_number("damping", damping, least=0, most=MOST)


class LiftInfo(NamedTuple):
    """How a lift went. It holds arrays only, always the same ones, so a scan can carry it.

    - `outcome`: 0 solved; 1 solved with more damping than asked for; 2 solved by an eigendecomposition or singular
        values after a factorisation failed; 3 not solved, because D or the velocity is not finite: the lift is then 0;
        4 solved with rows of D instead of the Kronecker factors of each leaf, because DDᵀ from the factors
        contradicted products with D.
    - `rank`: the numerical rank of D if the solver knows it, otherwise −1.
    - `residual`: |Dθ̇ − v| / |v|, 0 for v = 0, in the parameters' dtype.
    - `mismatch`: how much the assembled DDᵀ and products with D differ: |Gψ − D(Dᵀψ)| / |ψ| for the ψ of this lift, in
        units of √QN mean eigenvalues of DDᵀ + λ. For a correct G it is round-off; it is 0 if no G was assembled or
        compared.
    """

    outcome: Int[Array, ""]
    rank: Int[Array, ""]
    residual: Float[Array, ""]
    mismatch: Float[Array, ""]


class AbstractLiftSolver(eqx.Module):
    """θ̇ = D⁺v: among all θ̇ with the smallest |Dθ̇ − v|, the one with the smallest norm."""

    @abc.abstractmethod
    def factorise(self, jacobian: Jacobian, damping: Damping = None) -> "AbstractFactorised":
        """Prepare lifts with this D: Dᵀ(DDᵀ + λ)⁻¹v with λ = damping · trace(DDᵀ)/QN, or D⁺v without damping."""

    def solve(
        self, jacobian: Jacobian, velocity: Float[Array, "N Q"], damping: Damping = None
    ) -> tuple[PyTree, LiftInfo]:
        """One lift: `factorise`, then `AbstractFactorised.lift`."""
        return self.factorise(jacobian, damping).lift(velocity)


class AbstractFactorised(eqx.Module):
    """D, prepared for lifts."""

    @abc.abstractmethod
    def lift(self, velocity: Float[Array, "N Q"]) -> tuple[PyTree, LiftInfo]:
        """The lift of an output velocity.

        **Returns:** θ̇ as a pytree like the trainable parameters, and how the lift went. θ̇ is always finite: if D or v
        is not, θ̇ is 0 and the outcome is 3.
        """

    @property
    @abc.abstractmethod
    def correct(self) -> Callable[[Float[Array, "N Q"]], PyTree] | None:
        """A function that lifts a correction once through the factorisation, without refinement or report.

        It has the derivative of the lift. It is a module, so that derivative rules see what it holds. None if each lift
        starts from scratch, by iterations or a pass over the samples.
        """


def conclude(
    jacobian: Jacobian,
    solution: PyTree,
    velocity: Float[Array, "N Q"],
    outcome: Int[Array, ""],
    rank: Int[Array, ""],
    mismatch: Float[Array, ""] | None = None,
    missed: Float[Array, "N Q"] | None = None,
    *,
    is_lift: bool = True,
) -> tuple[PyTree, LiftInfo]:
    """The solution with its report; 0 with the outcome 3 if the solution is not finite.

    **Arguments:**

    - `missed`: v − Dθ̇ if it is already known; the reported residual then has no derivative.
    - `is_lift`: pass False if the solution serves more than v, such as a prior, and so may leave more than v.
    """
    finite = is_finite((solution, velocity))
    # Use `where` on both sides: a NaN that is only selected away would return in the gradient.
    solution = jax.tree.map(lambda leaf: jnp.where(finite, leaf, jnp.zeros_like(leaf)), solution)
    missed = velocity - jacobian.mv(solution) if missed is None else jax.lax.stop_gradient(missed)
    if is_lift:
        length, residual = _shortened(velocity, missed)
        solution = jax.tree.map(lambda leaf: length.astype(leaf.dtype) * leaf, solution)
    else:
        residual = relative_norm(missed, velocity)
    outcome = jnp.where(finite, outcome, FAILED).astype(jnp.int32)
    residual = jnp.where(finite & jnp.isfinite(residual), residual, jnp.ones_like(residual))
    mismatch = jnp.zeros_like(residual) if mismatch is None else jax.lax.stop_gradient(mismatch.astype(residual.dtype))
    return solution, LiftInfo(outcome, jnp.where(finite, rank, -1).astype(jnp.int32), residual, mismatch)


def _shortened(velocity: Float[Array, "N Q"], missed: Float[Array, "N Q"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """1 and |v − Dθ̇|/|v|; or, if θ̇ leaves more than v itself, c < 1 such that cθ̇ leaves as little as it can.

    Only round-off makes a lift worse than none, as in float32 if squares of a tiny D underflow in DDᵀ.
    """
    unit = _unit(velocity)
    # Subtracted before the division, whose round-off would count where θ̇ moves little.
    aim, rest, moved = velocity / unit, missed / unit, (velocity - missed) / unit
    whole, left, along, size = totals(aim**2, rest**2, moved * aim, moved**2)
    # Not for v = 0, where the derivative counts. If squares overflow, c is 0.
    longer = size > 2 * along
    best = jnp.where(jnp.isfinite(size), jnp.maximum(along, 0) / jnp.where(longer, size, 1), 0)
    length = jax.lax.stop_gradient(jnp.where(longer, best, 1))
    shortened = jnp.where(length > 0, jnp.maximum(whole - length * (2 * along - length * size), 0), whole)
    return length, _ratio(jnp.where(longer, shortened, left), whole)


def relative_norm(error: Float[Array, "..."], scale: Float[Array, "..."]) -> Float[Array, ""]:
    """|error| / |scale|, or 0 if the scale is 0, without overflow or underflow on the way."""
    unit = _unit(scale)
    missed, whole = totals((error / unit) ** 2, (scale / unit) ** 2)
    return _ratio(missed, whole)


def _unit(array: Float[Array, "..."]) -> Float[Array, ""]:
    """The largest magnitude to divide by, or 1 for an array of zeros."""
    most = largest(array)
    return jnp.where(most > 0, most, jnp.ones_like(most))


def _ratio(square: Float[Array, ""], whole: Float[Array, ""]) -> Float[Array, ""]:
    """√(`square` / `whole`), or 0 for `whole` = 0."""
    return jnp.where(whole == 0, 0, root(square) / jnp.where(whole == 0, 1, root(whole)))


def is_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether every number in `tree` is finite."""
    # The largest of some numbers is NaN if one of them is.
    return jnp.all(jnp.stack([jnp.isfinite(largest(leaf)) for leaf in jax.tree.leaves(tree)]))
