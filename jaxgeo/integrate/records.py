"""Records along a flow, for `solve_flow(..., record=...)`, besides costs and the rank."""

from functools import partial

import equinox as eqx
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Float

from jaxgeo._checks import as_real
from jaxgeo.linalg.spectra import singular_values
from jaxgeo.outputs import Params
from jaxgeo.problem import Problem

Time = float | Float[Array, ""]


@eqx.filter_jit
def spectrum_record(s: Time, params: Params, problem: Problem) -> Float[Array, " rank"]:
    """The min(QN, K) largest eigenvalues of DDᵀ, largest first, from the singular values of the dense D.

    Paper: (4.1)

    **Arguments:**

    - `s`: flow time, which is not used.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: a @ x, jnp.diag(jnp.array([1.0, 2.0])), jg.L2(jnp.ones(2)))
    >>> jg.integrate.spectrum_record(0.0, jnp.zeros(2), problem).tolist()
    [4.0, 1.0]

    ```
    """
    del s
    return singular_values(problem.jacobian(params).as_matrix()) ** 2


class LineDeviation(eqx.Module):
    """How far x is from the straight line from x₀ to y, relative to |y − x₀|.

    Reference: T. Chen, P. Muñoz Ewald, Gradient flow in parameter space is equivalent to linear interpolation in
    output space, 2024, arXiv 2408.01517

    **Arguments:**

    - `initial_deviation`: x₀ − y, of shape (N, Q): `problem.loss.deviation(problem.outputs(params))`.
    """

    initial_deviation: Float[Array, "N Q"] = eqx.field(converter=partial(as_real, "initial_deviation"))

    def __call__(self, s: Time, params: Params, problem: Problem) -> Float[Array, ""]:
        del s
        deviation = problem.loss.deviation(problem.outputs(params))
        first = self.initial_deviation
        if first.shape != deviation.shape:
            raise ValueError(f"`initial_deviation` must have shape {deviation.shape}; got {first.shape}.")
        share = jnp.sum(deviation * first) / jnp.sum(first**2)
        return optx.two_norm(deviation - share * first) / optx.two_norm(first)
