"""Advance a flow or an optimizer part by part, so that a run can be watched, saved and stopped between parts."""

import itertools
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, SupportsFloat, SupportsInt

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from jaxgeo import theory
from jaxgeo.costs.squares import AbstractSquares
from jaxgeo.fitting.batches import AbstractBatches, Batches
from jaxgeo.fitting.renewal import Renewal
from jaxgeo.flows import AbstractFlow, AbstractLiftedFlow
from jaxgeo.integrate import RESULTS, OrbitCorrector, StraightLine, solve_flow
from jaxgeo.integrate.line import keeps_line
from jaxgeo.linalg.faults import find_fault
from jaxgeo.linalg.gram.certificate import FAULT
from jaxgeo.linalg.one_way import for_gradients
from jaxgeo.linalg.solvers.base import CONTRADICTED, FAILED
from jaxgeo.optim.endings import Ending, Outcome
from jaxgeo.outputs import Params
from jaxgeo.problem import Problem

# Attempted steps in a part. Restarting costs one velocity; a step of Tsit5 costs six, and a correction one.
STEPS = 6
# Flow time, in units of N, that is worth a step along the line.
LEAST_TIME = 1e-3
# Entries that every row has; `record` must not use these names.
COLUMNS = ("step", "s", "s_over_N", "cost", "law", "deviation", "validation_cost", "drawn")

Record = Callable[[Float[Array, ""], Params, Problem], dict[str, Array]]
Row = dict[str, float | int]


class State(NamedTuple):
    """Everything that a run needs to continue bit for bit.

    - `params`: θ. `steps`: attempted steps of a flow, or updates, so far.
    - `s`: flow time, 0 for an optimizer. `method`: the next step size of a flow, or the state of an optimizer.
    """

    params: Params
    steps: np.ndarray
    s: np.ndarray
    method: PyTree


@dataclass(frozen=True)
class Part:
    """The state after a part, the rows recorded in it, and how the run ended; None while it continues.

    `message` says why the run failed, or where the orbit of a flow left its law.
    """

    state: State
    rows: list[Row]
    outcome: Outcome | None
    message: str = ""


class FlowDriver:
    """Integrates a flow until the cost is `cost_tol`, a few steps in each part, with one compilation for all parts.

    Each part starts with the last step size of the part before. So the steps are those of one continuous integration,
    except for the memory of the step-size controller. The first part records its starting point, s = 0; later parts
    start where the part before ended, and do not record this point again.

    If the outputs move along a straight line, so do the steps, which are then fewer. Each is corrected, and the law
    says when to stop.

    **Arguments:**

    - `initial_cost`: C(0), from which the law begins.
    - `record`: as for `jaxgeo.solve_flow`.
    - `listen`: a function that is called as `listen(s, cost)` at each accepted step, within the compiled integration.
    """

    def __init__(
        self,
        problem: Problem,
        flow: AbstractFlow,
        *,
        initial_cost: float,
        cost_tol: float,
        rtol: float | None,
        record: Record | None,
        listen: Callable[..., None] | None,
        rank_check: bool,
    ):
        self.problem, self.flow, self.rtol = problem, flow, rtol
        self.initial_cost, self.cost_tol = initial_cost, cost_tol
        self.listener = None if listen is None else _Listener(listen)
        self.observe = _Observe(record, None if self.listener is None else jnp.asarray(self.listener.number, jnp.int32))
        self.rank_check = rank_check

    def start(self, params: Params) -> State:
        """The state before the first part."""
        # The first step that `solve_flow` would choose along the adapted flow. If it chose the step itself, later
        # parts, which pass a step, would be compiled again.
        dt0 = np.asarray(0.01 * self.problem.num_samples)
        return State(params, np.zeros((), np.int64), np.zeros(()), dt0)

    def advance(self, state: State, most: int) -> Part:
        """Make up to `STEPS` attempted steps, even close to `most`, where the run ends.

        **Raises:** `ValueError` as `jaxgeo.solve_flow` does.
        """
        first = int(state.steps) == 0
        solver, s1 = self._along_the_line(state)
        solution = solve_flow(
            self.problem,
            self.flow,
            state.params,
            s0=float(state.s),
            s1=s1,
            cost_tol=self.cost_tol if s1 is None else None,
            rtol=self.rtol,
            record=self.observe,
            max_steps=STEPS,
            dt0=float(state.method),
            solver=solver,
            rank_check=self.rank_check and first,
            throw=False,
        )
        s, costs = np.asarray(solution.s), np.asarray(solution.costs)
        steps = int(state.steps) + int(solution.stats["num_steps"])
        outcome, message = None, ""
        if bool(solution.result == RESULTS.successful):
            outcome = Outcome.REACHED if s1 is None or float(solution.final_cost) <= self.cost_tol else None
        elif bool(solution.result == RESULTS.stalled):
            outcome = Outcome.STALLED
        elif bool(solution.result == RESULTS.precision_reached):
            outcome, message = Outcome.STALLED, solution.ending
        elif bool(solution.result == RESULTS.left_law):
            # The run aims at a cost, which may be reached all the same.
            reached = float(solution.final_cost) <= (1 + 1e-6) * self.cost_tol
            outcome, message = Outcome.REACHED if reached else None, solution.ending
        elif not bool(
            (solution.result == RESULTS.max_steps_reached) | (solution.result == RESULTS.cost_tol_not_reached)
        ):
            outcome, message = Outcome.FAILED, solution.ending
        if outcome is None and steps >= most:
            outcome = Outcome.MAX_STEPS
        # If no step was accepted, every step of the part was refused.
        dt0 = float(s[-1] - s[-2]) if len(s) > 1 else 0.01 * float(state.method)
        scores = {name: np.asarray(values) for name, values in solution.records.items()}
        rows: list[Row] = [
            {"s": float(s[i]), "cost": float(costs[i]), **{name: float(values[i]) for name, values in scores.items()}}
            for i in range(0 if first else 1, len(s))
        ]
        after = State(solution.params, np.asarray(steps), np.asarray(float(s[-1])), np.asarray(dt0))
        return Part(after, rows, outcome, message)

    def _along_the_line(self, state: State) -> tuple[OrbitCorrector | None, float | None]:
        """A solver that follows the straight line of the outputs, and when the cost is reached; None if there is none.

        If the cost should have been reached by then, as far as the dtype allows, an event has to find the end.
        """
        flow, problem, count = self.flow, self.problem, self.problem.num_samples
        if not isinstance(flow, AbstractLiftedFlow) or not isinstance(problem.loss, AbstractSquares):
            return None, None
        if not keeps_line(flow, problem.num_rows(state.params), problem.num_params(state.params)):
            return None, None
        # Round-off must not leave the cost above its tolerance.
        eps = float(jnp.finfo(jnp.result_type(*jax.tree.leaves(state.params))).eps)
        end = float(theory.stopping_time(self.initial_cost, self.cost_tol / (1 + eps**0.5), count))
        if float(state.s) >= end - LEAST_TIME * count:
            return None, None
        # Pyright takes the abstract variable of their base for an argument.
        line = StraightLine(dfx.Tsit5(), lift_solver=flow.solver)  # pyright: ignore[reportCallIssue]
        return OrbitCorrector(line, lift_solver=flow.solver), end  # pyright: ignore[reportCallIssue]


class _Listener:
    """A function that a compiled integration calls by a number, as long as this object exists.

    JAX caches programs together with the functions that they call. If programs called the function itself, each run
    would be compiled again, and the cache would hold all its data.
    """

    _numbers = itertools.count()
    _there: "weakref.WeakValueDictionary[int, _Listener]" = weakref.WeakValueDictionary()

    def __init__(self, listen: Callable[..., None]):
        self.listen, self.number = listen, next(self._numbers)
        self._there[self.number] = self

    @classmethod
    def tell(cls, number: SupportsInt, s: SupportsFloat, cost: SupportsFloat) -> None:
        """Call the function that has this number."""
        if (listener := cls._there.get(int(number))) is not None:
            listener.listen(s, cost)


class _Observe(eqx.Module):
    record: Record | None
    listener: Int[Array, ""] | None

    def __call__(self, s: Float[Array, ""], params: Params, problem: Problem) -> dict[str, Array]:
        if self.listener is not None:
            jax.debug.callback(_Listener.tell, self.listener, s, problem.cost(params))
        return _scores(self.record, s, params, problem)


def _scores(record: Record | None, s: Float[Array, ""], params: Params, problem: Problem) -> dict[str, Array]:
    """The numbers that `record` returns; raises `ValueError` unless they are numbers with new names."""
    if record is None:
        return {}
    found = record(s, params, problem)
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ValueError(f"`record` must return a dictionary from names to numbers; got {found!r}.")
    for name, value in found.items():
        if name in COLUMNS:
            raise ValueError(f"`record` returns {name!r}, which every row has already; use another name.")
        if not eqx.is_array_like(value) or jnp.ndim(value) != 0 or jnp.iscomplexobj(value):
            raise ValueError(f"`record` must return one real number for {name!r}; got {value!r}.")
    return found


class OptimizerDriver:
    """Makes updates of an optax transformation until the cost of all samples is `cost_tol`, `every` in each part.

    **Arguments:**

    - `renewal`: how running statistics among the parameters follow the training; None if there are none.
    """

    def __init__(
        self,
        batches: Batches,
        optimizer: optax.GradientTransformation,
        *,
        cost_tol: float,
        record: Record | None,
        every: int,
        renewal: Renewal | None = None,
    ):
        self.batches, self.cost_tol, self.record, self.every = batches, cost_tol, record, every
        self.renewal = renewal
        self.optimizer = optax.with_extra_args_support(optimizer)

    def start(self, params: Params) -> State:
        """The state before the first part."""
        trained = params if self.renewal is None else self.batches.problem.partition(params)[0]
        return State(params, np.zeros((), np.int64), np.zeros(()), strong(self.optimizer.init(trained)))

    def advance(self, state: State, most: int) -> Part:
        """Make `every` updates, or fewer up to the next multiple of `every` or up to `most`."""
        first = int(state.steps)
        count = min(self.every - first % self.every, most - first)
        rows = [self._row(state)] if first == 0 else []
        order = self.batches.order(first, count)
        if order is not None:
            # Always use one shape, so that a short part runs the same program.
            order = jax.tree.map(
                lambda rows: jnp.asarray(np.pad(rows, [(0, self.every - count)] + [(0, 0)] * (rows.ndim - 1))), order
            )
        params, inner = run_updates(
            self.optimizer,
            self.batches,
            state.params,
            state.method,
            order,
            jnp.asarray(count, jnp.int32),
            self.renewal,
        )
        after = State(params, np.asarray(first + count), state.s, inner)
        row = self._row(after)
        warn_of_contradictions(inner)
        outcome, message = None, ""
        if not np.isfinite(row["cost"]):
            outcome, message = Outcome.FAILED, "the cost is no longer finite; a smaller learning rate may help"
        elif order is None and has_failed(inner):
            outcome, message = Outcome.FAILED, find_fault(self.batches.problem, params)
        elif row["cost"] <= self.cost_tol:
            outcome = Outcome.REACHED
        # On minibatches the ending on one batch says nothing about the others.
        elif order is None and (ending := ending_of(inner)).outcome is not None:
            outcome, message = ending.outcome, ending.words
        elif first + count >= most:
            outcome = Outcome.MAX_STEPS
        return Part(after, [*rows, row], outcome, message)

    def _row(self, state: State) -> Row:
        cost, scores = measure(self.record, self.batches.problem, state.params)
        found = {name: float(value) for name, value in scores.items()}
        facts = lift_facts(state.method) if int(state.steps) else {}
        return {"step": int(state.steps), "cost": float(cost), **found, **facts}


def has_failed(method: PyTree) -> bool:
    """Whether the last lift of an optimizer failed because D was not finite, from the state of the optimizer."""
    return FAILED in map(int, _said(method, "outcome"))


def warn_of_contradictions(method: PyTree) -> None:
    """Warn if the last lift of an optimizer found that DDᵀ is wrong, from the state of the optimizer."""
    if CONTRADICTED in map(int, _said(method, "outcome")):
        warnings.warn(f"{FAULT} Lifts now use the rows of D, which is correct but slow.", stacklevel=2)


def ending_of(method: PyTree) -> Ending:
    """The ending in the state of an optimizer; `NONE` if the optimizer does not record one."""
    endings = _said(method, "ending")
    return Ending(int(endings[0])) if endings else Ending.NONE


def unfixed_shares(method: PyTree) -> np.ndarray:
    """Each parameter's share in the directions that the data do not fix, from the state; empty if not recorded."""
    shares = _said(method, "unfixed")
    return np.asarray(shares[0]) if shares else np.zeros(0)


def lift_facts(method: PyTree) -> Row:
    """Damping and rank estimate of the last step, and noise and γ by the evidence, if the state has them."""
    found: Row = {}
    for beta, determined in zip(_said(method, "beta"), _said(method, "determined"), strict=False):
        found |= {"noise": float(beta) ** -0.5, "num_effective": float(jnp.sum(determined))}
    for name, kind in (("damping", float), ("rank", int)):
        values = _said(method, name)
        # −1 says that the solver did not estimate the rank.
        if values and values[0] >= 0:
            found[name] = kind(values[0])
    return found


def _said(method: PyTree, name: str) -> list[Array]:
    """All entries of this name in the state of an optimizer; a chain may have several."""
    return [value for _, value in optax.tree.get_all_with_path(method, name) if eqx.is_array(value)]


def strong(state: PyTree) -> PyTree:
    """The state of an optimizer without weak types, which saving would lose.

    With weak types a resumed run would be compiled again.
    """
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.asarray(leaf).dtype), state)


@eqx.filter_jit
def measure(record: Record | None, problem: Problem, params: Params) -> tuple[Array, dict[str, Array]]:
    """The cost, and the numbers that `record` returns."""
    scores = _scores(record, jnp.zeros((), problem.outputs(params).dtype), params, problem)
    return problem.cost(params), scores


@eqx.filter_jit
def run_updates(
    optimizer: Any,
    batches: AbstractBatches,
    params: Params,
    state: PyTree,
    order: PyTree[Int[Array, "every ..."]] | None,
    count: Int[Array, ""],
    renewal: Renewal | None = None,
) -> tuple[Params, PyTree]:
    """Make `count` updates, each on the problem that `batches` provides for its entry of `order`, or for None."""

    def update(i: Array, carry: tuple[Params, PyTree]) -> tuple[Params, PyTree]:
        batch = batches.take(jax.tree.map(lambda rows: rows[i], order), carry[0])
        if renewal is None:
            return update_on(optimizer, batch, *carry, same=order is None)
        # As in a loop with optax, the outputs before the update give the new statistics.
        alone, trained = batch.restrict(carry[0])
        trained, method = update_on(optimizer, alone, trained, carry[1], same=False)
        return eqx.combine(trained, renewal(batch, carry[0])), method

    return jax.lax.fori_loop(0, count, update, (params, state))


def update_on(optimizer: Any, problem: Problem, params: Params, state: PyTree, *, same: bool) -> tuple[Params, PyTree]:
    """One update on a problem; `same` says whether the last update used the same problem."""
    batch = for_gradients(problem, params)

    # optax's line searches pass all extra arguments to this function, and complain if it does not accept them.
    def cost(params: Params, problem: Problem = batch) -> Array:
        return problem.cost(params)

    searched = [optax.tree.get(state, name) is not None for name in ("value", "grad")]
    if same and all(searched):
        # A line search can reuse the value and gradient at the end of the last one.
        value, grad = optax.value_and_grad_from_state(cost)(params, state=state)
    else:
        value, grad = jax.value_and_grad(cost)(params)
    updates, state = optimizer.update(grad, state, params, problem=batch, value=value, grad=grad, value_fn=cost)
    return eqx.apply_updates(params, updates), state
