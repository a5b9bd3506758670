"""The lift by a factorisation of the dense D, whose condition number is not squared."""

import enum
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.precision import cond_any, in_dtype
from jaxgeo.linalg.refinement import accumulated_eps
from jaxgeo.linalg.solvers.base import DECOMPOSED, SOLVED, AbstractLiftSolver, Damping, LiftInfo
from jaxgeo.linalg.solvers.cutoff import AbstractCutoff, HardCutoff, SmoothCutoff, check_factoring
from jaxgeo.linalg.solvers.factor import Factor, spectral_factor, triangular_factor
from jaxgeo.linalg.solvers.sides import data_floor, finish_columns, finish_rows, gram_dtype, relative_shift
from jaxgeo.linalg.solvers.triangular import cholesky_solve, upper_cholesky
from jaxgeo.linalg.tangents import freeze


class Attempt(enum.Enum):
    """What is tried before singular values."""

    NOTHING = enum.auto()
    QR = enum.auto()
    CHOLESKY = enum.auto()


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

    def __check_init__(self):
        check_factoring(self.cutoff, "dtype", self.dtype)

    def solve(
        self, jacobian: Jacobian, velocity: Float[Array, "N Q"], damping: Damping = None
    ) -> tuple[PyTree, LiftInfo]:
        return _solve(jacobian, velocity, damping, self.cutoff, self.dtype, Attempt.QR)


class DenseCholesky(AbstractLiftSolver):
    """D⁺v by a Cholesky factorisation of the smaller of DDᵀ and DᵀD, with the dense D at hand. For D of full rank.

    Paper: (1.23), (5.2)

    Several times cheaper than `QR` where D is far from square. All of it, the refinement and the product with Dᵀ
    too, is done in float64 without damping, so that float32 parameters get their velocity to round-off up to
    cond(D) about 1e6, which products with D in float32 cannot give. Beyond that, singular values take over.

    **Arguments:**

    - `cutoff`, `dtype`: as for `QR`.
    """

    cutoff: AbstractCutoff = SmoothCutoff()
    dtype: jnp.dtype | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        check_factoring(self.cutoff, "dtype", self.dtype)

    def solve(
        self, jacobian: Jacobian, velocity: Float[Array, "N Q"], damping: Damping = None
    ) -> tuple[PyTree, LiftInfo]:
        return _solve(jacobian, velocity, damping, self.cutoff, self.dtype, Attempt.CHOLESKY)


class SVD(AbstractLiftSolver):
    """D⁺v by a singular value decomposition of D. For D of any rank.

    Paper: (4.1)–(4.3)

    **Arguments:**

    - `cutoff`: which singular values count: `HardCutoff()` for diagnostics, `SmoothCutoff()` for flows.
    - `dtype`: as for `QR`.
    """

    cutoff: AbstractCutoff = HardCutoff()
    dtype: jnp.dtype | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        check_factoring(self.cutoff, "dtype", self.dtype)

    def solve(
        self, jacobian: Jacobian, velocity: Float[Array, "N Q"], damping: Damping = None
    ) -> tuple[PyTree, LiftInfo]:
        return _solve(jacobian, velocity, damping, self.cutoff, self.dtype, Attempt.NOTHING)


def _solve(
    jacobian: Jacobian,
    velocity: Float[Array, "N Q"],
    damping: Damping,
    cutoff: AbstractCutoff,
    choice: jnp.dtype | None,
    attempt: Attempt,
) -> tuple[PyTree, LiftInfo]:
    rows = jacobian.in_size() >= jacobian.out_size()
    still, aim, shift = freeze((jacobian, velocity, relative_shift(jacobian, damping, rows)))
    factor, value = dense_lift(still, aim, shift, cutoff, gram_dtype(jacobian, damping, choice), attempt)
    finish = finish_rows if rows else finish_columns
    return finish(jacobian, velocity, damping, factor, value)


def dense_lift(
    jacobian: Jacobian,
    velocity: Float[Array, "N Q"],
    shift: Float[Array, ""] | None,
    cutoff: AbstractCutoff,
    dtype: jnp.dtype,
    attempt: Attempt,
) -> tuple[Factor, PyTree]:
    """The lift by the dense D, and the factor of the Gram matrix on the smaller side that comes with it.

    **Arguments:**

    - `shift`: μ in units of the mean eigenvalue on that side; None for D⁺v.
    - `attempt`: what to try before singular values.
    """
    # The network is traced outside: its constants must not turn into float64.
    matrix = jacobian.as_matrix()
    factorise = _Factorise(cutoff, data_floor(jacobian), dtype, attempt)
    factor, flat = in_dtype(factorise, dtype)(matrix, velocity.reshape(-1), shift)
    return factor, jacobian.unravel(flat)


class _Factorise(eqx.Module):
    cutoff: AbstractCutoff
    floor: float = eqx.field(static=True)
    dtype: jnp.dtype = eqx.field(static=True)
    attempt: Attempt = eqx.field(static=True)

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
        damped = shift is not None
        shift = jnp.zeros((), self.dtype) if shift is None else shift.astype(self.dtype)
        parts = _Parts(tall, rhs.astype(self.dtype), shift, root, root.astype(rhs.dtype))
        outcome = SOLVED if self.attempt is Attempt.NOTHING else DECOMPOSED
        decomposed = _SingularValues(self.cutoff, self.floor, wide, damped, outcome)
        if self.attempt is Attempt.NOTHING:
            factor, solution = decomposed((), parts)
        else:
            attempt = _triangle if self.attempt is Attempt.QR else _cholesky
            usual = attempt(parts, self.cutoff, self.floor, wide, damped)
            factor, solution = cond_any(~usual[0].trusted, decomposed, _keep, usual, parts)
        return factor, jnp.where(sound, solution, jnp.nan).astype(rhs.dtype)


class _Parts(NamedTuple):
    """The taller of D and Dᵀ over √t, v, μ, √t, and √t in the dtype of the result."""

    tall: Float[Array, "length side"]
    rhs: Float[Array, " n"]
    shift: Float[Array, ""]
    root: Float[Array, ""]
    own_root: Float[Array, ""]

    def qr(self, damped: bool) -> tuple[Float[Array, "length side"], Float[Array, "side side"]]:
        """Q and R of the tall matrix, with √μ below it where there is damping."""
        length, side = self.tall.shape
        if not damped:
            return jnp.linalg.qr(self.tall)
        corner = jnp.sqrt(self.shift) * jnp.eye(side, dtype=self.tall.dtype)
        q, r = jnp.linalg.qr(jnp.concatenate([self.tall, corner]))
        return q[:length], r


def _keep(usual: tuple[Factor, Array], parts: _Parts) -> tuple[Factor, Array]:
    return usual


def _triangle(
    parts: _Parts, cutoff: AbstractCutoff, floor: float, wide: bool, damped: bool
) -> tuple[Factor, Float[Array, " K"]]:
    q, r = parts.qr(damped)
    eps = float(jnp.finfo(r.dtype).eps)
    least = (len(r) * eps if damped else 2 * cutoff.full(floor)) ** 2
    factor = triangular_factor(r, least, parts.own_root, SOLVED, parts.shift if damped else None)
    if wide:
        solution = q @ jax.scipy.linalg.solve_triangular(r, parts.rhs, trans="T")
    else:
        solution = jax.scipy.linalg.solve_triangular(r, q.T @ parts.rhs)
    return factor, solution / parts.root


def _cholesky(
    parts: _Parts, cutoff: AbstractCutoff, floor: float, wide: bool, damped: bool
) -> tuple[Factor, Float[Array, " K"]]:
    tall, rhs = parts.tall, parts.rhs
    eps, side = float(jnp.finfo(tall.dtype).eps), tall.shape[1]
    gram = jnp.matmul(tall.T, tall, precision=jax.lax.Precision.HIGHEST)
    upper = upper_cholesky(gram + parts.shift * jnp.eye(side, dtype=tall.dtype))
    # Refinement still makes a digit or two each time at cond(DDᵀ) = 1e-2/(eps·√side), and no more beyond.
    least = accumulated_eps(side, tall.dtype) if damped else max(4 * cutoff.full(floor) ** 2, 400 * eps * side**0.5)
    factor = triangular_factor(upper, least, parts.own_root, SOLVED, parts.shift if damped else None)
    solution = jnp.zeros(tall.shape[0] if wide else side, tall.dtype)
    psi = jnp.zeros_like(rhs)
    for _ in range(4):
        if wide:
            defect = rhs - tall.T @ solution - parts.shift * psi
            step = cholesky_solve(upper, defect)
            psi, solution = psi + step, solution + tall @ step
        else:
            defect = tall.T @ (rhs - tall @ solution) - parts.shift * solution
            solution = solution + cholesky_solve(upper, defect)
    return factor, solution / parts.root


class _SingularValues(eqx.Module):
    """The lift and the factor from the singular values of R, filtered."""

    cutoff: AbstractCutoff
    floor: float = eqx.field(static=True)
    wide: bool = eqx.field(static=True)
    damped: bool = eqx.field(static=True)
    outcome: int = eqx.field(static=True)

    def __call__(self, usual: PyTree, parts: _Parts) -> tuple[Factor, Float[Array, " K"]]:
        q, r = parts.qr(self.damped)
        rhs, root, own_root = parts.rhs, parts.root, parts.own_root
        left, values, right = jnp.linalg.svd(r)
        sound = jnp.isfinite(jnp.sum(values)) & jnp.isfinite(jnp.sum(right)) & jnp.isfinite(jnp.sum(left))
        left, values, right = (jnp.where(sound, array, 0) for array in (left, values, right))
        outcome = jnp.asarray(self.outcome, jnp.int32)
        factor = spectral_factor(right.T, values, jnp.zeros_like(root), own_root, self.cutoff, self.floor, outcome)
        if self.damped:
            # Damping is part of these values already; they must only not be divided by as 0.
            least = (self.floor * values[0]) ** 2
            weights = 1 / jnp.maximum(values**2, jnp.where(least > 0, least, 1))
            factor = factor._replace(weights=weights, share=jnp.ones_like(weights), rank=jnp.full_like(outcome, -1))
        gain = factor.weights * values
        solution = q @ (left @ (gain * (right @ rhs))) if self.wide else right.T @ (gain * (left.T @ (q.T @ rhs)))
        return factor, solution / root
