"""The adapted flows: output velocities, lifted to parameter space."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo._fields import NOT_NEGATIVE, Checked, by
from jaxgeo.flows.base import METRIC, AbstractFlow, Time
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.lifting import check_lift_solver
from jaxgeo.linalg.linearisation import linearised
from jaxgeo.linalg.planning.auto import Auto
from jaxgeo.linalg.solvers import AbstractLiftSolver
from jaxgeo.linalg.solvers.base import FAILED, Damping
from jaxgeo.metrics import AbstractMetric, Euclidean


def lifted(
    jacobian: Jacobian, rows: Float[Array, "rows R"], solver: AbstractLiftSolver, damping: Damping = None
) -> PyTree:
    """The lift of an output velocity, NaN where it failed."""
    velocity, info = solver.solve(jacobian, rows, damping)
    # A trial stage of an ODE step may lie where D is not finite. Adaptive solvers retry a step on NaN, but would take
    # a velocity of zero for an answer.
    return jax.tree.map(lambda leaf: jnp.where(info.outcome == FAILED, jnp.nan, leaf), velocity)


class AbstractLiftedFlow(Checked, AbstractFlow):
    """∂ₛθ = −(LD)⁺(Lᵀ)⁺∇ₓC: the gradient in the metric g = LᵀL on outputs, lifted; −D⁺∇ₓC for g = 1.

    Paper: Section 2.3 for the metric
    """

    solver: AbstractLiftSolver = eqx.field(default=Auto(), metadata=by(check_lift_solver))
    metric: AbstractMetric = eqx.field(default=Euclidean(), metadata=METRIC)
    damping: Damping = eqx.field(default=None, metadata=NOT_NEGATIVE)

    def velocity(self, s: Time, jacobian: Jacobian) -> PyTree:
        self.required_rank(jacobian.out_size(), jacobian.in_size())
        linear = linearised(jacobian, self.metric)
        return lifted(linear.jacobian, linear.descent, self.solver, self.damping)

    def follows_law(self, num_rows: int, num_params: int) -> bool:
        return num_params >= num_rows and isinstance(self.metric, Euclidean) and self.damping is None


class OverparametrizedFlow(AbstractLiftedFlow):
    """∂ₛθ = −Dᵀ(DDᵀ)⁻¹∇ₓC, for K ≥ QN and rank(D) = QN: then ∂ₛx = −∇ₓC exactly.

    Paper: Theorem 2.1, (1.26)–(1.28), (2.4), (2.5)

    **Arguments:**

    - `solver`, `metric`, `damping`: as for `AdaptedFlow`.

    **Raises:** `ValueError` if it is used with K < QN.
    """

    def required_rank(self, num_rows: int, num_params: int) -> int:
        if num_params < num_rows:
            raise ValueError(
                f"`OverparametrizedFlow` needs K ≥ QN; got K={num_params} parameters and QN={num_rows} outputs. "
                "Use `AdaptedFlow` (which chooses) or `UnderparametrizedFlow`, fewer samples, or a larger network."
            )
        return num_rows


class UnderparametrizedFlow(AbstractLiftedFlow):
    """∂ₛθ = −(DᵀD)⁻¹Dᵀ∇ₓC, for K ≤ QN and rank(D) = K: then ∂ₛx = −𝒫∇ₓC.

    Paper: Theorem 5.1, (1.30), (1.31), (5.2), (5.3)

    **Arguments:**

    - `solver`, `metric`, `damping`: as for `AdaptedFlow`.

    **Raises:** `ValueError` if it is used with K > QN.
    """

    def required_rank(self, num_rows: int, num_params: int) -> int:
        if num_params > num_rows:
            raise ValueError(
                f"`UnderparametrizedFlow` needs K ≤ QN; got K={num_params} parameters and QN={num_rows} outputs. "
                "Use `AdaptedFlow` (which chooses) or `OverparametrizedFlow`."
            )
        return num_params


class AdaptedFlow(AbstractLiftedFlow):
    """∂ₛθ = −D⁺∇ₓC for D of full rank: (2.4) where K ≥ QN, (5.2) where K < QN.

    Paper: (2.4), (5.2); (6.2) where K = QN

    If D loses rank on the way, the orbit may end there; `jaxgeo.solve_flow` reports it.

    **Arguments:**

    - `solver`: how to solve for D⁺v; `jaxgeo.linalg.Auto()` by default.
    - `metric`: on output space, for any cost; Euclidean by default. `jaxgeo.metrics.CostHessian()` gives the natural
        gradient.
    - `damping`: if given, the lift is Dᵀ(DDᵀ + λ)⁻¹v with λ = damping · trace(DDᵀ)/QN, and the cost follows no law.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: a * x, jnp.array([2.0]), jg.L2(jnp.array([4.0])))
    >>> float(jg.AdaptedFlow()(0.0, jnp.array(1.0), problem))
    1.0

    ```
    """

    def required_rank(self, num_rows: int, num_params: int) -> int:
        return min(num_rows, num_params)


class RankAdaptiveFlow(AbstractLiftedFlow):
    """∂ₛθ = −D⁺∇ₓC for D of any rank, by least squares: then ∂ₛx = −𝒫∇ₓC.

    Paper: Theorem 4.1, (4.5)–(4.7)

    Equal to `AdaptedFlow` at full rank, with the same solver, but it does not require full rank. A smooth filter
    leaves out singular values of D below round-off, so the field stays continuous: the flow neither stalls nor jumps as
    rank is lost. Record `jaxgeo.linalg.rank_record` to see this. If D loses rank on the way, `jaxgeo.solve_flow`
    continues, and reports where it happened (`rank_lost_at`) and which continuation it took (`continuation`).

    **Arguments:**

    - `solver`: how to solve; `Auto()` by default. Its `cutoff` decides which singular values count.
    - `metric`, `damping`: as for `AdaptedFlow`.
    """

    def required_rank(self, num_rows: int, num_params: int) -> None:
        return None
