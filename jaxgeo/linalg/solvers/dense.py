"""The common part of solvers by the dense D: D in units of its size, and singular values as the last resort."""

import abc
import dataclasses
import functools

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.precision import in_dtype, rescue_if, without_tf32
from jaxgeo.linalg.solvers.base import DECOMPOSED, AbstractFactorised, AbstractLiftSolver, Damping, LiftInfo
from jaxgeo.linalg.solvers.cutoff import AbstractCutoff, check_factoring
from jaxgeo.linalg.solvers.derivatives import FactorisedSide
from jaxgeo.linalg.solvers.factorisation import Factorisation, from_spectrum
from jaxgeo.linalg.solvers.sides import gram_dtype, relative_damping, smaller_side
from jaxgeo.linalg.spectra import data_floor
from jaxgeo.linalg.tangents import freeze


class DenseMatrix(eqx.Module):
    """The taller of D and Dᵀ, divided by √t, where t is the mean eigenvalue of the smaller Gram matrix.

    - `relative_damping`: μ, None without damping.
    - `sqrt_mean`: √t; `own_sqrt_mean`: the same in the parameters' dtype.
    - `sound`: whether D is finite.
    - `wide`: whether the matrix is Dᵀ.
    """

    tall: Float[Array, "length side"]
    relative_damping: Float[Array, ""] | None
    sqrt_mean: Float[Array, ""]
    own_sqrt_mean: Float[Array, ""]
    sound: Bool[Array, ""]
    wide: bool = eqx.field(static=True)

    def __init__(self, matrix: Float[Array, "QN K"], relative_damping: Float[Array, ""] | None, dtype: jnp.dtype):
        self.wide = matrix.shape[1] >= matrix.shape[0]
        tall = (matrix.T if self.wide else matrix).astype(dtype)
        # Use units of the largest entry, so that squares neither overflow nor underflow.
        largest = jnp.max(jnp.abs(tall))
        self.sound = jnp.isfinite(largest)
        unit = jnp.where(self.sound & (largest > 0), largest, 1)
        tall = jnp.where(self.sound, tall / unit, 0)
        mean = jnp.sum(tall**2) / tall.shape[1]
        sqrt_mean = jnp.where(mean > 0, jnp.sqrt(mean), 1)
        self.tall, self.sqrt_mean = tall / sqrt_mean, sqrt_mean * unit
        self.own_sqrt_mean = self.sqrt_mean.astype(matrix.dtype)
        self.relative_damping = None if relative_damping is None else relative_damping.astype(dtype)

    def qr(self) -> tuple[Float[Array, "length side"], Float[Array, "side side"]]:
        """Q and R of the tall matrix, with √μ below it if there is damping."""
        length, side = self.tall.shape
        if self.relative_damping is None:
            return jnp.linalg.qr(self.tall)
        corner = jnp.sqrt(self.relative_damping) * jnp.eye(side, dtype=self.tall.dtype)
        q, r = jnp.linalg.qr(jnp.concatenate([self.tall, corner]))
        return q[:length], r


class AbstractDecomposition(eqx.Module):
    """A decomposition of a dense matrix; `factorisation` is the factorisation of its Gram matrix that it implies."""

    factorisation: eqx.AbstractVar[Factorisation]

    @abc.abstractmethod
    def solve(self, matrix: DenseMatrix, rhs: Float[Array, " QN"]) -> Float[Array, " K"]:
        """The lift through D/√t."""


class SingularDecomposition(AbstractDecomposition):
    """QUΣVᵀ, filtered; V is in the factorisation."""

    q: Float[Array, "length side"]
    left: Float[Array, "side side"]
    values: Float[Array, " side"]
    factorisation: Factorisation

    def __init__(self, matrix: DenseMatrix, cutoff: AbstractCutoff, floor: float, outcome: int):
        self.q, r = matrix.qr()
        left, values, right = jnp.linalg.svd(r)
        sound = jnp.isfinite(jnp.sum(values)) & jnp.isfinite(jnp.sum(right)) & jnp.isfinite(jnp.sum(left))
        self.left, self.values, right = (jnp.where(sound, array, 0) for array in (left, values, right))
        none = jnp.zeros_like(matrix.sqrt_mean)
        found = from_spectrum(right.T, self.values, matrix.own_sqrt_mean, none, cutoff, floor, outcome)
        if matrix.relative_damping is not None:
            # These values already include the damping; only avoid dividing by 0.
            least = (floor * self.values[0]) ** 2
            weights = 1 / jnp.maximum(self.values**2, jnp.where(least > 0, least, 1))
            unknown = jnp.full_like(found.rank, -1)
            found = dataclasses.replace(found, weights=weights, share=jnp.ones_like(weights), rank=unknown)
        self.factorisation = found

    @without_tf32
    def solve(self, matrix: DenseMatrix, rhs: Float[Array, " QN"]) -> Float[Array, " K"]:
        right, gain = self.factorisation.matrix, self.factorisation.weights * self.values
        if matrix.wide:
            return self.q @ (self.left @ (gain * (right.T @ rhs)))
        return right @ (gain * (self.left.T @ (self.q.T @ rhs)))


class AbstractDenseSolver(AbstractLiftSolver):
    """A solver by a decomposition of the dense D, on the smaller side."""

    cutoff: eqx.AbstractVar[AbstractCutoff]
    dtype: eqx.AbstractVar[jnp.dtype | None]

    def __check_init__(self):
        check_factoring(self.cutoff, "dtype", self.dtype)

    @abc.abstractmethod
    def decompose(self, matrix: DenseMatrix, floor: float) -> AbstractDecomposition:
        """Decompose the matrix; `floor` is the round-off of its singular values."""

    def factorise(self, jacobian: Jacobian, damping: Damping = None) -> "FactorisedDense":
        still = freeze(jacobian)
        damped = freeze(relative_damping(smaller_side(jacobian), jacobian, damping))
        dtype = gram_dtype(jacobian, damping, self.dtype)

        def run(
            entries: Float[Array, "QN K"], damped: Float[Array, ""] | None
        ) -> tuple[DenseMatrix, AbstractDecomposition]:
            matrix = DenseMatrix(entries, damped, dtype)
            return matrix, self.decompose(matrix, data_floor(jacobian))

        # Trace the network outside, so that its constants do not become float64.
        return FactorisedDense(self.cutoff, jacobian, damping, *in_dtype(run, dtype)(still.as_matrix(), damped))


class FactorisedDense(AbstractFactorised):
    """The dense D and a decomposition of it; each lift uses singular values if the decomposition is not trusted."""

    cutoff: AbstractCutoff
    jacobian: Jacobian
    damping: Damping
    matrix: DenseMatrix
    decomposition: AbstractDecomposition

    def lift(self, velocity: Float[Array, "N Q"]) -> tuple[PyTree, LiftInfo]:
        found, value = self.solve(freeze(velocity))
        return self._through(found).finish(velocity, value)

    @property
    def correct(self) -> FactorisedSide:
        return self._through(self.decomposition.factorisation)

    def solve(self, velocity: Float[Array, "N Q"]) -> tuple[Factorisation, PyTree]:
        """The lift without derivative, and the factorisation that it used."""
        solve = functools.partial(_solve, self.cutoff, data_floor(self.jacobian))
        operands = self.matrix, self.decomposition, velocity.reshape(-1)
        found, flat = in_dtype(solve, self.matrix.tall.dtype)(*operands)
        return found, self.jacobian.unravel(flat)

    def _through(self, found: Factorisation) -> FactorisedSide:
        return FactorisedSide(smaller_side(self.jacobian), self.jacobian, found, self.damping)


def _solve(
    cutoff: AbstractCutoff,
    floor: float,
    matrix: DenseMatrix,
    decomposition: AbstractDecomposition,
    velocity: Float[Array, " QN"],
) -> tuple[Factorisation, Float[Array, " K"]]:
    rhs = velocity.astype(matrix.tall.dtype)

    def by_singular_values(
        usual: tuple[Factorisation, Array], matrix: DenseMatrix, rhs: Array
    ) -> tuple[Factorisation, Array]:
        decomposition = SingularDecomposition(matrix, cutoff, floor, DECOMPOSED)
        return decomposition.factorisation, decomposition.solve(matrix, rhs)

    found, solution = decomposition.factorisation, decomposition.solve(matrix, rhs)
    if not isinstance(decomposition, SingularDecomposition):
        found, solution = rescue_if(~found.trusted, by_singular_values, (found, solution), matrix, rhs)
    return found, jnp.where(matrix.sound, solution / matrix.sqrt_mean, jnp.nan).astype(velocity.dtype)
