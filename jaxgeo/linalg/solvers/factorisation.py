"""Factorise a symmetric positive semidefinite matrix; failures are detected and handled inside the program."""

import abc
import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxgeo._sums import largest, total
from jaxgeo.linalg.gram.held import HeldFactors
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.precision import in_dtype, rescue_if, without_tf32
from jaxgeo.linalg.refinement import accumulated_eps
from jaxgeo.linalg.solvers.base import DAMPED, DECOMPOSED, SOLVED
from jaxgeo.linalg.solvers.cutoff import AbstractCutoff
from jaxgeo.linalg.spectra import gram_floor
from jaxgeo.linalg.tangents import norm
from jaxgeo.linalg.triangular import cholesky_solve, is_well_conditioned, upper_cholesky


class AbstractInverse(eqx.Module):
    """(A + μ)⁻¹ or a filtered pseudo-inverse of A, by a factorisation or by iterations. It has no derivatives."""

    @abc.abstractmethod
    def is_filtered(self) -> Bool[Array, ""]:
        """Whether directions may be left out."""

    @abc.abstractmethod
    def apply(self, rhs: PyTree) -> PyTree:
        """The inverse times `rhs`."""

    @abc.abstractmethod
    def complement(self, rhs: PyTree) -> PyTree:
        """The part of `rhs` in the directions that are left out."""


class Factorisation(AbstractInverse):
    """(A/t + μ)⁻¹, or the filtered pseudo-inverse of A/t, with t = trace(A)/n, in a form that can be applied.

    - `matrix`: U with A/t + μ = UᵀU, or eigenvectors of A as columns.
    - `weights`: with eigenvectors, the eigenvalues of the inverse; `share`: those of the projector onto the directions
        that are kept. With U, `share` is 0 for rows of A that are 0, which are left out.
    - `spectral`: whether `matrix` holds eigenvectors; None if it cannot, so that no program is compiled for them.
    - `sqrt_mean`: √t, or 1 for A = 0, in the parameters' dtype, in which t itself may underflow. Divide by it before
        and after a product with D: XLA would merge two divisions in a row into one.
    - `outcome`, `rank`: as in `LiftInfo`.
    - `trusted`: whether A/t + μ is well enough conditioned for this factorisation.
    - `relative_damping`: μ, including what was added after a failure.
    """

    matrix: Float[Array, "n n"]
    weights: Float[Array, " n"]
    share: Float[Array, " n"]
    spectral: Bool[Array, ""] | None
    sqrt_mean: Float[Array, ""]
    outcome: Int[Array, ""]
    rank: Int[Array, ""]
    trusted: Bool[Array, ""]
    relative_damping: Float[Array, ""]

    def is_filtered(self) -> Bool[Array, ""]:
        return jnp.zeros((), bool) if self.spectral is None else self.spectral

    def apply(self, rhs: PyTree) -> PyTree:
        flat, unravel = ravel_pytree(rhs)
        return unravel(in_dtype(_apply, self.matrix.dtype)(self, flat))

    def pulled(
        self, rows: Float[Array, "N Q"], jacobian: Jacobian, factors: HeldFactors | None
    ) -> tuple[Float[Array, "N Q"], PyTree]:
        """For A = DDᵀ: z = (A/t + μ)⁻¹rows, and Dᵀz/√t.

        With the factors of D, z is not rounded to the dtype of the rows before the product. That would cost an error of
        cond(A)·eps, since z is so much larger than what is left of it.
        """
        if factors is None:
            z = self.apply(rows)
            return z, jacobian.T.mv(z / self.sqrt_mean)
        arrays, static = eqx.partition(factors, eqx.is_array)

        def run(found: Factorisation, arrays: PyTree, flat: Float[Array, " n"]) -> tuple[Array, PyTree]:
            z = _solved(found, flat)
            return z.astype(flat.dtype), eqx.combine(arrays, static).pull(z / found.sqrt_mean.astype(z.dtype))

        z, solution = in_dtype(run, self.matrix.dtype)(self, arrays, rows.reshape(-1))
        return z.reshape(rows.shape), solution

    def complement(self, rhs: PyTree) -> PyTree:
        flat, unravel = ravel_pytree(rhs)
        return unravel(in_dtype(_complement, self.matrix.dtype)(self, flat))

    def is_sharp(self) -> Bool[Array, ""]:
        """Whether each direction is fully kept or fully left out, so that defects can be corrected."""
        return in_dtype(_is_sharp, self.matrix.dtype)(self)

    def of_triangle(self) -> "Factorisation":
        """The same factorisation, known to come from Cholesky."""
        return dataclasses.replace(self, spectral=None)

    def with_outcome(self, outcome: int | Int[Array, ""]) -> "Factorisation":
        """The same factorisation with another outcome."""
        return dataclasses.replace(self, outcome=jnp.asarray(outcome, jnp.int32))


def _is_sharp(found: Factorisation) -> Bool[Array, ""]:
    return jnp.all((found.share == 0) | (found.share == 1))


def _apply(found: Factorisation, rhs: Float[Array, " n"]) -> Float[Array, " n"]:
    return _solved(found, rhs).astype(rhs.dtype)


@without_tf32
def _solved(found: Factorisation, rhs: Float[Array, " n"]) -> Float[Array, " n"]:
    """The inverse times `rhs`, in the dtype of the factorisation."""

    def spectral(found: Factorisation, rhs: Array) -> Array:
        return found.matrix @ (found.weights * (found.matrix.T @ rhs))

    def triangular(found: Factorisation, rhs: Array) -> Array:
        return found.share * cholesky_solve(found.matrix, found.share * rhs)

    return _by_kind(found, spectral, triangular, rhs.astype(found.matrix.dtype))


@without_tf32
def _complement(found: Factorisation, rhs: Float[Array, " n"]) -> Float[Array, " n"]:
    def spectral(found: Factorisation, rest: Array) -> Array:
        for _ in range(2):
            # Twice, to remove round-off along the kept directions, which the inverse would amplify.
            rest = rest - found.matrix @ (found.share * (found.matrix.T @ rest))
        return rest

    def triangular(found: Factorisation, rest: Array) -> Array:
        return rest - found.share * rest

    vector = rhs.astype(found.matrix.dtype)
    return _by_kind(found, spectral, triangular, vector).astype(rhs.dtype)


def _by_kind(
    found: Factorisation,
    spectral: Callable[[Factorisation, Array], Array],
    triangular: Callable[[Factorisation, Array], Array],
    vector: Float[Array, " n"],
) -> Float[Array, " n"]:
    if found.spectral is None:
        return triangular(found, vector)
    return jax.lax.cond(found.spectral, spectral, triangular, found, vector)


class _Scaled(NamedTuple):
    """A/t and μ. A and t are kept apart, so the division fuses into the only read of A; 0 unless A is finite."""

    gram: Float[Array, "n n"]
    scale: Float[Array, ""]
    finite: Bool[Array, ""]
    sqrt_mean: Float[Array, ""]
    relative_damping: Float[Array, ""]

    def matrix(self) -> Float[Array, "n n"]:
        return jnp.where(self.finite, self.gram / self.scale, 0)

    def diagonal(self) -> Float[Array, " n"]:
        return jnp.where(self.finite, diagonal_of(self.gram) / self.scale, 0)

    def size(self) -> Float[Array, ""]:
        return norm(self.matrix())


class _Tried(NamedTuple):
    """How many factorisations were tried, whether the last one is sound, and the last one, None before the first."""

    count: Int[Array, ""]
    done: Bool[Array, ""]
    found: Factorisation | None


class Factorise(eqx.Module):
    """Factorises A/t + μ, and checks the result.

    The condition number of a Cholesky factorisation is measured; with damping it is bounded, or estimated from the
    pivots. If a damped factorisation (with μ) fails, it is repeated with more damping, and if that fails too,
    eigenvalues are used. Without damping, a failure leads straight to eigenvalues and the cut-off, because damping
    under-solves reachable directions and amplifies unreachable ones. Only if n exceeds `max_decomposition`, so that
    eigenvalues take too long, is a little damping used instead.

    **Arguments:**

    - `cutoff`: which singular values √λ count when eigenvalues are used.
    - `dtype`: the dtype to factorise in.
    - `rescue`: whether to handle failures here; if not, see `Factorisation.trusted`.
    """

    cutoff: AbstractCutoff
    dtype: jnp.dtype = eqx.field(static=True)
    max_decomposition: int = eqx.field(static=True)
    rescue: bool = eqx.field(static=True)
    # The dtype of the outputs, and the round-off in √(λ/λ_max).
    own: jnp.dtype = eqx.field(static=True)
    floor: float = eqx.field(static=True)

    def __init__(
        self,
        jacobian: Jacobian,
        cutoff: AbstractCutoff,
        dtype: jnp.dtype,
        max_decomposition: int = 0,
        *,
        rescue: bool = True,
    ):
        self.cutoff, self.dtype, self.max_decomposition, self.rescue = cutoff, dtype, max_decomposition, rescue
        self.own, self.floor = jacobian.outputs.dtype, gram_floor(jacobian, dtype)

    def cholesky(self, gram: Float[Array, "n n"], relative_damping: Float[Array, ""] | None) -> Factorisation:
        """A factorisation by Cholesky, or by its fallback if that fails."""
        return in_dtype(self._cholesky, self.dtype)(gram, relative_damping)

    def eigh(self, gram: Float[Array, "n n"], relative_damping: Float[Array, ""] | None) -> Factorisation:
        """A factorisation by eigenvalues."""
        return in_dtype(self._eigh, self.dtype)(gram, relative_damping)

    def _cholesky(self, gram: Float[Array, "n n"], relative_damping: Float[Array, ""] | None) -> Factorisation:
        scaled = self._scaled(gram, relative_damping)
        damped = relative_damping is not None
        if damped and self.rescue:
            usual = self._more_and_more_damped(scaled)
            if len(gram) > self.max_decomposition:
                return usual.of_triangle()
            return rescue_if(~jnp.isfinite(usual.matrix[-1, -1]), self._last, usual, scaled)
        usual = self._triangle(scaled, scaled.relative_damping, SOLVED, damped)
        return rescue_if(~usual.trusted, self._last, usual, scaled) if self.rescue else usual

    def _eigh(self, gram: Float[Array, "n n"], relative_damping: Float[Array, ""] | None) -> Factorisation:
        return self._decomposed(self._scaled(gram, relative_damping), SOLVED)

    def _scaled(self, gram: Float[Array, "n n"], relative_damping: Float[Array, ""] | None) -> _Scaled:
        # No entry of a positive semidefinite matrix exceeds its trace.
        mean = total(diagonal_of(gram)) / len(gram)
        finite = jnp.isfinite(mean)
        scale = jnp.where((mean > 0) & finite, mean, 1)
        damping = jnp.zeros((), gram.dtype) if relative_damping is None else relative_damping.astype(gram.dtype)
        return _Scaled(gram, scale, finite, jnp.sqrt(scale).astype(self.own), damping)

    def _triangle(
        self, scaled: _Scaled, damping: Float[Array, ""], outcome: int | Int[Array, ""], damped: bool
    ) -> Factorisation:
        n, dtype = len(scaled.gram), scaled.gram.dtype
        diagonal = scaled.diagonal() + damping
        # If an entry of A's diagonal is 0, so are its row and column, as for a sample of weight 0: use any pivot.
        vanished = diagonal == 0
        diagonal = jnp.where(vanished, 1, diagonal)
        upper = upper_cholesky(jnp.where(jnp.eye(n, dtype=bool), diagonal, scaled.matrix()))
        # With damping, the bound n·eps would reject factorisations that refinement can use. Without damping, the
        # estimate of the smallest eigenvalue is too large, hence the factor 4.
        least = accumulated_eps(n, dtype) if damped else 4 * self.cutoff.full(self.floor) ** 2
        found = from_triangle(upper, least, scaled.sqrt_mean, damping if damped else None, outcome)
        share = jnp.where(vanished, 0, found.share)
        kept = total(share).astype(jnp.int32)
        # D has lost rank all the same.
        told = jnp.where((kept < n) & (outcome == SOLVED), DECOMPOSED, found.outcome)
        return dataclasses.replace(found, outcome=told, rank=found.rank if damped else kept, share=share)

    def _more_and_more_damped(self, scaled: _Scaled) -> Factorisation:
        """Factorise with the given damping; if that fails, add a little more than the round-off of Cholesky.

        If eigenvalues would take too long, a last attempt adds much more. A loop makes these attempts, so that the
        factorisation is compiled once.
        """
        n, dtype = len(scaled.gram), scaled.gram.dtype
        shares = [0.0, accumulated_eps(n, dtype)]
        if n > self.max_decomposition:
            shares.append(100 * n**0.5 * float(jnp.finfo(dtype).eps))

        def attempt(tried: _Tried) -> _Tried:
            count, _, _ = tried
            # Otherwise XLA would store what does not depend on the attempt before the loop, matrix after matrix.
            here = scaled._replace(gram=jax.lax.optimization_barrier((scaled.gram, count))[0])
            share = jnp.asarray(shares, dtype)[count]
            size = rescue_if(count > 0, lambda _, here: here.size(), jnp.zeros((), dtype), here)
            more = scaled.relative_damping + share * size
            more = jnp.where((count > 0) & ~(more > 0), 1, more)
            outcome = jnp.where(count > 0, DAMPED, SOLVED)
            found = self._triangle(here, more, outcome, True)
            done = jnp.where(count > 0, jnp.isfinite(found.matrix[-1, -1]), found.trusted)
            # XLA would carry a matrix in another order than LAPACK's, and transpose it before and after the loop.
            return _Tried(count + 1, done, _with_matrix(found, found.matrix.reshape(-1)))

        start = _Tried(jnp.zeros((), jnp.int32), jnp.zeros((), bool), None)
        blank = jax.eval_shape(attempt, start).found
        start = start._replace(found=jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), blank))
        end = jax.lax.while_loop(lambda tried: ~tried.done & (tried.count < len(shares)), attempt, start)
        assert end.found is not None
        return _with_matrix(end.found, end.found.matrix.reshape(n, n))

    def _last(self, usual: Factorisation, scaled: _Scaled) -> Factorisation:
        n, eps = len(scaled.gram), float(jnp.finfo(scaled.gram.dtype).eps)
        if n <= self.max_decomposition:
            return self._decomposed(scaled, DECOMPOSED)
        more = scaled.relative_damping + 100 * n**0.5 * eps * scaled.size()
        return self._triangle(scaled, jnp.where(more > 0, more, 1), DAMPED, True)

    def _decomposed(self, scaled: _Scaled, outcome: int) -> Factorisation:
        """The filtered (pseudo-)inverse of A/t + μ by the eigenvalues of A/t.

        Paper: (4.1)–(4.3)
        """
        # Transposed to columns for LAPACK, as in `upper_cholesky`.
        values, vectors = jnp.linalg.eigh(scaled.matrix().T, symmetrize_input=False)
        sound = jnp.isfinite(jnp.sum(vectors)) & jnp.isfinite(jnp.sum(values))
        values = jnp.where(sound, jnp.maximum(values, 0), 0)
        vectors = jnp.where(sound, vectors, 0)
        damping, sqrt_mean = scaled.relative_damping, scaled.sqrt_mean
        return from_spectrum(vectors, jnp.sqrt(values), sqrt_mean, damping, self.cutoff, self.floor, outcome)


def _with_matrix(found: Factorisation, matrix: Array) -> Factorisation:
    return eqx.tree_at(lambda found: found.matrix, found, matrix)


def diagonal_of(matrix: Float[Array, "n n"]) -> Float[Array, " n"]:
    """The diagonal as a strided slice, which compiles to less than the gather of `jnp.diagonal`."""
    n = len(matrix)
    return jax.lax.slice(matrix.reshape(-1), (0,), (n * n,), (n + 1,))


def from_triangle(
    upper: Float[Array, "n n"],
    least: float,
    sqrt_mean: Float[Array, ""],
    relative_damping: Float[Array, ""] | None,
    outcome: int | Int[Array, ""] = SOLVED,
) -> Factorisation:
    """A/t + μ = UᵀU, trusted if the ratio of its extreme eigenvalues is above `least`; μ is None without damping.

    With damping a failure only costs more damping, so a bound or a rough estimate of these eigenvalues is enough.
    """
    n, damping = len(upper), relative_damping
    if damping is None:
        trusted = is_well_conditioned(upper, least)
    else:
        # λ_min ≥ μ, and for a smaller μ a quarter of the least pivot estimates it, since pivots exceed λ_min and carry
        # round-off; λ_max ≤ trace(A/t) + μ. A failure leaves NaN.
        least_pivot = 1 / largest(1 / diagonal_of(upper))
        smallest = jnp.maximum(damping, least_pivot**2 / 4)
        trusted = smallest > least * (n + damping)
    ones = jnp.ones(n, upper.dtype)
    rank = jnp.asarray(n if damping is None else -1, jnp.int32)
    damping = jnp.zeros((), upper.dtype) if damping is None else damping
    told, spectral = jnp.asarray(outcome, jnp.int32), jnp.zeros((), bool)
    return Factorisation(upper, ones, ones, spectral, sqrt_mean, told, rank, trusted, damping)


def from_spectrum(
    vectors: Float[Array, "n n"],
    singular: Float[Array, " n"],
    sqrt_mean: Float[Array, ""],
    relative_damping: Float[Array, ""],
    cutoff: AbstractCutoff,
    floor: float,
    outcome: int,
) -> Factorisation:
    """The inverse of A/t + μ, from eigenvectors and square roots of the eigenvalues of A/t; μ is 0 without damping.

    Damping replaces the cut-off: 1/(λ + μ), with μ no smaller than round-off.
    """
    largest = jnp.max(singular)
    share = cutoff(singular / jnp.where(largest > 0, largest, 1), floor)
    least = jnp.where(largest > 0, (floor * largest) ** 2, 1)
    damping = jnp.where(relative_damping > 0, jnp.maximum(relative_damping, least), 0)
    kept = share / jnp.where(share > 0, singular**2, 1)
    weights = jnp.where(damping > 0, 1 / (singular**2 + damping), kept)
    rank = jnp.sum(share > 0.5, dtype=jnp.int32)
    one = jnp.ones((), bool)
    return Factorisation(vectors, weights, share, one, sqrt_mean, jnp.asarray(outcome, jnp.int32), rank, one, damping)
