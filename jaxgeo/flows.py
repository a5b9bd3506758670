"""The vector fields: output velocities, and their lifts to parameter space.

Each flow is called as `flow(s, params, problem)`, which is diffrax's `(t, y, args)`, so that
`diffrax.ODETerm(flow)` with `args=problem` is its ODE. All have the descent sign.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.solvers import AbstractLiftSolver, Auto
from jaxgeo.linalg.solvers.base import FAILED
from jaxgeo.problem import Params, Problem

Time = float | Float[Array, ""]


class AbstractFlow(eqx.Module):
    """A vector field dθ/ds on parameters."""

    @abc.abstractmethod
    def velocity(self, s: Time, jacobian: Jacobian) -> PyTree:
        """dθ/ds of the trainable parameters at flow time `s`, from one linearisation of the outputs."""

    @eqx.filter_jit
    def __call__(self, s: Time, params: Params, problem: Problem) -> PyTree:
        """dθ/ds at flow time `s`; like `params`, and zero at frozen arrays."""
        jacobian = problem.jacobian(params)
        return jacobian.embed(self.velocity(s, jacobian))

    @abc.abstractmethod
    def required_rank(self, num_rows: int, num_params: int) -> int | None:
        """The rank that D must have for this flow to be defined, None for any; `ValueError` if out of reach."""

    @abc.abstractmethod
    def follows_law(self, num_rows: int, num_params: int) -> bool:
        """Whether the L2 cost falls as e^{-2s/N} along this flow, so that its stopping time is known."""


class OutputFlow(eqx.Module):
    """∂ₛx = −∇ₓC(x): the comparison flow, on the outputs themselves.

    Paper: (1.11)

    Used as `flow(s, outputs, problem)`, with outputs of shape (N, Q).
    """

    @eqx.filter_jit
    def __call__(self, s: Time, outputs: Float[Array, "N Q"], problem: Problem) -> Float[Array, "N Q"]:
        del s
        return -problem.loss.gradient(outputs)


class StandardFlow(AbstractFlow):
    """∂ₛθ = −∇θC = −Dᵀ∇ₓC, the gradient flow in parameter space.

    Paper: (1.9), (1.18)

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: a * x, jnp.array([2.0]), jg.L2(jnp.array([4.0])))
    >>> float(jg.StandardFlow()(0.0, jnp.array(1.0), problem))
    4.0

    ```
    """

    def velocity(self, s: Time, jacobian: Jacobian) -> PyTree:
        return jacobian.T.mv(-jacobian.problem.loss.gradient(jacobian.outputs))

    def required_rank(self, num_rows: int, num_params: int) -> None:
        return None

    def follows_law(self, num_rows: int, num_params: int) -> bool:
        return False


class AbstractLiftedFlow(AbstractFlow):
    """∂ₛθ = −D⁺∇ₓC: the output velocity −∇ₓC, lifted."""

    solver: eqx.AbstractVar[AbstractLiftSolver | None]

    def velocity(self, s: Time, jacobian: Jacobian) -> PyTree:
        self.required_rank(jacobian.out_size(), jacobian.in_size())
        solver = Auto() if self.solver is None else self.solver
        velocity, info = solver.solve(jacobian, -jacobian.problem.loss.gradient(jacobian.outputs))
        # A trial stage of an ODE step may lie where D is not finite. An adaptive step is retried on NaN, and would
        # take a zero velocity for an answer.
        return jax.tree.map(lambda leaf: jnp.where(info.outcome == FAILED, jnp.nan, leaf), velocity)

    def follows_law(self, num_rows: int, num_params: int) -> bool:
        return num_params >= num_rows


class OverparametrizedFlow(AbstractLiftedFlow):
    """∂ₛθ = −Dᵀ(DDᵀ)⁻¹∇ₓC, for K ≥ QN and rank(D) = QN: then ∂ₛx = −∇ₓC exactly.

    Paper: (1.26), (2.4)
    """

    solver: AbstractLiftSolver = Auto()

    def required_rank(self, num_rows: int, num_params: int) -> int:
        if num_params < num_rows:
            raise ValueError(
                f"`OverparametrizedFlow` needs K ≥ QN; got K={num_params} parameters and QN={num_rows} outputs. "
                "Use `AdaptedFlow` (which chooses) or `UnderparametrizedFlow`, fewer samples, or a larger network."
            )
        return num_rows


class UnderparametrizedFlow(AbstractLiftedFlow):
    """∂ₛθ = −(DᵀD)⁻¹Dᵀ∇ₓC, for K ≤ QN and rank(D) = K: then ∂ₛx = −𝒫∇ₓC.

    Paper: (5.2), (5.3)
    """

    solver: AbstractLiftSolver = Auto()

    def required_rank(self, num_rows: int, num_params: int) -> int:
        if num_params > num_rows:
            raise ValueError(
                f"`UnderparametrizedFlow` needs K ≤ QN; got K={num_params} parameters and QN={num_rows} outputs. "
                "Use `AdaptedFlow` (which chooses) or `OverparametrizedFlow`."
            )
        return num_params


class AdaptedFlow(AbstractLiftedFlow):
    """∂ₛθ = −D⁺∇ₓC for D of full rank: (2.4) where K ≥ QN, (5.2) where K < QN.

    Paper: (2.4), (5.2)

    **Arguments:**

    - `solver`: how to solve for D⁺v; `jaxgeo.linalg.Auto()` by default.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: a * x, jnp.array([2.0]), jg.L2(jnp.array([4.0])))
    >>> float(jg.AdaptedFlow()(0.0, jnp.array(1.0), problem))
    1.0

    ```
    """

    solver: AbstractLiftSolver | None = None

    def required_rank(self, num_rows: int, num_params: int) -> int:
        return min(num_rows, num_params)


class RankAdaptiveFlow(AbstractLiftedFlow):
    """∂ₛθ = −D⁺∇ₓC for D of any rank, by least squares: then ∂ₛx = −𝒫∇ₓC.

    Paper: (4.5)

    Equal to `AdaptedFlow` at full rank, whose solver it shares; it only makes no demand on the rank. Where singular
    values of D fall below round-off they are left out by a smooth filter, so that the field stays continuous:
    the flow neither stalls nor jumps as rank is lost. Record `jaxgeo.linalg.rank_record` to see it.

    **Arguments:**

    - `solver`: how to solve; `Auto()` by default. Its `cutoff` decides which singular values count.
    """

    solver: AbstractLiftSolver = Auto()

    def required_rank(self, num_rows: int, num_params: int) -> None:
        return None
