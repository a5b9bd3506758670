"""The interface of the kinds of step that Levenberg–Marquardt chooses from."""

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
    """A step to try.

    - `attempt`: the step.
    - `halvings`: the most halvings before the step is rejected.
    - `damping`: damping of its lift, relative to trace(DDᵀ)/QN; 0 for none.
    - `learn`: maps the result to the step that is taken, which may be a different one, the report of its lift, and the
        next state.
    - `lift`: lifts rows, for a geodesic acceleration. None if the step takes no acceleration or has its own.
    - `searched`: whether a line search may change the step.
    - `first`: the fraction to try first, and whether to try a longer one than the first that lowers the cost; see
        `jaxgeo.optim.attempt.shorten`.
    """

    attempt: Attempt
    halvings: int
    damping: Float[Array, ""]
    learn: Callable[[Tried], tuple[Tried, LiftInfo, Any]]
    lift: Callable[[Float[Array, "rows R"]], PyTree] | None = None
    searched: bool = True
    first: Float[Array, ""] | None = None


class AbstractWay(eqx.Module):
    """Proposes steps, with a state that it learns from the last step."""

    @abc.abstractmethod
    def init(self, dtype: jnp.dtype) -> Any:
        """The state before the first step."""

    @abc.abstractmethod
    def propose(self, linear: Linearisation, by: Any, state: Any) -> Proposal:
        """The step to try; `by` makes the lifts: a solver, or the singular values of D."""
