"""The lift by a factorisation of the dense D, whose condition number is not squared."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.precision import cond_any, in_dtype
from jaxgeo.linalg.solvers.base import DECOMPOSED, SOLVED, AbstractLiftSolver, Damping, LiftInfo
from jaxgeo.linalg.solvers.cutoff import AbstractCutoff, HardCutoff, SmoothCutoff
from jaxgeo.linalg.solvers.factor import Factor, extreme_eigenvalues, spectral_factor
from jaxgeo.linalg.solvers.sides import data_floor, finish_columns, finish_rows, freeze, gram_dtype, relative_shift


class QR(AbstractLiftSolver):
    """D⁺v = (DᵀD)⁻¹Dᵀv by a QR factorisation of D (of Dᵀ where K > QN). For D of full rank.

    Paper: (5.2)

    The error is cond(D)·eps, without the squared condition number of the normal equations. The condition number
    is measured from R; where D has lost rank, singular values of R and a smooth cut-off take over.

    **Arguments:**

    - `cutoff`: of the singular values, where they are needed.
    - `dtype`: in which to factor; by default float64, and with damping the parameters' dtype.
    """

    cutoff: AbstractCutoff = SmoothCutoff()
    dtype: jnp.dtype | None = eqx.field(static=True, default=None)

    def solve(
        self, jacobian: Jacobian, velocity: Float[Array, "N Q"], damping: Damping = None
    ) -> tuple[PyTree, LiftInfo]:
        return _solve(jacobian, velocity, damping, self.cutoff, self.dtype, triangular=True)


class SVD(AbstractLiftSolver):
    """D⁺v by a singular value decomposition of D. For D of any rank.

    Paper: (4.1)–(4.3)

    **Arguments:**

    - `cutoff`: which singular values count: `HardCutoff()` for diagnostics, `SmoothCutoff()` for flows.
    - `dtype`: as for `QR`.
    """

    cutoff: AbstractCutoff = HardCutoff()
    dtype: jnp.dtype | None = eqx.field(static=True, default=None)

    def solve(
        self, jacobian: Jacobian, velocity: Float[Array, "N Q"], damping: Damping = None
    ) -> tuple[PyTree, LiftInfo]:
        return _solve(jacobian, velocity, damping, self.cutoff, self.dtype, triangular=False)


def _solve(
    jacobian: Jacobian,
    velocity: Float[Array, "N Q"],
    damping: Damping,
    cutoff: AbstractCutoff,
    choice: jnp.dtype | None,
    triangular: bool,
) -> tuple[PyTree, LiftInfo]:
    rows = jacobian.in_size() >= jacobian.out_size()
    still, aim, shift = freeze((jacobian, velocity, relative_shift(jacobian, damping, rows)))
    factor, value = dense_lift(still, aim, shift, cutoff, gram_dtype(jacobian, damping, choice), triangular)
    finish = finish_rows if rows else finish_columns
    return finish(jacobian, velocity, damping, factor, value)


def dense_lift(
    jacobian: Jacobian,
    velocity: Float[Array, "N Q"],
    shift: Float[Array, ""] | None,
    cutoff: AbstractCutoff,
    dtype: jnp.dtype,
    triangular: bool,
) -> tuple[Factor, PyTree]:
    """The lift by the dense D, and the factor of the Gram matrix on the smaller side that comes with it.

    **Arguments:**

    - `shift`: μ in units of the mean eigenvalue on that side; None for D⁺v.
    - `triangular`: try the triangular factor before singular values.
    """
    # The network is traced outside: its constants must not turn into float64.
    matrix = jacobian.as_matrix()
    factorise = _Factorise(cutoff, data_floor(jacobian), dtype, triangular)
    factor, flat = in_dtype(factorise, dtype)(matrix, velocity.reshape(-1), shift)
    return factor, jacobian.unravel(flat)


class _Factorise(eqx.Module):
    cutoff: AbstractCutoff
    floor: float = eqx.field(static=True)
    dtype: jnp.dtype = eqx.field(static=True)
    triangular: bool = eqx.field(static=True)

    def __call__(
        self, matrix: Float[Array, "n K"], rhs: Float[Array, " n"], shift: Float[Array, ""] | None
    ) -> tuple[Factor, Float[Array, " K"]]:
        wide = matrix.shape[1] >= matrix.shape[0]
        tall = (matrix.T if wide else matrix).astype(self.dtype)
        length, side = tall.shape
        # In units of the largest entry, so that squares neither overflow nor underflow.
        largest = jnp.max(jnp.abs(tall))
        sound = jnp.isfinite(largest)
        unit = jnp.where(sound & (largest > 0), largest, 1)
        tall = jnp.where(sound, tall / unit, 0)
        mean = jnp.sum(tall**2) / side
        root = jnp.where(mean > 0, jnp.sqrt(mean), 1)
        tall, root = tall / root, root * unit
        if shift is not None:
            corner = jnp.sqrt(shift.astype(self.dtype)) * jnp.eye(side, dtype=self.dtype)
            tall = jnp.concatenate([tall, corner])
        q, r = jnp.linalg.qr(tall)
        parts = q[:length], r, rhs.astype(self.dtype), root, (root**2).astype(rhs.dtype)
        outcome = DECOMPOSED if self.triangular else SOLVED
        decomposed = _SingularValues(self.cutoff, self.floor, wide, shift is not None, outcome)
        if self.triangular:
            usual = _triangle(*parts, self.cutoff, self.floor, wide, shift is not None)
            factor, solution = cond_any(~usual[0].trusted, _Rescue(decomposed), lambda usual, _: usual, usual, parts)
        else:
            factor, solution = decomposed(*parts)
        return factor, solution.astype(rhs.dtype)


def _triangle(
    q: Float[Array, "length side"],
    r: Float[Array, "side side"],
    rhs: Float[Array, " n"],
    root: Float[Array, ""],
    scale: Float[Array, ""],
    cutoff: AbstractCutoff,
    floor: float,
    wide: bool,
    damped: bool,
) -> tuple[Factor, Float[Array, " K"]]:
    """The lift and the factor from D = √t · RᵀQᵀ (wide) or √t · QR, for R well enough conditioned."""
    side = len(r)
    smallest, largest = extreme_eigenvalues(r.T)
    full = side * float(jnp.finfo(r.dtype).eps) if damped else 2 * cutoff.full(floor)
    trusted = jnp.isfinite(smallest) & (smallest > full**2 * largest)
    ones = jnp.ones(side, r.dtype)
    rank = jnp.asarray(-1 if damped else side, jnp.int32)
    factor = Factor(r.T, ones, ones, jnp.zeros((), bool), scale, jnp.asarray(SOLVED, jnp.int32), rank, trusted)
    if wide:
        solution = q @ jax.scipy.linalg.solve_triangular(r, rhs, trans="T")
    else:
        solution = jax.scipy.linalg.solve_triangular(r, q.T @ rhs)
    return factor, solution / root


class _SingularValues(eqx.Module):
    """The lift and the factor from the singular values of R, filtered."""

    cutoff: AbstractCutoff
    floor: float = eqx.field(static=True)
    wide: bool = eqx.field(static=True)
    damped: bool = eqx.field(static=True)
    outcome: int = eqx.field(static=True)

    def __call__(
        self,
        q: Float[Array, "length side"],
        r: Float[Array, "side side"],
        rhs: Float[Array, " n"],
        root: Float[Array, ""],
        scale: Float[Array, ""],
    ) -> tuple[Factor, Float[Array, " K"]]:
        left, values, right = jnp.linalg.svd(r)
        sound = jnp.isfinite(jnp.sum(values)) & jnp.isfinite(jnp.sum(right)) & jnp.isfinite(jnp.sum(left))
        left, values, right = (jnp.where(sound, array, 0) for array in (left, values, right))
        outcome = jnp.asarray(self.outcome, jnp.int32)
        factor = spectral_factor(right.T, values, jnp.zeros_like(root), scale, self.cutoff, self.floor, outcome)
        if self.damped:
            # Damping is part of these values already; they must only not be divided by as 0.
            least = (self.floor * values[0]) ** 2
            weights = 1 / jnp.maximum(values**2, jnp.where(least > 0, least, 1))
            factor = factor._replace(weights=weights, share=jnp.ones_like(weights), rank=jnp.full_like(outcome, -1))
        gain = factor.weights * values
        solution = q @ (left @ (gain * (right @ rhs))) if self.wide else right.T @ (gain * (left.T @ (q.T @ rhs)))
        return factor, solution / root


class _Rescue(eqx.Module):
    """By singular values, whatever was found before."""

    decomposed: _SingularValues

    def __call__(
        self, usual: tuple[Factor, Float[Array, " K"]], parts: tuple[Array, ...]
    ) -> tuple[Factor, Float[Array, " K"]]:
        return self.decomposed(*parts)
