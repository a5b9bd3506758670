"""The interface of a way to make a step of Levenberg–Marquardt."""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo.linalg.linearisation import Linearisation
from jaxgeo.linalg.solvers import LiftInfo
from jaxgeo.optim.attempt import Attempt, Tried


class Proposal(NamedTuple):
    """A step that is to be tried.

    - `attempt`: the step.
    - `halvings`: at most how often it is halved before it is rejected.
    - `damping`: of its lift, relative to trace(DDᵀ)/QN; 0 for none.
    - `learn`: from how it went to what is taken, which may be something else; the report of its lift; the next state.
    - `lift`: of rows, for a geodesic acceleration. None for a step that takes none, or has its own.
    - `searched`: whether a line search may change the step.
    """

    attempt: Attempt
    halvings: int
    damping: Float[Array, ""]
    learn: Callable[[Tried], tuple[Tried, LiftInfo, Any]]
    lift: Callable[[Float[Array, "rows R"]], PyTree] | None = None
    searched: bool = True


class AbstractWay(eqx.Module):
    """How steps are proposed, with a state of what was learnt from the last."""

    @abc.abstractmethod
    def init(self, dtype: jnp.dtype) -> Any:
        """The state before the first step."""

    @abc.abstractmethod
    def propose(self, linear: Linearisation, by: Any, state: Any) -> Proposal:
        """The step to try; `by` makes the lifts: a solver, or the singular values of D."""
