"""`solve_flow`: train by integrating a flow with a diffrax solver."""

from collections.abc import Callable

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Float, PyTree

from jaxgeo import theory
from jaxgeo._checks import is_concrete
from jaxgeo.flows import AbstractFlow
from jaxgeo.integrate.controller import OutputController
from jaxgeo.integrate.solution import RESULTS, FlowSolution
from jaxgeo.linalg.spectrum import check_rank
from jaxgeo.problem import Params, Problem

Scalar = float | Float[Array, ""]
Record = Callable[[Float[Array, ""], Params, Problem], PyTree]


def solve_flow(
    problem: Problem,
    flow: AbstractFlow,
    params: Params,
    *,
    s1: Scalar | None = None,
    cost_tol: Scalar | None = None,
    solver: dfx.AbstractSolver | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    stepsize_controller: dfx.AbstractStepSizeController | None = None,
    dt0: Scalar | None = None,
    save_at: Float[Array, " times"] | None = None,
    record: Record | None = None,
    max_steps: int = 4096,
    adjoint: dfx.AbstractAdjoint | None = None,
    progress_meter: dfx.AbstractProgressMeter | None = None,
    rank_check: bool = True,
    throw: bool = True,
) -> FlowSolution:
    """Integrate dθ/ds = flow(s, θ, problem) from s = 0 until `s1`, or until the cost reaches `cost_tol`.

    **Arguments:**

    - `problem`, `flow`, `params`: what to train, along which flow, from where.
    - `s1`: flow time to stop at, in the unit in which the cost decays as e^{-2s/N}. At least one of `s1` and
        `cost_tol` is needed; with both, whichever comes first.
    - `cost_tol`: cost to stop at. The moment is found by a root finder inside the last step.
    - `solver`: a diffrax solver; `diffrax.Tsit5()` by default.
    - `rtol`, `atol`: tolerances of the error of a step in output space, relative to the deviation x − y and in
        units of the outputs; by default 1e-6 in float64, 1e-3 in float32, and (practically) 0.
    - `stepsize_controller`: any diffrax controller, in place of `jaxgeo.OutputController(rtol, atol)`.
    - `dt0`: the first step; chosen from the speed of the outputs by default.
    - `save_at`: flow times at which to record, in place of every accepted step. Steps are clipped to land on
        them, so that what is recorded is not interpolated.
    - `record`: a function `(s, params, problem)` of more to record beside the cost, such as test accuracy.
    - `max_steps`, `adjoint`, `progress_meter`: as for `diffrax.diffeqsolve`.
    - `rank_check`: whether to make sure first that D has the rank at `params` that `flow` needs.
    - `throw`: raise if the integration fails; otherwise see `result`.

    **Returns:** a `jaxgeo.integrate.FlowSolution`.

    **Raises:** `ValueError` before anything is compiled if data, parameters or times are unusable, or the rank
    of D at `params` is too small for `flow`; `RuntimeError` from a failed integration if `throw`.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: jnp.tanh(a @ x), jnp.eye(2), jg.L2(jnp.array([0.5, -0.5])))
    >>> sol = jg.solve_flow(problem, jg.AdaptedFlow(), jnp.zeros(2), cost_tol=1e-3)
    >>> bool(abs(sol.s[-1] / sol.stopping_time - 1) < 1e-4)
    True

    ```
    """
    problem.check(params)
    trainable, frozen = problem.partition(params)
    dtype = jnp.result_type(*jax.tree.leaves(trainable))
    cost0 = problem.cost(params)
    _check_stop(s1, cost_tol)
    rows, size = problem.num_rows(params), problem.num_params(params)
    required = flow.required_rank(rows, size)
    if rank_check and required is not None and is_concrete((params, problem)):
        check_rank(problem.jacobian(params), required)

    stopping_time = None if cost_tol is None else theory.stopping_time(cost0, cost_tol, problem.num_samples)
    if s1 is None:
        # The law says when the tolerance is reached; what follows it does not need more than a few per cent longer.
        s1 = 1.05 * stopping_time if flow.follows_law(rows, size) else jnp.inf
    # A float64 time would promote float32 parameters.
    s1 = jnp.asarray(s1, dtype)
    if is_concrete(cost0) and cost_tol is not None and cost0 <= cost_tol:
        s1 = jnp.zeros((), dtype)

    solver = dfx.Tsit5() if solver is None else solver
    eps = float(jnp.finfo(dtype).eps)
    if rtol is None:
        rtol = 1e-6 if eps < 1e-10 else 1e-3
    if stepsize_controller is None:
        stepsize_controller = OutputController(rtol, eps * rtol if atol is None else atol, frozen=frozen)
    if save_at is not None:
        save_at = jnp.asarray(save_at, dtype)
        stepsize_controller = dfx.ClipStepSizeController(stepsize_controller, step_ts=save_at)
    observe = _Observe(frozen, record)
    event = None
    if cost_tol is not None:
        # Round-off in x − y limits how well log C is defined, the more so the smaller the cost.
        noise = 100 * eps * jnp.maximum(1.0, 1 / jnp.sqrt(jnp.asarray(cost_tol, dtype)))
        finder = optx.Newton(rtol=eps**0.5, atol=eps**0.5 + noise)
        event = dfx.Event(_CostReached(frozen, jnp.asarray(cost_tol, dtype)), finder, direction=False)

    solution = dfx.diffeqsolve(
        dfx.ODETerm(_Field(flow, frozen)),
        solver,
        t0=jnp.zeros((), dtype),
        t1=s1,
        dt0=None if dt0 is None else jnp.asarray(dt0, dtype),
        y0=trainable,
        args=problem,
        saveat=dfx.SaveAt(
            subs=[
                dfx.SubSaveAt(t1=True),
                dfx.SubSaveAt(t0=True, steps=True, fn=observe)
                if save_at is None
                else dfx.SubSaveAt(ts=save_at, fn=observe),
            ]
        ),
        stepsize_controller=stepsize_controller,
        adjoint=dfx.RecursiveCheckpointAdjoint() if adjoint is None else adjoint,
        event=event,
        max_steps=max_steps,
        throw=False,
        progress_meter=dfx.NoProgressMeter() if progress_meter is None else progress_meter,
    )
    final, recorded = solution.ys
    s, (costs, records) = solution.ts[1], recorded
    result = RESULTS.promote(solution.result)
    if cost_tol is not None:
        reached = (result == RESULTS.event_occurred) | (cost0 <= cost_tol)
        missed = (result == RESULTS.successful) & ~reached
        result = RESULTS.where(missed, RESULTS.cost_tol_not_reached, result)
        result = RESULTS.where(reached, RESULTS.successful, result)
    if throw:
        final = result.error_if(final, result != RESULTS.successful)
    s, costs, records = _trim(s, costs, records)
    final = eqx.combine(jax.tree.map(lambda leaf: leaf[0], final), frozen)
    return FlowSolution(final, s, costs, problem.num_samples, stopping_time, records, result, solution.stats)


class _Field(eqx.Module):
    """The flow on the trainable part of params alone."""

    flow: AbstractFlow
    frozen: PyTree

    def __call__(self, s: Scalar, trainable: PyTree, problem: Problem) -> PyTree:
        return self.flow.velocity(s, problem.jacobian(eqx.combine(trainable, self.frozen)))


class _Observe(eqx.Module):
    """What is recorded at a moment of the flow."""

    frozen: PyTree
    record: Record | None

    def __call__(self, s: Scalar, trainable: PyTree, problem: Problem) -> tuple[Float[Array, ""], PyTree]:
        params = eqx.combine(trainable, self.frozen)
        return problem.cost(params), None if self.record is None else self.record(s, params, problem)


class _CostReached(eqx.Module):
    """Zero where the cost is `cost_tol`; nearly linear in s, which is what the root finder likes."""

    frozen: PyTree
    cost_tol: Float[Array, ""]

    def __call__(self, t, y, args, **kwargs) -> Float[Array, ""]:
        del t, kwargs
        return jnp.log(args.cost(eqx.combine(y, self.frozen)) / self.cost_tol)


def _check_stop(s1: Scalar | None, cost_tol: Scalar | None) -> None:
    if s1 is None and cost_tol is None:
        raise ValueError("pass `s1` (a flow time), `cost_tol` (a cost), or both; got neither.")
    for name, value in (("s1", s1), ("cost_tol", cost_tol)):
        if value is not None and is_concrete(value) and not value > 0:
            raise ValueError(f"`{name}` must be positive; got {value}.")


def _trim(s: Float[Array, " times"], costs: Float[Array, " times"], records: PyTree) -> tuple[Array, Array, PyTree]:
    """Drop the unused places of the record, which diffrax fills with infinity."""
    if not is_concrete(s):
        return s, costs, records
    used = jnp.isfinite(s)
    return jax.tree.map(lambda leaf: leaf[used], (s, costs, records))
