"""Train along the straight line from the outputs to their targets."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo._checks import check_count, check_kind, is_concrete
from jaxgeo.flows import InterpolationFlow
from jaxgeo.integrate.field import Field
from jaxgeo.linalg.lifting import check_solver
from jaxgeo.linalg.linearisation import counted
from jaxgeo.linalg.rank import check_rank
from jaxgeo.linalg.solvers import AbstractLiftSolver
from jaxgeo.outputs import Params
from jaxgeo.problem import Problem

_LOST = (
    "the walk along the straight line ended with a higher cost than it started with. Take more steps (`num_steps`) or "
    "a `solver` of higher order; or use `solve_flow`, whose steps are adaptive."
)


class InterpolationSolution(eqx.Module):
    """The result of a walk along the straight line. Printing it says how the walk ended.

    - `params`: θ at the end, t = 1.
    - `t`: times of the record, from 0 to 1; the steps at the end point all have t = 1.
    - `costs`: C at those times; by the law they are (1 − t)²C(0).
    """

    params: Params
    t: Float[Array, " steps"]
    costs: Float[Array, " steps"]

    def __repr__(self) -> str:
        name = type(self).__name__
        if not is_concrete(self) or self.costs.ndim > 1:
            return f"{name}, traced or of several walks: t {self.t.shape}, costs {self.costs.shape}"
        line = int(jnp.sum(self.t < 1))
        before, end = float(self.costs[0]), float(self.costs[-1])
        how = "it reached the end of the line" if end <= before else "it left the line, the cost is above the first"
        lines = [f"{name}: {how}", f"cost {end:.3g} at t = 1, {before:.3g} at the start"]
        if line:
            t, last = float(self.t[line - 1]), float(self.costs[line - 1])
            lines.append(f"cost {last:.3g} at t = {t:.3g}, by the law of the line {(1 - t) ** 2 * before:.3g}")
        return "\n    ".join([*lines, f"{len(self.t) - 1} steps"])

    @property
    def final_cost(self) -> Float[Array, ""]:
        """C at the end."""
        return self.costs[-1]


def solve_interpolation(
    problem: Problem,
    params: Params,
    *,
    num_steps: int = 8,
    end_steps: int = 4,
    open_loop: bool = False,
    solver: dfx.AbstractSolver | None = None,
    lift_solver: AbstractLiftSolver | None = None,
    rank_check: bool = True,
    throw: bool = True,
) -> InterpolationSolution:
    """Integrate `InterpolationFlow` with equal steps from t = 0 to the end point t = 1.

    Reference: T. Chen, P. Muñoz Ewald, Gradient flow in parameter space is equivalent to linear interpolation in
    output space, 2024, arXiv 2408.01517

    The self-correcting form is singular at t = 1, where higher-order stages would divide by zero. Its last step, from
    1 − h to 1, is therefore an Euler step. With the field −D⁺(x − y)/h this is a full Newton step. In all, `end_steps`
    Newton steps are taken at the end point, and they converge quadratically to x = y. The open-loop form has no
    singularity and is integrated to t = 1 directly, with the error of the solver.

    **Arguments:**

    - `num_steps`: the number of steps on the line. The last one of the self-correcting form is at the end point.
    - `end_steps`: the number of Newton steps at the end point. The first of them completes the line; a step that would
        not lower the cost is not taken. Not used by the open-loop form.
    - `open_loop`: use D⁺(y − x₀) instead of D⁺(y − x)/(1 − t).
    - `solver`: a diffrax solver without error control; `diffrax.Euler()` by default.
    - `lift_solver`: how to lift; `jaxgeo.linalg.Auto()` by default.
    - `rank_check`, `throw`: as for `jaxgeo.solve_flow`; a walk fails if it ends with a higher cost than at the start.

    **Returns:** an `InterpolationSolution`.

    **Raises:** `ValueError` if a number of steps is below 1, or if the rank of D at `params` is below min(QN, K);
    `RuntimeError` if the walk fails and `throw` is set.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: jnp.tanh(a @ x), jnp.eye(2), jg.L2(jnp.array([0.5, -0.5])))
    >>> bool(jg.solve_interpolation(problem, jnp.zeros(2)).final_cost < 1e-30)
    True

    ```
    """
    check_count("num_steps", num_steps)
    check_count("end_steps", end_steps)
    if solver is not None:
        check_kind("solver", solver, dfx.AbstractSolver, "a diffrax solver, such as `diffrax.Euler()`")
    lift_solver = check_solver(lift_solver, "lift_solver")
    problem = problem.without_ignored()
    problem.check(params)
    initial_deviation = problem.loss.deviation(problem.outputs(params)) if open_loop else None
    flow = InterpolationFlow(initial_deviation, lift_solver)
    required = flow.required_rank(problem.num_rows(params), problem.num_params(params))
    if rank_check and is_concrete((params, problem)):
        check_rank(problem, params, required)

    t, costs, end = _walk(
        problem, params, flow, dfx.Euler() if solver is None else solver, int(num_steps), int(end_steps)
    )
    lost = ~(costs[-1] <= costs[0])
    if throw and is_concrete(lost):
        if lost:
            raise RuntimeError(_LOST)
    elif throw:
        costs = eqx.error_if(costs, lost, _LOST)
    return InterpolationSolution(end, t, costs)


@eqx.filter_jit
def _walk(
    problem: Problem,
    params: Params,
    flow: InterpolationFlow,
    solver: dfx.AbstractSolver,
    num_steps: int,
    end_steps: int,
) -> tuple[Float[Array, " steps"], Float[Array, " steps"], Params]:
    problem, trainable = problem.restrict(params)
    open_loop = flow.initial_deviation is not None
    last = num_steps if open_loop else num_steps - 1
    dtype = jnp.result_type(*jax.tree.leaves(trainable))
    times = jnp.arange(last + 1, dtype=dtype) / num_steps
    costs = problem.cost(trainable)[None]
    if last:
        walk = dfx.diffeqsolve(
            dfx.ODETerm(Field(flow)),
            solver,
            t0=times[0],
            t1=times[-1],
            dt0=None,
            y0=trainable,
            args=problem,
            stepsize_controller=dfx.StepTo(times),
            saveat=dfx.SaveAt(subs=[dfx.SubSaveAt(t1=True), dfx.SubSaveAt(steps=True, fn=_cost)]),
            max_steps=last,
            throw=False,
        )
        assert walk.ys is not None
        trainable = jax.tree.map(lambda leaf: leaf[0], walk.ys[0])
        costs = jnp.concatenate([costs, walk.ys[1]])
    if open_loop:
        return times, costs, problem.extend(trainable)[1]

    def newton(carry: tuple[PyTree, Array], step: None) -> tuple[tuple[PyTree, Array], Array]:
        trainable, before = carry
        jacobian = problem.jacobian(trainable)
        change, _ = flow.solver.solve(*counted(jacobian, -problem.loss.deviation(jacobian.outputs)))
        moved = jax.tree.map(jnp.add, trainable, change)
        after = problem.cost(moved)
        better = after < before
        trainable = jax.tree.map(lambda new, old: jnp.where(better, new, old), moved, trainable)
        after = jnp.where(better, after, before)
        return (trainable, after), after

    (trainable, _), ends = jax.lax.scan(newton, (trainable, costs[-1]), None, length=end_steps)
    times = jnp.concatenate([times, jnp.ones(end_steps, dtype)])
    return times, jnp.concatenate([costs, ends]), problem.extend(trainable)[1]


def _cost(t: float | Float[Array, ""], trainable: PyTree, problem: Problem) -> Float[Array, ""]:
    return problem.cost(trainable)
