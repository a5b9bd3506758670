"""A symmetric positive semidefinite matrix, factored so that a failure is noticed and answered in the program."""

import functools
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxgeo.linalg.precision import cond_any, in_dtype
from jaxgeo.linalg.refinement import accumulated_eps
from jaxgeo.linalg.solvers.base import DAMPED, DECOMPOSED, SOLVED
from jaxgeo.linalg.solvers.cutoff import AbstractCutoff
from jaxgeo.linalg.triangular import cholesky_solve, extreme_eigenvalues, upper_cholesky


class Factorisation(NamedTuple):
    """(A/t + μ)⁻¹, or the filtered pseudo-inverse of A/t, with t = trace(A)/n: what it takes to apply it.

    - `matrix`: the upper Cholesky factor of A/t + μ, or eigenvectors of A as columns.
    - `weights`: with eigenvectors, the eigenvalues of the inverse; `share`: those of the projector on what is kept, and
        with a Cholesky factor 0 for rows of A that are 0, which it leaves out.
    - `spectral`: which of the two it is.
    - `sqrt_mean`: √t, or 1 for A = 0, in the parameters' dtype, in which t itself may underflow. Divide before and
        after a product with D: XLA makes one division of two that follow one another.
    - `outcome`, `rank`: as in `LiftInfo`.
    - `trusted`: whether A/t + μ is well enough conditioned for this factor.
    - `shift`: μ, with what was added to it after a failure.
    """

    matrix: Float[Array, "n n"]
    weights: Float[Array, " n"]
    share: Float[Array, " n"]
    spectral: Bool[Array, ""]
    sqrt_mean: Float[Array, ""]
    outcome: Int[Array, ""]
    rank: Int[Array, ""]
    trusted: Bool[Array, ""]
    shift: Float[Array, ""]

    def apply(self, rhs: PyTree) -> PyTree:
        """The inverse times `rhs`, a pytree of n numbers."""
        flat, unravel = ravel_pytree(rhs)
        return unravel(in_dtype(_apply, self.matrix.dtype)(self, flat))

    def complement(self, rhs: PyTree) -> PyTree:
        """The part of `rhs` in the directions left out."""
        flat, unravel = ravel_pytree(rhs)
        return unravel(in_dtype(_complement, self.matrix.dtype)(self, flat))

    def is_sharp(self) -> Bool[Array, ""]:
        """Whether each direction is kept or left out in full, so that a defect can be solved for."""
        return in_dtype(_is_sharp, self.matrix.dtype)(self)


def _is_sharp(factor: Factorisation) -> Bool[Array, ""]:
    return jnp.all((factor.share == 0) | (factor.share == 1))


def _apply(factor: Factorisation, rhs: Float[Array, " n"]) -> Float[Array, " n"]:
    def spectral(factor: Factorisation, rhs: Array) -> Array:
        return factor.matrix @ (factor.weights * (factor.matrix.T @ rhs))

    def triangular(factor: Factorisation, rhs: Array) -> Array:
        return factor.share * cholesky_solve(factor.matrix, factor.share * rhs)

    vector = rhs.astype(factor.matrix.dtype)
    return jax.lax.cond(factor.spectral, spectral, triangular, factor, vector).astype(rhs.dtype)


def _complement(factor: Factorisation, rhs: Float[Array, " n"]) -> Float[Array, " n"]:
    def spectral(factor: Factorisation, rest: Array) -> Array:
        for _ in range(2):
            # Once more, for the round-off along what is kept, which the inverse would blow up again.
            rest = rest - factor.matrix @ (factor.share * (factor.matrix.T @ rest))
        return rest

    def triangular(factor: Factorisation, rest: Array) -> Array:
        return rest - factor.share * rest

    vector = rhs.astype(factor.matrix.dtype)
    return jax.lax.cond(factor.spectral, spectral, triangular, factor, vector).astype(rhs.dtype)


class Scaled(NamedTuple):
    """A and t kept apart, so that the division fuses into the next read of A; 0 where A is not finite."""

    gram: Float[Array, "n n"]
    scale: Float[Array, ""]
    finite: Bool[Array, ""]

    def matrix(self) -> Float[Array, "n n"]:
        return jnp.where(self.finite, self.gram / self.scale, 0)


class Factorise(eqx.Module):
    """Cholesky factorisation of A/t + μ, its condition number bounded or measured, and what answers a failure.

    With damping (μ given), a factorisation that fails is done once more with more of it, and if that fails too
    by eigenvalues. Without, eigenvalues and the cut-off answer at once: damping under-solves directions
    that can be reached and amplifies those that cannot. Only where n exceeds `max_decomposition`, so that
    eigenvalues take too long, is the answer a little damping.

    **Arguments:**

    - `cutoff`: which singular values √λ count when eigenvalues are used.
    - `floor`: the round-off in √(λ/λ_max).
    - `rescue`: whether to answer failures here; if not, see `Factorisation.trusted`.
    """

    cutoff: AbstractCutoff
    floor: float = eqx.field(static=True)
    max_decomposition: int = eqx.field(static=True)
    rescue: bool = eqx.field(static=True, default=True)

    def __call__(
        self, gram: Float[Array, "n n"], shift: Float[Array, ""] | None, out: Float[Array, ""]
    ) -> tuple[Factorisation, Bool[Array, ""]]:
        """The factor, and whether A is finite; `out` has the dtype of the results."""
        damped = shift is not None
        scaled, shift, sqrt_mean = normalise(gram, shift, out)
        factor = self.cholesky(scaled, shift, sqrt_mean, SOLVED, damped)
        if self.rescue:
            factor = cond_any(
                ~factor.trusted, self.second if damped else self.last, _keep, factor, scaled, shift, sqrt_mean
            )
        return factor, scaled.finite

    def cholesky(self, scaled: Scaled, shift: Array, sqrt_mean: Array, outcome: int, damped: bool) -> Factorisation:
        matrix = scaled.matrix()
        n, dtype = len(matrix), matrix.dtype
        # Where the diagonal of A is 0 so are row and column, as of a sample of weight 0. Any pivot does there.
        vanished = jnp.diagonal(matrix) + shift == 0
        diagonal = jnp.where(vanished[None], 1, matrix + shift)
        upper = upper_cholesky(jnp.where(jnp.eye(n, dtype=bool), diagonal, matrix))
        # With damping the bound n·eps would refuse what refinement answers. Without, the estimate of the smallest
        # eigenvalue lies above it, hence the 4.
        least = accumulated_eps(n, dtype) if damped else 4 * self.cutoff.full(self.floor) ** 2
        factor = triangular_factor(upper, least, sqrt_mean, outcome, shift if damped else None)
        lost = jnp.sum(vanished, dtype=jnp.int32)
        # It is still a D that has lost rank.
        told = jnp.where((lost > 0) & (outcome == SOLVED), DECOMPOSED, factor.outcome)
        rank, share = factor.rank if damped else factor.rank - lost, jnp.where(vanished, 0, factor.share)
        return factor._replace(outcome=told, rank=rank, share=share)

    def second(self, factor: Factorisation, scaled: Scaled, shift: Array, sqrt_mean: Array) -> Factorisation:
        """More damping, by a little more than the round-off of a Cholesky factorisation."""
        matrix = scaled.matrix()
        more = shift + accumulated_eps(len(matrix), matrix.dtype) * jnp.linalg.norm(matrix)
        retried = self.cholesky(scaled, jnp.where(more > 0, more, 1), sqrt_mean, DAMPED, True)
        return cond_any(~jnp.isfinite(jnp.sum(retried.matrix)), self.last, _keep, retried, scaled, shift, sqrt_mean)

    def last(self, factor: Factorisation, scaled: Scaled, shift: Array, sqrt_mean: Array) -> Factorisation:
        matrix = scaled.matrix()
        n, dtype = len(matrix), matrix.dtype
        if n > self.max_decomposition:
            more = shift + 100 * n**0.5 * float(jnp.finfo(dtype).eps) * jnp.linalg.norm(matrix)
            return self.cholesky(scaled, jnp.where(more > 0, more, 1), sqrt_mean, DAMPED, True)
        return decompose(matrix, shift, sqrt_mean, self.cutoff, self.floor, jnp.asarray(DECOMPOSED, jnp.int32))


def normalise(
    gram: Float[Array, "n n"], shift: Float[Array, ""] | None, out: Float[Array, ""]
) -> tuple[Scaled, Float[Array, ""], Float[Array, ""]]:
    """A/t, μ (0 for None), and √t in the dtype of `out`."""
    mean = jnp.mean(jnp.diagonal(gram))
    finite = jnp.isfinite(jnp.sum(gram))
    scale = jnp.where((mean > 0) & finite, mean, 1)
    shift = jnp.zeros((), gram.dtype) if shift is None else shift.astype(gram.dtype)
    return Scaled(gram, scale, finite), shift, jnp.sqrt(scale).astype(out.dtype)


def triangular_factor(
    upper: Float[Array, "n n"], least: float, sqrt_mean: Float[Array, ""], outcome: int, shift: Float[Array, ""] | None
) -> Factorisation:
    """The factor UᵀU of A/t + μ, trusted if the ratio of its extreme eigenvalues is above `least`.

    - `shift`: μ, None without damping.
    """
    n = len(upper)
    if shift is None:
        trusted = _is_sound(jnp.zeros((), bool), upper, least)
    else:
        # λ_min ≥ μ and λ_max ≤ trace(A/t) + μ: mostly there is nothing to measure. A failure leaves NaN.
        bounded = jnp.isfinite(upper[-1, -1]) & (shift > least * (n + shift))
        trusted = cond_any(
            ~bounded, functools.partial(_is_sound, least=least), lambda known, upper: known, bounded, upper
        )
    ones = jnp.ones(n, upper.dtype)
    rank = jnp.asarray(n if shift is None else -1, jnp.int32)
    shift = jnp.zeros((), upper.dtype) if shift is None else shift
    return Factorisation(
        upper, ones, ones, jnp.zeros((), bool), sqrt_mean, jnp.asarray(outcome, jnp.int32), rank, trusted, shift
    )


def _is_sound(known: Bool[Array, ""], upper: Float[Array, "n n"], least: float) -> Bool[Array, ""]:
    del known
    smallest, largest = extreme_eigenvalues(upper)
    return jnp.isfinite(smallest) & (smallest > least * largest)


def _keep(factor: Factorisation, scaled: Scaled, shift: Array, sqrt_mean: Array) -> Factorisation:
    return factor


def decompose(
    gram: Float[Array, "n n"],
    shift: Float[Array, ""],
    sqrt_mean: Float[Array, ""],
    cutoff: AbstractCutoff,
    floor: float,
    outcome: Int[Array, ""],
) -> Factorisation:
    """The filtered (pseudo-)inverse of A/t + μ by the eigenvalues of A/t.

    Paper: (4.1)–(4.3)
    """
    # By columns for LAPACK, as in `upper_cholesky`.
    values, vectors = jnp.linalg.eigh(gram.T, symmetrize_input=False)
    sound = jnp.isfinite(jnp.sum(vectors)) & jnp.isfinite(jnp.sum(values))
    values = jnp.where(sound, jnp.maximum(values, 0), 0)
    vectors = jnp.where(sound, vectors, 0)
    return spectral_factor(vectors, jnp.sqrt(values), shift, sqrt_mean, cutoff, floor, outcome)


def spectral_factor(
    vectors: Float[Array, "n n"],
    singular: Float[Array, " n"],
    shift: Float[Array, ""],
    sqrt_mean: Float[Array, ""],
    cutoff: AbstractCutoff,
    floor: float,
    outcome: Int[Array, ""],
) -> Factorisation:
    """The factor from eigenvectors and the square roots of the eigenvalues of A/t.

    With damping the cut-off is left to it: 1/(λ + μ), with μ at least at round-off.
    """
    largest = jnp.max(singular)
    share = cutoff(singular / jnp.where(largest > 0, largest, 1), floor)
    least = jnp.where(largest > 0, (floor * largest) ** 2, 1)
    shift = jnp.where(shift > 0, jnp.maximum(shift, least), 0)
    kept = share / jnp.where(share > 0, singular**2, 1)
    weights = jnp.where(shift > 0, 1 / (singular**2 + shift), kept)
    rank = jnp.sum(share > 0.5, dtype=jnp.int32)
    return Factorisation(
        vectors, weights, share, jnp.ones((), bool), sqrt_mean, outcome, rank, jnp.ones((), bool), shift
    )
