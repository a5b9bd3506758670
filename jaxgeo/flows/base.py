"""The interface of a flow, and the two gradient flows that need no lift.

Each flow is called as `flow(s, params, problem)`, which is diffrax's `(t, y, args)`, so
`diffrax.ODETerm(flow)` with `args=problem` is its ODE. All flows go downhill: the minus sign is included.
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo._fields import Checked, kind
from jaxgeo.costs import AbstractRoot
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.metrics import AbstractMetric, Euclidean
from jaxgeo.outputs import AbstractProblem, Params
from jaxgeo.problem import Problem

Time = float | Float[Array, ""]

METRIC = kind(AbstractMetric, "a metric, such as `jaxgeo.metrics.Euclidean()`")


class AbstractFlow(eqx.Module):
    """A vector field dθ/ds on parameters."""

    @abc.abstractmethod
    def velocity(self, s: Time, jacobian: Jacobian) -> PyTree:
        """dθ/ds of the trainable parameters at flow time `s`, from one linearisation of the outputs."""

    @eqx.filter_jit
    def __call__(self, s: Time, params: Params, problem: Problem) -> PyTree:
        """dθ/ds at flow time `s`; like `params`, and zero at frozen arrays.

        **Raises:** `ValueError` unless `problem` is a problem.
        """
        check_problem(problem)
        jacobian = problem.jacobian(params)
        return jacobian.embed(self.velocity(s, jacobian))

    @abc.abstractmethod
    def required_rank(self, num_rows: int, num_params: int) -> int | None:
        """The rank of D that this flow needs, None for any; raises `ValueError` if D cannot have it."""

    @abc.abstractmethod
    def follows_law(self, num_rows: int, num_params: int) -> bool:
        """Whether the L2 cost falls as e^{-2s/N} along this flow, so that its stopping time is known."""


def check_problem(problem: Any) -> None:
    """Raise `ValueError` unless this is a problem; an ODE solver that got no `args` passes None."""
    if not isinstance(problem, AbstractProblem):
        raise ValueError(
            f"a flow is called as flow(s, params, problem), but `problem` is a {type(problem).__name__}. If diffrax "
            "calls it, pass `args=problem` to `diffeqsolve`."
        )


class OutputFlow(Checked):
    """∂ₛx = −g⁻¹∇ₓC(x): the comparison flow, on the outputs themselves.

    Paper: (1.11), (1.12), and Section 2.3 for another metric

    Used as `flow(s, outputs, problem)`, with outputs of shape (N, Q).

    **Arguments:**

    - `metric`: g on output space; Euclidean by default.
    """

    metric: AbstractMetric = eqx.field(default=Euclidean(), metadata=METRIC)

    @eqx.filter_jit
    def __call__(self, s: Time, outputs: Float[Array, "N Q"], problem: Problem) -> Float[Array, "N Q"]:
        del s
        check_problem(problem)
        gradient = problem.loss.gradient(outputs)
        root = self.metric.root(problem.loss, outputs)
        return -gradient if root is None else -jax.vmap(_raised)(root, gradient)


def _raised(root: AbstractRoot, gradient: Float[Array, " Q"]) -> Float[Array, " Q"]:
    """(LᵀL)⁺g = L⁺(Lᵀ)⁺g for one sample."""
    matrix = jax.vmap(root, out_axes=1)(jnp.eye(gradient.size, dtype=gradient.dtype))
    return jnp.linalg.pinv(matrix) @ root.dual(gradient)


class StandardFlow(AbstractFlow):
    """∂ₛθ = −∇θC = −Dᵀ∇ₓC, the gradient flow in parameter space.

    Paper: (1.9), (1.18), (1.19), (1.22), (3.1), (3.7)

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: a * x, jnp.array([2.0]), jg.L2(jnp.array([4.0])))
    >>> float(jg.StandardFlow()(0.0, jnp.array(1.0), problem))
    4.0

    ```
    """

    def velocity(self, s: Time, jacobian: Jacobian) -> PyTree:
        return jacobian.pull(-jacobian.problem.loss.gradient(jacobian.outputs))

    def required_rank(self, num_rows: int, num_params: int) -> None:
        return None

    def follows_law(self, num_rows: int, num_params: int) -> bool:
        return False
