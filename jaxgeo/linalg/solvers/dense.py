"""What the solvers by the dense D have in common: D in units of its size, singular values where all else fails."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.precision import cond_any, in_dtype
from jaxgeo.linalg.solvers.base import DECOMPOSED, SOLVED, Damping, LiftInfo
from jaxgeo.linalg.solvers.cutoff import AbstractCutoff
from jaxgeo.linalg.solvers.factorisation import Factorisation, spectral_factor
from jaxgeo.linalg.solvers.sides import finish_columns, finish_rows, gram_dtype, relative_shift
from jaxgeo.linalg.spectra import data_floor
from jaxgeo.linalg.tangents import freeze


class DenseParts(NamedTuple):
    """The taller of D and Dᵀ over √t, v, μ, √t, and √t in the dtype of the result."""

    tall: Float[Array, "length side"]
    rhs: Float[Array, " n"]
    shift: Float[Array, ""]
    sqrt_mean: Float[Array, ""]
    own_sqrt_mean: Float[Array, ""]

    def qr(self, damped: bool) -> tuple[Float[Array, "length side"], Float[Array, "side side"]]:
        """Q and R of the tall matrix, with √μ below it where there is damping."""
        length, side = self.tall.shape
        if not damped:
            return jnp.linalg.qr(self.tall)
        corner = jnp.sqrt(self.shift) * jnp.eye(side, dtype=self.tall.dtype)
        q, r = jnp.linalg.qr(jnp.concatenate([self.tall, corner]))
        return q[:length], r


# (parts, cut-off, floor, whether D is wide, whether it is damped) → the factor, and the lift through it.
Factoring = Callable[[DenseParts, AbstractCutoff, float, bool, bool], tuple[Factorisation, Float[Array, " K"]]]


def solve_dense(
    jacobian: Jacobian,
    velocity: Float[Array, "N Q"],
    damping: Damping,
    cutoff: AbstractCutoff,
    choice: jnp.dtype | None,
    factoring: Factoring | None = None,
) -> tuple[PyTree, LiftInfo]:
    """The lift by the dense D with its report, on the smaller side.

    **Arguments:**

    - `choice`: the dtype to factor in, where the user chose one.
    - `factoring`: what to try before singular values.
    """
    rows = jacobian.in_size() >= jacobian.out_size()
    still, aim, shift = freeze((jacobian, velocity, relative_shift(jacobian, damping, rows)))
    factor, value = dense_lift(still, aim, shift, cutoff, gram_dtype(jacobian, damping, choice), factoring)
    finish = finish_rows if rows else finish_columns
    return finish(jacobian, velocity, damping, factor, value)


def dense_lift(
    jacobian: Jacobian,
    velocity: Float[Array, "N Q"],
    shift: Float[Array, ""] | None,
    cutoff: AbstractCutoff,
    dtype: jnp.dtype,
    factoring: Factoring | None = None,
) -> tuple[Factorisation, PyTree]:
    """The lift by the dense D, and the factor of the Gram matrix on the smaller side that comes with it.

    **Arguments:**

    - `shift`: μ in units of the mean eigenvalue on that side; None for D⁺v.
    - `factoring`: what to try before singular values.
    """
    # The network is traced outside: its constants must not turn into float64.
    matrix = jacobian.as_matrix()
    factorise = _Factorise(cutoff, data_floor(jacobian), dtype, factoring)
    factor, flat = in_dtype(factorise, dtype)(matrix, velocity.reshape(-1), shift)
    return factor, jacobian.unravel(flat)


class _Factorise(eqx.Module):
    cutoff: AbstractCutoff
    floor: float = eqx.field(static=True)
    dtype: jnp.dtype = eqx.field(static=True)
    factoring: Factoring | None = eqx.field(static=True)

    def __call__(
        self, matrix: Float[Array, "n K"], rhs: Float[Array, " n"], shift: Float[Array, ""] | None
    ) -> tuple[Factorisation, Float[Array, " K"]]:
        wide = matrix.shape[1] >= matrix.shape[0]
        tall = (matrix.T if wide else matrix).astype(self.dtype)
        length, side = tall.shape
        # In units of the largest entry, so that squares neither overflow nor underflow.
        largest = jnp.max(jnp.abs(tall))
        sound = jnp.isfinite(largest)
        unit = jnp.where(sound & (largest > 0), largest, 1)
        tall = jnp.where(sound, tall / unit, 0)
        mean = jnp.sum(tall**2) / side
        sqrt_mean = jnp.where(mean > 0, jnp.sqrt(mean), 1)
        tall, sqrt_mean = tall / sqrt_mean, sqrt_mean * unit
        damped = shift is not None
        shift = jnp.zeros((), self.dtype) if shift is None else shift.astype(self.dtype)
        parts = DenseParts(tall, rhs.astype(self.dtype), shift, sqrt_mean, sqrt_mean.astype(rhs.dtype))
        outcome = SOLVED if self.factoring is None else DECOMPOSED
        decomposed = _SingularValues(self.cutoff, self.floor, wide, damped, outcome)
        if self.factoring is None:
            factor, solution = decomposed((), parts)
        else:
            usual = self.factoring(parts, self.cutoff, self.floor, wide, damped)
            factor, solution = cond_any(~usual[0].trusted, decomposed, _keep, usual, parts)
        return factor, jnp.where(sound, solution, jnp.nan).astype(rhs.dtype)


def _keep(usual: tuple[Factorisation, Array], parts: DenseParts) -> tuple[Factorisation, Array]:
    return usual


class _SingularValues(eqx.Module):
    """The lift and the factor from the singular values of R, filtered."""

    cutoff: AbstractCutoff
    floor: float = eqx.field(static=True)
    wide: bool = eqx.field(static=True)
    damped: bool = eqx.field(static=True)
    outcome: int = eqx.field(static=True)

    def __call__(self, usual: PyTree, parts: DenseParts) -> tuple[Factorisation, Float[Array, " K"]]:
        q, r = parts.qr(self.damped)
        rhs, sqrt_mean, own_sqrt_mean = parts.rhs, parts.sqrt_mean, parts.own_sqrt_mean
        left, values, right = jnp.linalg.svd(r)
        sound = jnp.isfinite(jnp.sum(values)) & jnp.isfinite(jnp.sum(right)) & jnp.isfinite(jnp.sum(left))
        left, values, right = (jnp.where(sound, array, 0) for array in (left, values, right))
        outcome = jnp.asarray(self.outcome, jnp.int32)
        factor = spectral_factor(
            right.T, values, jnp.zeros_like(sqrt_mean), own_sqrt_mean, self.cutoff, self.floor, outcome
        )
        if self.damped:
            # Damping is part of these values already; they must only not be divided by as 0.
            least = (self.floor * values[0]) ** 2
            weights = 1 / jnp.maximum(values**2, jnp.where(least > 0, least, 1))
            factor = factor._replace(weights=weights, share=jnp.ones_like(weights), rank=jnp.full_like(outcome, -1))
        gain = factor.weights * values
        solution = q @ (left @ (gain * (right @ rhs))) if self.wide else right.T @ (gain * (left.T @ (q.T @ rhs)))
        return factor, solution / sqrt_mean
