"""`solve_flow`: train by integrating a flow with a diffrax solver."""

from collections.abc import Callable, Sequence

import diffrax as dfx
import equinox as eqx
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxgeo._checks import check_count, check_function, check_kind, is_concrete
from jaxgeo.flows import AbstractFlow
from jaxgeo.integrate.events import Threshold
from jaxgeo.integrate.integration import Integration
from jaxgeo.integrate.options import Options, Record
from jaxgeo.integrate.preparation import prepare
from jaxgeo.integrate.solution import RESULTS, FlowSolution
from jaxgeo.integrate.times import Scalar, check_save_at, check_times, times_after
from jaxgeo.linalg.one_way import both_ways
from jaxgeo.linalg.widths import cast_like, promoted
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

    Each step of a lifted flow is compared with what the flow promises (`jaxgeo.integrate.watch`). If D loses rank on
    the way, the orbit of a flow that needs full rank ends, with `RESULTS.rank_lost` at `rank_lost_at`;
    `RankAdaptiveFlow` continues and reports it. If the outputs leave (2.7) by more than the tolerances allow, the
    result is `RESULTS.left_law`.

    **Arguments:**

    - `problem`, `flow`, `params`: what to train, along which flow, from where. Samples of weight 0 are left out first.
    - `s0`: flow time at `params`, not negative. To resume an orbit, pass `params` and `final_s` of its solution.
    - `s1`: flow time to stop at, in the unit in which the cost decays as e^{-2s/N}. Pass at least one of `s1` and
        `cost_tol`; with both, the integration stops at whichever comes first, and `result` says which.
    - `cost_tol`: cost to stop at. Bisection inside the last step finds the moment. A flow without a law may never reach
        it, so the integration also stops when the cost has practically stopped falling.
    - `events`: functions `(s, params, problem)`, such as `jaxgeo.GradientBelow(tol)`. One that returns a number stops
        the integration when that falls through zero; one that returns a boolean, after the step in which it becomes
        true. `event` of the solution says which one stopped it.
    - `solver`: a diffrax solver; `diffrax.Tsit5()` by default. `jaxgeo.OrbitCorrector(solver)` keeps the outputs on
        their law to round-off; `jaxgeo.OrbitCorrector(jaxgeo.integrate.StraightLine(solver))` does so with a fifth of
        the lifts.
    - `rtol`, `atol`: tolerances for the error of a step in output space, relative to the deviation x − y and in units
        of the outputs. By default `rtol` is 1e-6 in float64 and 1e-3 in float32; `atol` is the round-off in x − y.
    - `stepsize_controller`: any diffrax controller, instead of `jaxgeo.OutputController(rtol, atol)`.
    - `dt0`: the first step; by default it follows from the speed of the outputs.
    - `save_at`: increasing flow times at which to record, instead of at every accepted step. An adaptive controller
        clips its steps to land on them, so records are not interpolated. A corrected `StraightLine` takes long steps,
        so there each record is interpolated and then corrected by one lift. Times beyond an end that `cost_tol` sets
        are dropped.
    - `record`: a function `(s, params, problem)` that returns what to record besides the cost, such as test accuracy;
        all numbers become floating point.
    - `path_lengths`: whether to also integrate the lengths of the path in θ and in x.
    - `restart`: a function `(problem, params)`, such as `jaxgeo.geometry.escape`, that returns new parameters to
        continue from if the cost has stopped falling or the orbit ends because D has lost rank; called at most
        `max_restarts` times. Not under `jax.jit`.
    - `max_steps`, `adjoint`, `progress_meter`: as for `diffrax.diffeqsolve`.
    - `rank_check`: whether to check first that D has the rank at `params` that `flow` needs.
    - `throw`: raise if the integration fails; otherwise see `result`.

    **Returns:** a `jaxgeo.integrate.FlowSolution`.

    **Raises:** `ValueError`, before anything is compiled, if data, parameters or times are unusable, or if the rank of
    D at `params` is too small for `flow`; `RuntimeError` if the integration fails and `throw` is set.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: jnp.tanh(a @ x), jnp.eye(2), jg.L2(jnp.array([0.5, -0.5])))
    >>> sol = jg.solve_flow(problem, jg.AdaptedFlow(), jnp.zeros(2), cost_tol=1e-3)
    >>> bool(abs(sol.s[-1] / sol.stopping_time - 1) < 1e-4)
    True

    ```
    """
    check_kind("problem", problem, Problem, "a `jaxgeo.Problem`")
    options = Options(
        flow=flow,
        s1=s1,
        cost_tol=cost_tol,
        events=events,
        solver=solver,
        rtol=rtol,
        atol=atol,
        stepsize_controller=stepsize_controller,
        dt0=dt0,
        record=record,
        path_lengths=path_lengths,
        max_steps=max_steps,
        adjoint=adjoint,
        progress_meter=progress_meter,
    )
    if restart is not None:
        check_function("restart", restart)
    check_count("max_restarts", max_restarts, least=0)
    check_times(s0, s1, cost_tol)
    if save_at is not None:
        check_save_at(save_at, s0, s1)
    problem = problem.without_ignored()
    problem.check(params)
    problem, wide = promoted(problem, params)
    problem = both_ways(problem, wide)
    restricted, trainable = problem.restrict(wide)
    integration = prepare(options, restricted, trainable, rank_check)
    found = integration.integrate(restricted, trainable, s0, save_at)
    if restart is not None:
        found = _restarted(integration, found, problem, restart, int(max_restarts), save_at)
    found = eqx.tree_at(lambda found: found.params, found, cast_like(params, found.params))
    return _raise_unless_accepted(found, options) if throw else found


def _restarted(
    integration: Integration,
    found: FlowSolution,
    problem: Problem,
    restart: Restart,
    max_restarts: int,
    save_at: ArrayLike | None,
) -> FlowSolution:
    """Continue `found` from the parameters that `restart` returns, as long as it is stuck."""
    for _ in range(max_restarts):
        if not integration.stuck(found):
            break
        left = None if save_at is None else times_after(jnp.asarray(save_at, found.s.dtype), found.final_s)
        restricted, trainable = problem.restrict(restart(problem, found.params))
        found = found.followed_by(integration.integrate(restricted, trainable, found.final_s, left))
    return found


def _raise_unless_accepted(found: FlowSolution, options: Options) -> FlowSolution:
    # Reaching an `s1` that was asked for is not a failure, although `result` reports it; nor is an event.
    accepted = found.result == RESULTS.successful
    if options.s1 is not None:
        accepted = accepted | (found.result == RESULTS.cost_tol_not_reached)
        accepted = accepted | (found.result == RESULTS.precision_reached)
    if options.events:
        accepted = accepted | (found.result == RESULTS.event_occurred)
    if is_concrete(accepted):
        if not accepted:
            raise RuntimeError(f"{found.ending} Pass `throw=False` to get the part that was integrated.")
        return found
    numbers, rest = eqx.partition(found.params, eqx.is_inexact_array)
    params = eqx.combine(found.result.error_if(numbers, ~accepted), rest)
    return eqx.tree_at(lambda found: found.params, found, params)
