"""One integration of a flow with all its options, from a point and a time; a restart runs it again."""

from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from jaxgeo._checks import is_concrete
from jaxgeo._sums import total
from jaxgeo.costs.squares import AbstractSquares
from jaxgeo.integrate.corrector import OrbitCorrector, Start
from jaxgeo.integrate.field import Field, Measured, PathLengths, trainable_of
from jaxgeo.integrate.line import StraightLine
from jaxgeo.integrate.options import Options, Whole
from jaxgeo.integrate.solution import RESULTS, FlowSolution
from jaxgeo.integrate.stops import Stops
from jaxgeo.integrate.times import Scalar, latest_end, times_within
from jaxgeo.integrate.watch import Watch, Watched
from jaxgeo.outputs import Params
from jaxgeo.problem import Problem


class Integration(eqx.Module):
    """An ODE for the trainable parameters, and how to integrate it from any start.

    - `options`: the options of `solve_flow`.
    - `solver`, `controller`: those of the options, or the defaults.
    - `watch`: the solver that compares each step with what the flow promises; None if there is nothing to compare.
    - `stops`: what may end the integration early.
    - `law`: whether the cost falls as e^{-2s/N} while D has full rank.
    """

    options: Options
    solver: dfx.AbstractSolver
    watch: Watch | None
    controller: dfx.AbstractStepSizeController
    stops: Stops
    law: bool

    def integrate(self, problem: Problem, trainable: PyTree, s0: Scalar, save_at: ArrayLike | None) -> FlowSolution:
        """Integrate from `trainable`, which holds all parameters of the problem, at `s0`."""
        dtype = jnp.result_type(*jax.tree.leaves(trainable))
        cost0 = problem.cost(trainable)
        check_cost(cost0)
        # A float64 time would promote float32 parameters.
        s0 = jnp.asarray(s0, dtype)
        end, stopping_time = latest_end(problem, cost0, s0, self.options.s1, self.options.cost_tol, self.law)
        holding = self.stops.holding(s0, trainable, problem)
        end = jnp.where(holding >= 0, s0, end).astype(dtype)
        times = None if save_at is None else times_within(jnp.asarray(save_at, dtype), end)

        solution = self._solve(problem, trainable, s0, end, times)
        assert solution.ys is not None
        assert solution.ts is not None
        final_s, s = solution.ts
        final_s = final_s[0]
        final, recorded = solution.ys
        final = trainable_of(jax.tree.map(lambda leaf: leaf[0], final))
        if isinstance(self.solver, OrbitCorrector) and self.stops.thresholds:
            # An event ends the orbit between two steps, where it is interpolated.
            change = self.solver.change(self.solver.start(s0, trainable, problem), final_s, final, problem)
            final = jax.tree.map(jnp.add, final, change)
        result, fired = self.stops.outcome(solution, cost0, holding)
        if self.options.cost_tol is not None:
            result = _in_precision(result, problem, final, jnp.asarray(self.options.cost_tol, dtype))
        result, seen = self._seen(result, solution)
        s, (costs, records, lengths) = _trim(s, recorded)
        return FlowSolution(
            params=problem.extend(final)[1],
            s=s,
            costs=costs,
            num_samples=problem.num_samples,
            initial_s=s0,
            initial_cost=cost0,
            final_s=final_s,
            final_cost=problem.cost(final),
            cost_tol=None if self.options.cost_tol is None else jnp.asarray(self.options.cost_tol, dtype),
            stopping_time=stopping_time,
            records=records,
            path_lengths=lengths,
            event=fired,
            result=result,
            stats=solution.stats,
            lawful=self.law,
            **seen,
        )

    def _solve(
        self, problem: Problem, trainable: PyTree, s0: Array, end: Array, times: Float[Array, " times"] | None
    ) -> dfx.Solution:
        """The solution of diffrax, with the end and the record."""
        zero = jnp.zeros((), s0.dtype)
        state = Measured(trainable, PathLengths(zero, zero)) if self.options.path_lengths else trainable
        observe = _Observe(self.options.record)
        controller, recorded = self.controller, dfx.SubSaveAt(t0=True, steps=True, fn=observe)
        if times is not None:
            if isinstance(self.solver, OrbitCorrector) and isinstance(self.solver.solver, StraightLine):
                # A step may exceed the whole remaining deviation, so one lift corrects each interpolated point.
                observe = _Observe(self.options.record, self.solver, self.solver.start(s0, trainable, problem))
            elif isinstance(controller, dfx.AbstractAdaptiveStepSizeController):
                controller = dfx.ClipStepSizeController(controller, step_ts=times)
            recorded = dfx.SubSaveAt(ts=times, fn=observe)
        return dfx.diffeqsolve(
            dfx.ODETerm(Field(self.options.flow)),
            self.solver if self.watch is None else self.watch,
            t0=s0,
            t1=end,
            dt0=None if self.options.dt0 is None else jnp.asarray(self.options.dt0, s0.dtype),
            y0=state,
            args=problem,
            saveat=dfx.SaveAt(subs=[dfx.SubSaveAt(t1=True), recorded], solver_state=self.watch is not None),
            stepsize_controller=controller,
            event=self.stops.event(float(jnp.finfo(s0.dtype).eps)),
            throw=False,
            max_steps=self.options.max_steps,
            adjoint=self.options.adjoint or dfx.RecursiveCheckpointAdjoint(),
            progress_meter=self.options.progress_meter or dfx.NoProgressMeter(),
        )

    def _seen(self, result: RESULTS, solution: dfx.Solution) -> tuple[RESULTS, dict[str, Any]]:
        """The result in view of what the watch saw on the way, and the fields of the solution that tell it."""
        if self.watch is None:
            return result, {}
        assert solution.solver_state is not None
        watched: Watched = solution.solver_state[1]
        result = watched.judge(result, self.watch.strict)
        return result, {
            "left_law_at": watched.left_law_at,
            "rank_lost_at": watched.rank_lost_at,
            "continuation": watched.continuation,
        }

    def stuck(self, found: FlowSolution) -> bool:
        """Whether the flow stood still or broke down before its end, so that a restart makes sense."""
        where = [RESULTS.stalled, RESULTS.step_size_vanished, RESULTS.rank_lost]
        if self.options.s1 is None:
            # By the law the cost should have reached its tolerance by now.
            where.append(RESULTS.cost_tol_not_reached)
        return any(found.result == result for result in where)


def check_cost(cost: Float[Array, ""]) -> None:
    """Raise `ValueError` if the cost at the start is NaN or infinite; a traced cost passes."""
    if not is_concrete(cost) or jnp.isfinite(cost):
        return
    if jnp.isnan(cost):
        raise ValueError(
            "the cost at `params` is nan: an output is not a number there, for instance from `log` or `sqrt` of a "
            "negative number, 0/0 or inf − inf. Start where every output is defined; or keep arguments positive in the "
            "network, by `jax.nn.softplus` for example."
        )
    raise ValueError(f"the cost at `params` is {cost}: the network overflows there. Start from smaller ones.")


def _in_precision(result: RESULTS, problem: Problem, params: Params, cost_tol: Float[Array, ""]) -> RESULTS:
    """`result`, or `precision_reached` if `cost_tol` is below what this dtype can represent and the cost got there."""
    if not isinstance(problem.loss, AbstractSquares):
        return result
    outputs = problem.outputs(params)
    eps = float(jnp.finfo(outputs.dtype).eps)
    deviation = problem.loss.deviation(outputs)
    # The cost if each output were off by its round-off; the network's own sums add to that.
    squares = total(deviation**2)
    floor = problem.loss(outputs) * outputs.size * (eps * largest_output(problem, params)) ** 2
    floor = floor / jnp.where(squares > 0, squares, 1)
    down = (cost_tol < floor) & (problem.loss(outputs) < 1e6 * floor)
    short: Any = (result == RESULTS.cost_tol_not_reached) | (result == RESULTS.stalled)
    reached: Any = RESULTS.precision_reached
    return RESULTS.where(short & down, reached, result)


class _Observe(eqx.Module):
    """Makes the record at a moment of the flow; with a corrector and a start, on the corrected orbit from there."""

    record: Whole | None
    corrector: OrbitCorrector | None = None
    start: Start | None = None

    def __call__(self, s: Any, state: PyTree, problem: Problem) -> tuple[Float[Array, ""], PyTree, PathLengths | None]:
        if self.corrector is not None and self.start is not None:
            state = jax.tree.map(jnp.add, state, self.corrector.change(self.start, s, state, problem))
        trainable = trainable_of(state)
        cost = problem.cost(trainable)
        # diffrax fills unused entries with infinity, which integers and booleans cannot hold.
        records = None if self.record is None else self.record(s, trainable, problem)
        records = jax.tree.map(
            lambda leaf: leaf if eqx.is_inexact_array(leaf) else jnp.asarray(leaf, cost.dtype), records
        )
        return cost, records, state.lengths if isinstance(state, Measured) else None


def largest_output(problem: Problem, params: Params) -> Float[Array, ""]:
    """The largest output or target; times eps, it is the round-off in x − y, a floor for the error of any step."""
    outputs = problem.outputs(params)
    aim = outputs - problem.loss.deviation(outputs)
    # Outputs and targets that are all zero must not make the tolerance zero.
    largest = jnp.maximum(jnp.max(jnp.abs(outputs)), jnp.max(jnp.abs(aim)))
    return jnp.maximum(largest, jnp.finfo(outputs.dtype).tiny ** 0.5)


def _trim(s: Float[Array, " times"], recorded: PyTree) -> tuple[Array, PyTree]:
    """Drop the unused entries of the record, which diffrax fills with infinity, and moments recorded twice."""
    if not is_concrete(s):
        return s, recorded
    times = np.asarray(s)
    used = np.isfinite(times) & (times > np.append(-1, times[:-1]))

    def trim(leaf: Array) -> Array:
        # On the host, because JAX would compile for each number of steps.
        return jnp.asarray(np.asarray(leaf)[used]) if is_concrete(leaf) else leaf[used]

    return jax.tree.map(trim, (s, recorded))
