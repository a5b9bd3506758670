"""`solve_flow`: train by integrating a flow with a diffrax solver."""

import warnings
from collections.abc import Callable, Sequence

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import PyTree

from jaxgeo._checks import check_count, check_flag, check_function, check_kind, is_concrete
from jaxgeo.costs.squares import AbstractSquares
from jaxgeo.flows import AbstractFlow, AbstractLiftedFlow
from jaxgeo.integrate.controller import OutputController, default_rtol
from jaxgeo.integrate.corrector import OrbitCorrector
from jaxgeo.integrate.events import CostReached, Stalled, Threshold
from jaxgeo.integrate.integration import Integration, Record, check_cost, largest_output
from jaxgeo.integrate.solution import RESULTS, FlowSolution
from jaxgeo.integrate.stops import Stops
from jaxgeo.integrate.times import Scalar, check_times, check_tolerances, times_after
from jaxgeo.integrate.watch import Watch
from jaxgeo.linalg.rank import check_rank
from jaxgeo.outputs import Params
from jaxgeo.problem import Problem

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

    Each step of a lifted flow is compared with what the flow promises (`jaxgeo.integrate.watch`). Where D loses rank on
    the way the orbit of a flow that needs it ends, as `RESULTS.rank_lost` at `rank_lost_at`; where the outputs leave
    (2.7) by more than the tolerances allow, the result is `RESULTS.left_law`. `RankAdaptiveFlow` goes on and says so.

    **Arguments:**

    - `problem`, `flow`, `params`: what to train, along which flow, from where. Samples of weight 0 are left out first.
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
        as `jaxgeo.geometry.escape`, or the orbit ends as D has lost rank; at most `max_restarts` times. Not under
        `jax.jit`.
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
    problem = problem.without_ignored()
    problem.check(params)
    trainable, frozen = problem.partition(params)
    dtype = jnp.result_type(*jax.tree.leaves(trainable))
    eps = float(jnp.finfo(dtype).eps)
    rows, size = problem.num_rows(params), problem.num_params(params)
    required = flow.required_rank(rows, size)
    check_cost(problem.cost(params))
    if rank_check and required is not None and is_concrete((params, problem)):
        check_rank(problem, params, required)
    law = flow.follows_law(rows, size) and isinstance(problem.loss, AbstractSquares)
    if rtol is None:
        rtol = default_rtol(dtype)
    if stepsize_controller is None:
        # Steps this short mean that no step at all is good enough: the velocity is not finite or jumps.
        pid = dfx.PIDController(rtol, 0.0, dtmin=1e-10 * problem.num_samples, force_dtmin=False)
        stepsize_controller = OutputController(
            rtol, eps * jnp.maximum(largest_output(problem, params), rtol) if atol is None else atol, pid, frozen=frozen
        )
    elif isinstance(stepsize_controller, OutputController) and stepsize_controller.frozen is None:
        given = stepsize_controller
        stepsize_controller = OutputController(given.rtol, given.atol, given.pid, frozen)
    solver = dfx.Tsit5() if solver is None else solver
    if isinstance(solver, OrbitCorrector):
        solver = _prepare(solver, frozen, exact=law and required == rows)
    watch = _watch(flow, solver, stepsize_controller, frozen, law, required)
    stops = Stops(frozen, tuple(events))
    if cost_tol is not None:
        # What the tolerance of a step leaves of a velocity that should be zero counts as zero. A flow that bears
        # rank loss follows its law only while there is none.
        stalled = None if law and required == rows else Stalled(flow, (10 * rtol) ** 2)
        stops = Stops(frozen, stops.events, CostReached(jnp.asarray(cost_tol, dtype)), stalled)

    integration = Integration(
        flow=flow,
        frozen=frozen,
        solver=solver,
        watch=watch,
        controller=stepsize_controller,
        stops=stops,
        law=law,
        s1=s1,
        cost_tol=cost_tol,
        dt0=dt0,
        record=record,
        path_lengths=path_lengths,
        max_steps=max_steps,
        adjoint=dfx.RecursiveCheckpointAdjoint() if adjoint is None else adjoint,
        progress_meter=dfx.NoProgressMeter() if progress_meter is None else progress_meter,
    )
    found = integration.integrate(problem, params, s0, save_at)
    for _ in range(int(max_restarts)):
        if restart is None or not integration.stuck(found):
            break
        left = None if save_at is None else times_after(jnp.asarray(save_at, dtype), found.final_s)
        again = integration.integrate(problem, restart(problem, found.params), found.final_s, left)
        found = found.followed_by(again)
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


def _watch(
    flow: AbstractFlow,
    solver: dfx.AbstractSolver,
    controller: dfx.AbstractStepSizeController,
    frozen: PyTree,
    law: bool,
    required: int | None,
) -> Watch | None:
    """The solver, watched; None for a flow that goes through no lift, and bears any D."""
    strict = required is not None
    if not (strict or law or isinstance(flow, AbstractLiftedFlow)):
        return None
    adaptive = isinstance(controller, dfx.AbstractAdaptiveStepSizeController)
    while isinstance(controller, dfx.ClipStepSizeController):
        controller = controller.controller
    known = (controller.rtol, controller.atol) if isinstance(controller, OutputController) else None
    # Once rank is lost, a flow that goes on is not on the law.
    return Watch(solver, frozen, law and strict, strict, adaptive, known)


def _raise_unless_accepted(found: FlowSolution, s1: Scalar | None, num_events: int) -> FlowSolution:
    # Coming to the end of an `s1` that was asked for is no failure, although the result tells; nor is an event.
    accepted = found.result == RESULTS.successful
    if s1 is not None:
        accepted = accepted | (found.result == RESULTS.cost_tol_not_reached)
        accepted = accepted | (found.result == RESULTS.precision_reached)
    if num_events:
        accepted = accepted | (found.result == RESULTS.event_occurred)
    if is_concrete(accepted):
        if not accepted:
            raise RuntimeError(f"{found.ending} With `throw=False` the part that was integrated is returned.")
        return found
    numbers, rest = eqx.partition(found.params, eqx.is_inexact_array)
    params = eqx.combine(found.result.error_if(numbers, ~accepted), rest)
    return eqx.tree_at(lambda found: found.params, found, params)
