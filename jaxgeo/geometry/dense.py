"""D as one array on the host, for decompositions there."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from jaxgeo.linalg.faults import check_derivatives
from jaxgeo.outputs import Params
from jaxgeo.problem import Problem


class Dense(NamedTuple):
    """D in float64, of shape (QN, K), and the outputs in the dtype that both were computed in."""

    matrix: NDArray[np.float64]
    outputs: Float[Array, "N Q"]

    @property
    def dtype(self) -> jnp.dtype:
        return self.outputs.dtype


def dense_jacobian(problem: Problem, params: Params) -> Dense:
    """D at `params`; raises `ValueError` unless it is finite. Compiled once for all points of the same shapes."""
    problem.check(params)
    matrix, outputs = _compute(problem, params)
    if not np.isfinite(matrix).all():
        check_derivatives(problem, params)
    return Dense(np.asarray(matrix, np.float64), outputs)


@eqx.filter_jit
def _compute(problem: Problem, params: Params) -> tuple[Float[Array, "QN K"], Float[Array, "N Q"]]:
    jacobian = problem.jacobian(params)
    return jacobian.as_matrix(), jacobian.outputs
