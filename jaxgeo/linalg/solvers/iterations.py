"""The lift by iterations: nothing is factorised, and lifts only share their setup."""

import abc

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo.linalg.gram.gram import mean_eigenvalue
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.solvers.base import SOLVED, AbstractFactorised, Damping, LiftInfo, conclude
from jaxgeo.linalg.solvers.derivatives import inverse
from jaxgeo.linalg.solvers.factorisation import AbstractInverse
from jaxgeo.linalg.solvers.sides import Rows
from jaxgeo.linalg.tangents import attach, freeze


class AbstractIterations(AbstractInverse):
    """The pseudo-inverse of G, or (G + λ)⁻¹, by iterations."""

    @abc.abstractmethod
    def lift(self, rows: Float[Array, "N Q"]) -> PyTree:
        """D⁺v, or the damped lift."""


class Iterated(AbstractFactorised):
    """Lifts by `iterations`; each lift starts from scratch.

    - `damping`: λ, with its derivative.
    """

    jacobian: Jacobian
    damping: Float[Array, ""] | None
    iterations: AbstractIterations

    @property
    def correct(self) -> None:
        return None

    def lift(self, velocity: Float[Array, "N Q"]) -> tuple[PyTree, LiftInfo]:
        side = Rows(self.jacobian, jnp.ones((), velocity.dtype))
        carrier = self.jacobian.T.mv(inverse(side, self.iterations, self.damping, velocity))
        solution = attach(self.iterations.lift(freeze(velocity)), carrier)
        outcome = jnp.asarray(SOLVED, jnp.int32)
        return conclude(self.jacobian, solution, velocity, outcome, jnp.full_like(outcome, -1))


def absolute_damping(jacobian: Jacobian, damping: Damping) -> Float[Array, ""] | None:
    """λ = damping · trace(DDᵀ)/QN."""
    if damping is None:
        return None
    return jnp.asarray(damping, jacobian.outputs.dtype) * mean_eigenvalue(jacobian)
