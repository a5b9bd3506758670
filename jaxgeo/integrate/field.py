"""The state of the ODE: the trainable parameters and, if wanted, the lengths of the path."""

from typing import Any

import equinox as eqx
import jax
import optimistix as optx
from jaxtyping import Array, Float, PyTree

from jaxgeo.flows import AbstractFlow
from jaxgeo.problem import Problem


class PathLengths(eqx.Module):
    """Lengths of the path from its start.

    - `params`: ∫|∂ₛθ|ds; for a lifted flow, the length of the horizontal lift.
    - `outputs`: ∫|∂ₛx|ds.
    """

    params: Float[Array, "..."]
    outputs: Float[Array, "..."]


class Measured(eqx.Module):
    """Parameters, and the path lengths up to them, as one state of an ODE."""

    trainable: PyTree
    lengths: PathLengths


def trainable_of(state: PyTree) -> PyTree:
    """The trainable parameters in a state."""
    return state.trainable if isinstance(state, Measured) else state


class Field(eqx.Module):
    """A flow as a vector field, for a problem whose parameters are all trainable."""

    flow: AbstractFlow

    # An integration is traced several times; this part, which has the lift, only once.
    @eqx.filter_jit
    def __call__(self, s: Any, state: PyTree, problem: Problem) -> PyTree:
        jacobian = problem.jacobian(trainable_of(state))
        velocity = self.flow.velocity(s, jacobian)
        if not isinstance(state, Measured):
            return velocity
        speeds = PathLengths(optx.two_norm(velocity), optx.two_norm(jacobian.mv(velocity)))
        dtype = state.lengths.params.dtype
        return Measured(velocity, jax.tree.map(lambda speed: speed.astype(dtype), speeds))
