"""`solve_flow`: train by integrating a flow with a diffrax solver."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from jaxgeo._checks import check_count, check_flag, check_function, check_kind, is_concrete
from jaxgeo.costs.squares import AbstractSquares
from jaxgeo.flows import AbstractFlow
from jaxgeo.integrate.controller import OutputController, default_rtol
from jaxgeo.integrate.corrector import OrbitCorrector
from jaxgeo.integrate.events import CostReached, Stalled, Threshold
from jaxgeo.integrate.field import Field, Measured, PathLengths, trainable_of
from jaxgeo.integrate.solution import RESULTS, FlowSolution
from jaxgeo.integrate.stops import Stops
from jaxgeo.integrate.times import Scalar, check_times, check_tolerances, latest_end, times_after, times_within
from jaxgeo.linalg.spectrum import check_rank
from jaxgeo.problem import Params, Problem

Record = Callable[[Float[Array, ""], Params, Problem], PyTree]
Restart = Callable[[Problem, Params], Params]


def solve_flow(
    problem: Problem,
    flow: AbstractFlow,
    params: Params,
    *,
    s0: Scalar = 0.0,
    s1: Scalar | None = None,
    cost_tol: Scalar | None = None,
    events: Sequence[Threshold] = (),
    solver: dfx.AbstractSolver | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    stepsize_controller: dfx.AbstractStepSizeController | None = None,
    dt0: Scalar | None = None,
    save_at: ArrayLike | None = None,
    record: Record | None = None,
    path_lengths: bool = False,
    restart: Restart | None = None,
    max_restarts: int = 3,
    max_steps: int = 4096,
    adjoint: dfx.AbstractAdjoint | None = None,
    progress_meter: dfx.AbstractProgressMeter | None = None,
    rank_check: bool = True,
    throw: bool = True,
) -> FlowSolution:
    """Integrate dθ/ds = flow(s, θ, problem) from `s0` until `s1`, or until the cost reaches `cost_tol`.

    Paper: Theorem 2.3, (2.17)–(2.21), for the stopping time

    **Arguments:**

    - `problem`, `flow`, `params`: what to train, along which flow, from where.
    - `s0`: flow time at `params`, not negative: to resume an orbit, pass `params` and `final_s` of its solution.
    - `s1`: flow time to stop at, in the unit in which the cost decays as e^{-2s/N}. At least one of `s1` and
        `cost_tol` is needed; with both, whichever comes first, and `result` says which.
    - `cost_tol`: cost to stop at. The moment is found by bisection inside the last step. A flow that has no law
        may never get there: it is also stopped where its cost has all but ceased to fall.
    - `events`: functions `(s, params, problem)` of a number, which stop the integration where it falls through zero,
        or of a boolean, which stop it after the step in which it becomes true; such as `jaxgeo.GradientBelow(tol)`.
        `event` of the solution says which one it was.
    - `solver`: a diffrax solver; `diffrax.Tsit5()` by default. Wrapped as `jaxgeo.OrbitCorrector(solver)`, it keeps the
        outputs on their law to round-off.
    - `rtol`, `atol`: tolerances of the error of a step in output space, relative to the deviation x − y and in
        units of the outputs; by default 1e-6 in float64, 1e-3 in float32, and the round-off in x − y.
    - `stepsize_controller`: any diffrax controller, in place of `jaxgeo.OutputController(rtol, atol)`.
    - `dt0`: the first step; chosen from the speed of the outputs by default.
    - `save_at`: increasing flow times at which to record, in place of every accepted step. Steps of an adaptive
        controller are clipped to land on them, so that what is recorded is not interpolated. Times that lie
        beyond the end where that is set by `cost_tol` are dropped.
    - `record`: a function `(s, params, problem)` of more to record beside the cost, such as test accuracy; the
        numbers come back as floating point.
    - `path_lengths`: whether to integrate the lengths of the path in θ and in x along with it.
    - `restart`: a function `(problem, params)` of new parameters to go on from where the cost has ceased to fall, such
        as `jaxgeo.geometry.escape`; at most `max_restarts` times. Not under `jax.jit`.
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
    check_kind("problem", problem, Problem, "a `jaxgeo.Problem`")
    check_kind("flow", flow, AbstractFlow, "a flow, such as `jaxgeo.AdaptedFlow()`")
    if not isinstance(events, Sequence) or not all(callable(event) for event in events):
        raise ValueError(f"`events` must be a list of functions (s, params, problem); got {events!r}.")
    if solver is not None:
        check_kind("solver", solver, dfx.AbstractSolver, "a diffrax solver, such as `diffrax.Tsit5()`")
    if stepsize_controller is not None:
        controllers = dfx.AbstractStepSizeController
        check_kind("stepsize_controller", stepsize_controller, controllers, "a step-size controller of diffrax")
    if adjoint is not None:
        check_kind("adjoint", adjoint, dfx.AbstractAdjoint, "an adjoint of diffrax")
    if progress_meter is not None:
        check_kind("progress_meter", progress_meter, dfx.AbstractProgressMeter, "a progress meter of diffrax")
    for name, function in (("record", record), ("restart", restart)):
        if function is not None:
            check_function(name, function)
    for name, flag in (("path_lengths", path_lengths), ("rank_check", rank_check), ("throw", throw)):
        check_flag(name, flag)
    check_count("max_restarts", max_restarts, least=0)
    check_times(s0, s1, cost_tol, dt0, save_at)
    check_tolerances(rtol, atol)
    if max_steps is not None:
        check_count("max_steps", max_steps)
        max_steps = int(max_steps)
    problem.check(params)
    trainable, frozen = problem.partition(params)
    dtype = jnp.result_type(*jax.tree.leaves(trainable))
    eps = float(jnp.finfo(dtype).eps)
    rows, size = problem.num_rows(params), problem.num_params(params)
    required = flow.required_rank(rows, size)
    if rank_check and required is not None and is_concrete((params, problem)):
        check_rank(problem, params, required)
    cost0 = problem.cost(params)
    if is_concrete(cost0) and not jnp.isfinite(cost0):
        raise ValueError(f"the cost at `params` is {cost0}: the network overflows there. Start from smaller ones.")
    law = flow.follows_law(rows, size) and isinstance(problem.loss, AbstractSquares)
    if rtol is None:
        rtol = default_rtol(dtype)
    if stepsize_controller is None:
        # Steps this short mean that no step at all is good enough: the velocity is not finite or jumps.
        pid = dfx.PIDController(rtol, 0.0, dtmin=1e-10 * problem.num_samples, force_dtmin=False)
        stepsize_controller = OutputController(
            rtol, eps * jnp.maximum(_size(problem, params), rtol) if atol is None else atol, pid, frozen=frozen
        )
    elif isinstance(stepsize_controller, OutputController) and stepsize_controller.frozen is None:
        given = stepsize_controller
        stepsize_controller = OutputController(given.rtol, given.atol, given.pid, frozen)
    solver = dfx.Tsit5() if solver is None else solver
    if isinstance(solver, OrbitCorrector):
        solver = _prepare(solver, frozen, exact=law and required == rows)
    stops = Stops(frozen, tuple(events))
    if cost_tol is not None:
        # What the tolerance of a step leaves of a velocity that should be zero counts as zero. A flow that bears
        # rank loss follows its law only while there is none.
        stalled = None if law and required == rows else Stalled(flow, (10 * rtol) ** 2)
        stops = Stops(frozen, stops.events, CostReached(jnp.asarray(cost_tol, dtype)), stalled)

    # A float64 time would promote float32 parameters.
    s0 = jnp.asarray(s0, dtype)
    end, stopping_time = latest_end(problem, cost0, s0, s1, cost_tol, law)
    holding = stops.holding(s0, trainable, problem)
    end = jnp.where(holding >= 0, s0, end).astype(dtype)
    controller, times = stepsize_controller, None
    if save_at is not None:
        times = times_within(jnp.asarray(save_at, dtype), end)
        if isinstance(controller, dfx.AbstractAdaptiveStepSizeController):
            controller = dfx.ClipStepSizeController(controller, step_ts=times)
    observe = _Observe(frozen, record)
    zero = jnp.zeros((), dtype)
    state = Measured(trainable, PathLengths(zero, zero)) if path_lengths else trainable

    solution = dfx.diffeqsolve(
        dfx.ODETerm(Field(flow, frozen)),
        solver,
        t0=s0,
        t1=end,
        dt0=None if dt0 is None else jnp.asarray(dt0, dtype),
        y0=state,
        args=problem,
        saveat=dfx.SaveAt(
            subs=[
                dfx.SubSaveAt(t1=True),
                dfx.SubSaveAt(t0=True, steps=True, fn=observe)
                if times is None
                else dfx.SubSaveAt(ts=times, fn=observe),
            ]
        ),
        stepsize_controller=controller,
        adjoint=dfx.RecursiveCheckpointAdjoint() if adjoint is None else adjoint,
        event=stops.event(eps),
        max_steps=max_steps,
        throw=False,
        progress_meter=dfx.NoProgressMeter() if progress_meter is None else progress_meter,
    )
    assert solution.ys is not None
    assert solution.ts is not None
    final, recorded = solution.ys
    final_s, s = solution.ts
    final = trainable_of(jax.tree.map(lambda leaf: leaf[0], final))
    if isinstance(solver, OrbitCorrector) and stops.thresholds:
        # An event ends between two steps, where the orbit is interpolated.
        change = solver.change(solver.start(s0, trainable, problem), final_s[0], final, problem)
        final = jax.tree.map(jnp.add, final, change)
    result, fired = stops.outcome(solution, cost0, holding)
    s, (costs, records, lengths) = _trim(s, recorded)
    found = FlowSolution(
        params=eqx.combine(final, frozen),
        s=s,
        costs=costs,
        num_samples=problem.num_samples,
        initial_s=s0,
        initial_cost=cost0,
        final_s=final_s[0],
        final_cost=problem.cost(eqx.combine(final, frozen)),
        stopping_time=stopping_time,
        records=records,
        path_lengths=lengths,
        event=fired,
        result=result,
        stats=solution.stats,
    )
    stuck = [RESULTS.stalled, RESULTS.step_size_vanished]
    if s1 is None:
        # By the law the cost should be down by now.
        stuck.append(RESULTS.cost_tol_not_reached)
    if restart is not None and max_restarts > 0 and any(found.result == result for result in stuck):
        again = solve_flow(
            problem,
            flow,
            restart(problem, found.params),
            s0=found.final_s,
            s1=s1,
            cost_tol=cost_tol,
            events=events,
            solver=solver,
            rtol=rtol,
            atol=atol,
            stepsize_controller=stepsize_controller,
            dt0=dt0,
            save_at=None if times is None else times_after(times, found.final_s),
            record=record,
            path_lengths=path_lengths,
            restart=restart,
            max_restarts=max_restarts - 1,
            max_steps=max_steps,
            rank_check=False,
            throw=throw,
        )
        return found.followed_by(again)
    return _raise_unless_accepted(found, s1, len(events)) if throw else found


def _prepare(solver: OrbitCorrector, frozen: PyTree, exact: bool) -> OrbitCorrector:
    if not exact:
        warnings.warn(
            "`OrbitCorrector` corrects only what lies in range(D) along a flow that makes no demand of rank(D) = QN. "
            "That is right where range(D) does not change along the orbit; where it turns, the corrected orbit is "
            "another curve to the same critical points.",
            stacklevel=3,
        )
    return eqx.tree_at(lambda solver: solver.frozen, solver, frozen, is_leaf=lambda leaf: leaf is None)


class _Observe(eqx.Module):
    """What is recorded at a moment of the flow."""

    frozen: PyTree
    record: Record | None

    def __call__(self, s: Any, state: PyTree, problem: Problem) -> tuple[Float[Array, ""], PyTree, PathLengths | None]:
        params = eqx.combine(trainable_of(state), self.frozen)
        cost = problem.cost(params)
        # diffrax marks places that it does not use with infinity, which integers and booleans cannot hold.
        records = None if self.record is None else self.record(s, params, problem)
        records = jax.tree.map(
            lambda leaf: leaf if eqx.is_inexact_array(leaf) else jnp.asarray(leaf, cost.dtype), records
        )
        return cost, records, state.lengths if isinstance(state, Measured) else None


def _raise_unless_accepted(found: FlowSolution, s1: Scalar | None, num_events: int) -> FlowSolution:
    # Coming to the end of an `s1` that was asked for is no failure, although the result tells; nor is an event.
    accepted = found.result == RESULTS.successful
    if s1 is not None:
        accepted = accepted | (found.result == RESULTS.cost_tol_not_reached)
    if num_events:
        accepted = accepted | (found.result == RESULTS.event_occurred)
    if is_concrete(accepted):
        if not accepted:
            raise RuntimeError(f"{RESULTS[found.result]} With `throw=False` the part that was integrated is returned.")
        return found
    numbers, rest = eqx.partition(found.params, eqx.is_inexact_array)
    params = eqx.combine(found.result.error_if(numbers, ~accepted), rest)
    return eqx.tree_at(lambda found: found.params, found, params)


def _size(problem: Problem, params: Params) -> Float[Array, ""]:
    """The largest output or target: times eps, the round-off in x − y, below which no step's error can come."""
    outputs = problem.outputs(params)
    aim = outputs - problem.loss.deviation(outputs)
    # Outputs and targets that are all zero must not make the tolerance zero.
    largest = jnp.maximum(jnp.max(jnp.abs(outputs)), jnp.max(jnp.abs(aim)))
    return jnp.maximum(largest, jnp.finfo(outputs.dtype).tiny ** 0.5)


def _trim(s: Float[Array, " times"], recorded: PyTree) -> tuple[Array, PyTree]:
    """Drop the unused places of the record, which diffrax fills with infinity, and moments recorded twice."""
    if not is_concrete(s):
        return s, recorded
    used = jnp.isfinite(s) & (jnp.diff(s, prepend=-1) > 0)
    return jax.tree.map(lambda leaf: leaf[used], (s, recorded))
