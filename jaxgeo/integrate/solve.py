"""`solve_flow`: train by integrating a flow with a diffrax solver."""

import warnings
from collections.abc import Callable
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, PyTree

from jaxgeo import theory
from jaxgeo._checks import is_concrete
from jaxgeo.costs.squares import AbstractSquares
from jaxgeo.flows import AbstractFlow
from jaxgeo.integrate.controller import OutputController
from jaxgeo.integrate.corrector import OrbitCorrector
from jaxgeo.integrate.events import CostReached, DownwardCrossing, Stalled
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
    save_at: ArrayLike | None = None,
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
        `cost_tol` is needed; with both, whichever comes first, and `result` says which.
    - `cost_tol`: cost to stop at. The moment is found by bisection inside the last step. A flow that has no law
        may never get there: it is also stopped where its cost has all but ceased to fall.
    - `solver`: a diffrax solver; `diffrax.Tsit5()` by default.
    - `rtol`, `atol`: tolerances of the error of a step in output space, relative to the deviation x − y and in
        units of the outputs; by default 1e-6 in float64, 1e-3 in float32, and the round-off in x − y.
    - `stepsize_controller`: any diffrax controller, in place of `jaxgeo.OutputController(rtol, atol)`.
    - `dt0`: the first step; chosen from the speed of the outputs by default.
    - `save_at`: increasing flow times at which to record, in place of every accepted step. Steps of an adaptive
        controller are clipped to land on them, so that what is recorded is not interpolated. Times that lie
        beyond the end where that is set by `cost_tol` are dropped.
    - `record`: a function `(s, params, problem)` of more to record beside the cost, such as test accuracy; the
        numbers come back as floating point.
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
    _check_times(s1, cost_tol, dt0, save_at)
    problem.check(params)
    trainable, frozen = problem.partition(params)
    dtype = jnp.result_type(*jax.tree.leaves(trainable))
    rows, size = problem.num_rows(params), problem.num_params(params)
    required = flow.required_rank(rows, size)
    if rank_check and required is not None and is_concrete((params, problem)):
        check_rank(problem, params, required)

    cost0 = problem.cost(params)
    law = flow.follows_law(rows, size) and isinstance(problem.loss, AbstractSquares)
    end, stopping_time = _end(problem, cost0, s1, cost_tol, law)
    # A float64 time would promote float32 parameters.
    end = jnp.asarray(end, dtype)
    eps = float(jnp.finfo(dtype).eps)
    if rtol is None:
        rtol = 1e-6 if eps < 1e-10 else 1e-3
    if stepsize_controller is None:
        # Steps this short mean that no step at all is good enough: the velocity is not finite or jumps.
        pid = dfx.PIDController(rtol, 0.0, dtmin=1e-10 * problem.num_samples, force_dtmin=False)
        stepsize_controller = OutputController(
            rtol, eps * jnp.maximum(_size(problem, params), rtol) if atol is None else atol, pid, frozen=frozen
        )
    if save_at is not None:
        save_at = _within(jnp.asarray(save_at, dtype), end)
        if isinstance(stepsize_controller, dfx.AbstractAdaptiveStepSizeController):
            stepsize_controller = dfx.ClipStepSizeController(stepsize_controller, step_ts=save_at)
    observe = _Observe(frozen, record)
    solver = dfx.Tsit5() if solver is None else solver
    if isinstance(solver, OrbitCorrector):
        solver = _prepare(solver, frozen, exact=law and required == rows)
    event = None
    if cost_tol is not None:
        events: list[CostReached | Stalled] = [CostReached(frozen, jnp.asarray(cost_tol, dtype))]
        if not law:
            # What the tolerance of a step leaves of a velocity that should be zero counts as zero.
            events.append(Stalled(flow, frozen, (10 * rtol) ** 2))
        event = dfx.Event(events, DownwardCrossing(rtol=4 * eps), direction=False)

    solution = dfx.diffeqsolve(
        dfx.ODETerm(_Field(flow, frozen)),
        solver,
        t0=jnp.zeros((), dtype),
        t1=end,
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
    assert solution.ys is not None
    assert solution.ts is not None
    final, (costs, records) = solution.ys
    final_s, s = solution.ts
    final = jax.tree.map(lambda leaf: leaf[0], final)
    if isinstance(solver, OrbitCorrector) and event is not None:
        # An event ends between two steps, where the orbit is interpolated.
        change = solver.change(solver.start(0.0, trainable, problem), final_s[0], final, problem)
        final = jax.tree.map(jnp.add, final, change)
    result = _result(solution, cost0, cost_tol)
    if throw:
        # Coming to the end of an `s1` that was asked for is no failure, although the result tells.
        accepted = result == RESULTS.successful
        if s1 is not None:
            accepted = accepted | (result == RESULTS.cost_tol_not_reached)
        final = _raise_unless(accepted, final, result)
    final = eqx.combine(final, frozen)
    s, costs, records = _trim(s, costs, records)
    return FlowSolution(
        params=final,
        s=s,
        costs=costs,
        num_samples=problem.num_samples,
        initial_cost=cost0,
        final_s=final_s[0],
        final_cost=problem.cost(final),
        stopping_time=stopping_time,
        records=records,
        result=result,
        stats=solution.stats,
    )


def _prepare(solver: OrbitCorrector, frozen: PyTree, exact: bool) -> OrbitCorrector:
    if not exact:
        warnings.warn(
            "`OrbitCorrector` corrects only what lies in range(D) along a flow that makes no demand of rank(D) = QN. "
            "That is right where range(D) does not change along the orbit; where it turns, the corrected orbit is "
            "another curve to the same critical points.",
            stacklevel=3,
        )
    return eqx.tree_at(lambda solver: solver.frozen, solver, frozen, is_leaf=lambda leaf: leaf is None)


class _Field(eqx.Module):
    """The flow on the trainable part of params alone."""

    flow: AbstractFlow
    frozen: PyTree

    def __call__(self, s: Any, trainable: PyTree, problem: Problem) -> PyTree:
        return self.flow.velocity(s, problem.jacobian(eqx.combine(trainable, self.frozen)))


class _Observe(eqx.Module):
    """What is recorded at a moment of the flow."""

    frozen: PyTree
    record: Record | None

    def __call__(self, s: Any, trainable: PyTree, problem: Problem) -> tuple[Float[Array, ""], PyTree]:
        params = eqx.combine(trainable, self.frozen)
        cost = problem.cost(params)
        # diffrax marks places that it does not use with infinity, which integers and booleans cannot hold.
        records = None if self.record is None else self.record(s, params, problem)
        return cost, jax.tree.map(
            lambda leaf: leaf if eqx.is_inexact_array(leaf) else jnp.asarray(leaf, cost.dtype), records
        )


def _check_times(s1: Scalar | None, cost_tol: Scalar | None, dt0: Scalar | None, save_at: ArrayLike | None) -> None:
    if s1 is None and cost_tol is None:
        raise ValueError("pass `s1` (a flow time), `cost_tol` (a cost), or both; got neither.")
    for name, value in (("s1", s1), ("cost_tol", cost_tol), ("dt0", dt0)):
        if value is not None and is_concrete(value) and not 0 < value < jnp.inf:
            raise ValueError(f"`{name}` must be positive and finite; got {value}.")
    if save_at is None or not is_concrete(save_at):
        return
    times = np.asarray(save_at)
    if times.ndim != 1 or times.size == 0:
        raise ValueError(f"`save_at` must be a vector of flow times; got shape {times.shape}.")
    if not (np.isfinite(times).all() and times[0] >= 0 and (np.diff(times) > 0).all()):
        raise ValueError(f"`save_at` must be increasing and not negative; got {save_at}.")
    if s1 is not None and is_concrete(s1) and times[-1] > s1:
        raise ValueError(f"`save_at` must not go beyond `s1`={s1}; got {times[-1]}.")


def _end(
    problem: Problem, cost0: Float[Array, ""], s1: Scalar | None, cost_tol: Scalar | None, law: bool
) -> tuple[Scalar, Float[Array, ""] | None]:
    """When to stop at the latest, and s_ε."""
    if cost_tol is None:
        assert s1 is not None
        return s1, None
    stopping_time = theory.stopping_time(cost0, cost_tol, problem.num_samples)
    if s1 is None:
        # The law says when the tolerance is reached; what follows it needs little longer than that.
        s1 = 1.05 * stopping_time + 0.1 * problem.num_samples if law else jnp.inf
    return jnp.where(cost0 <= cost_tol, 0, s1), stopping_time


def _within(save_at: Float[Array, " times"], end: Float[Array, ""]) -> Float[Array, " kept"]:
    """Those of the times that come before the end; where that is not known yet, the others moved to the end."""
    if is_concrete((save_at, end)):
        return save_at[save_at <= end]
    return jnp.minimum(save_at, end)


def _result(solution: dfx.Solution, cost0: Float[Array, ""], cost_tol: Scalar | None) -> RESULTS:
    result: Any = RESULTS.promote(solution.result)
    result = RESULTS.where(result == RESULTS.dt_min_reached, RESULTS.step_size_vanished, result)
    if cost_tol is None or solution.event_mask is None:
        return result
    stopped = result == RESULTS.event_occurred
    ended = result == RESULTS.successful
    result = RESULTS.where(stopped, RESULTS.stalled, result)
    result = RESULTS.where(ended, RESULTS.cost_tol_not_reached, result)
    reached = (stopped & solution.event_mask[0]) | (cost0 <= cost_tol)
    successful: Any = RESULTS.successful
    return RESULTS.where(reached, successful, result)


def _raise_unless(accepted: Bool[Array, "..."], final: PyTree, result: RESULTS) -> PyTree:
    if is_concrete(accepted):
        if not accepted:
            raise RuntimeError(f"{RESULTS[result]} With `throw=False` the part that was integrated is returned.")
        return final
    return result.error_if(final, ~accepted)


def _size(problem: Problem, params: Params) -> Float[Array, ""]:
    """The size of outputs and targets: times eps, the round-off in x − y, below which no step's error can come."""
    outputs = problem.outputs(params)
    aim = outputs - problem.loss.deviation(outputs)
    # Outputs and targets that are all zero must not make the tolerance zero.
    return jnp.maximum(jnp.sqrt(jnp.mean(outputs**2) + jnp.mean(aim**2)), jnp.finfo(outputs.dtype).tiny ** 0.5)


def _trim(s: Float[Array, " times"], costs: Float[Array, " times"], records: PyTree) -> tuple[Array, Array, PyTree]:
    """Drop the unused places of the record, which diffrax fills with infinity, and moments recorded twice."""
    if not is_concrete(s):
        return s, costs, records
    used = jnp.isfinite(s) & (jnp.diff(s, prepend=-1) > 0)
    return jax.tree.map(lambda leaf: leaf[used], (s, costs, records))
