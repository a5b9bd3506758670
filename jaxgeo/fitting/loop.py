"""The loop of `fit`: part after part, watched, judged by validation, and kept."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import SupportsFloat

import jax
import numpy as np
from jaxtyping import PyTree

from jaxgeo._checks import plain
from jaxgeo.fitting.drivers import FlowDriver, OptimizerDriver, Outcome, Part, Row
from jaxgeo.fitting.interrupt import Interruptible
from jaxgeo.fitting.keeper import Carry, Keeper
from jaxgeo.outputs import Params
from jaxgeo.problem import Problem

# Outcomes that `resume=True` continues.
OPEN = (None, Outcome.INTERRUPTED, Outcome.STOPPED, Outcome.MAX_STEPS)


@dataclass(frozen=True)
class Progress:
    """Where a run is.

    - `step`: attempted steps of a flow up to this part, or updates. `s`: flow time, None for an optimizer.
    - `cost`: C on all samples. `law`: what C should be by (2.6), None where it follows no law.
    - `fraction`: the part of the way that is done, of log C to the tolerance or, if that is more, of the updates.
    - `row`: what was recorded; while a part of a flow is going on only its s and cost.
    - `seconds`: for which the run has been going, without those between an end and going on.
    """

    step: int
    s: float | None
    cost: float
    law: float | None
    fraction: float
    row: Row
    seconds: float


@dataclass(frozen=True)
class Fit:
    """A trained network, and how it came to be.

    - `model`: of the form that was passed to `fit`, at the end; with `patience`, where validation was best.
    - `outcome`: how the run ended; `message` says why it failed, or where the orbit of a flow left its law.
    - `steps`: attempted steps of a flow, or updates. `s`: flow time at the end, None for an optimizer.
    - `initial_cost`, `cost`: C before the run, and in the last row.
    - `stopping_time`: s_ε of (2.18), known before the run; None where the cost follows no law.
    - `rows`: what was recorded: a dictionary for each accepted step of a flow or each part of an optimizer.
    - `seconds`: for which the run was going.
    """

    model: PyTree
    outcome: Outcome
    message: str
    steps: int
    s: float | None
    initial_cost: float
    cost: float
    stopping_time: float | None
    rows: list[Row]
    seconds: float


Callback = Callable[[Progress, PyTree], bool | None]


@dataclass(frozen=True)
class Aim:
    """What a run is to come to, and what is known of its way: `stopping_time` is None without a law."""

    initial_cost: float
    tol: float
    max_steps: int
    num_samples: int
    is_flow: bool
    stopping_time: float | None

    def law(self, s: float) -> float:
        """e^{-2s/N} C(0).

        Paper: (2.6)
        """
        return self.initial_cost * math.exp(-2 * s / self.num_samples)

    def fraction(self, cost: float, steps: int) -> float:
        """The part of the way that is done."""
        done = steps / self.max_steps if not self.is_flow or self.tol == 0 else 0.0
        if self.tol > 0 and self.initial_cost > 0:
            way = math.log(cost / self.initial_cost) / math.log(self.tol) if cost > 0 else 1.0
            done = max(done, way)
        return min(max(done, 0.0), 1.0) if math.isfinite(done) else 0.0


class Loop:
    """Advances a driver until its end, or that of patience, or until someone ends it."""

    def __init__(
        self,
        *,
        aim: Aim,
        held_out: Problem | None,
        patience: int | None,
        progress: Callable[[Progress], None] | None,
        callbacks: Sequence[Callback],
        rebuild: Callable[[Params], PyTree],
        keeper: Keeper | None,
        interruptible: Interruptible | None,
    ):
        self.aim, self.held_out, self.patience = aim, held_out, patience
        self.progress, self.callbacks, self.rebuild = progress, callbacks, rebuild
        self.keeper, self.interruptible = keeper, interruptible
        self.began, self.before, self.steps = time.monotonic(), 0.0, 0
        self.unheard: Exception | None = None

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.began

    def hear(self, s: SupportsFloat, cost: SupportsFloat) -> None:
        """Pass on an accepted step of a flow, from within the compiled integration."""
        assert self.progress is not None
        try:
            self.progress(self._progress({"s": float(s), "cost": float(cost)}))
        # The user's own: raised where it is theirs again, not as one of the compiled program.
        except Exception as error:
            self.unheard = self.unheard or error

    def run(self, driver: FlowDriver | OptimizerDriver, params: Params) -> Fit:
        """From `params`, or from what the keeper has, to the end."""
        carry = Carry(
            driver.start(params), params, np.asarray(math.inf), np.zeros((), np.int64), np.zeros((), np.int64)
        )
        rows: list[Row] = []
        outcome, message = Outcome.REACHED if self.aim.initial_cost == 0 else None, ""
        if self.keeper is not None and (kept := self.keeper.restore(carry)) is not None:
            carry, rows = kept.carry, kept.rows
            outcome, message, self.before = kept.outcome, kept.message, kept.seconds
            self.steps = int(carry.state.steps)
            outcome = self._reopened(outcome, rows)
        try:
            while outcome is None:
                part = self._call(partial(driver.advance, carry.state, self.aim.max_steps))
                self._raise_unheard()
                outcome, message = part.outcome, part.message or message
                self.steps = int(part.state.steps)
                new = [self._complete(row) for row in part.rows]
                carry, early = self._judge(carry, part, new)
                rows += new
                stopped = self._tell(carry, rows)
                outcome = outcome or early or stopped
                if outcome is None and self.interruptible is not None and self.interruptible.interrupted:
                    outcome = Outcome.INTERRUPTED
                if self.keeper is not None and outcome is None and self.keeper.is_due():
                    self.keeper.save(carry, rows, None, message, self.seconds)
        except KeyboardInterrupt:
            outcome = Outcome.INTERRUPTED
        # Ctrl-C may come between a row and the state that belongs to it.
        del rows[int(carry.rows) :]
        seconds = self.seconds
        if self.keeper is not None:
            self.keeper.save(carry, rows, outcome, message, seconds)
            self.keeper.close()
        chosen = carry.state.params if self.patience is None else carry.best
        return Fit(
            model=self.rebuild(chosen),
            outcome=outcome,
            message=message,
            steps=int(carry.state.steps),
            s=float(carry.state.s) if self.aim.is_flow else None,
            initial_cost=self.aim.initial_cost,
            cost=float(rows[-1]["cost"]) if rows else self.aim.initial_cost,
            stopping_time=self.aim.stopping_time,
            rows=rows,
            seconds=seconds,
        )

    def _reopened(self, outcome: Outcome | None, rows: list[Row]) -> Outcome | None:
        """How a kept run stands: what it ended with, or None if there is more to do."""
        lowered = outcome is Outcome.REACHED and rows and rows[-1]["cost"] > 1.01 * self.aim.tol * self.aim.initial_cost
        if outcome is Outcome.MAX_STEPS and self.steps >= self.aim.max_steps:
            return outcome
        return None if outcome in OPEN or lowered else outcome

    def _raise_unheard(self) -> None:
        """Raise what `progress` raised within the compiled integration."""
        if self.progress is not None and self.aim.is_flow:
            jax.effects_barrier()
        if self.unheard is not None:
            raise self.unheard

    def _call(self, work: Callable[[], Part]) -> Part:
        return work() if self.interruptible is None else self.interruptible.run(work)

    def _complete(self, row: Row) -> Row:
        """A row of a flow with its law."""
        if not self.aim.is_flow:
            return row
        s, cost = row["s"], row["cost"]
        law = self.aim.law(s)
        scores = {name: value for name, value in row.items() if name not in ("s", "cost")}
        off = cost / law - 1 if law > 0 else math.nan
        return {"s": s, "s_over_N": s / self.aim.num_samples, "cost": cost, "law": law, "deviation": off, **scores}

    def _judge(self, carry: Carry, part: Part, new: list[Row]) -> tuple[Carry, Outcome | None]:
        """The state after a part, with the best one by validation; and whether patience is at its end."""
        best, least, waited = carry.best, carry.least, int(carry.waited)
        if self.held_out is not None and new:
            cost = float(self.held_out.cost(part.state.params))
            new[-1]["validation_cost"] = cost
            better = cost < float(least)
            best, least = (part.state.params, np.asarray(cost)) if better else (best, least)
            waited = 0 if better else waited + 1
        count = int(carry.rows) + len(new)
        after = Carry(part.state, best, least, np.asarray(waited), np.asarray(count))
        return after, Outcome.EARLY if self.patience is not None and waited >= self.patience else None

    def _tell(self, carry: Carry, rows: list[Row]) -> Outcome | None:
        """Tell of a part that has ended; whether a callback ends the run."""
        if not rows:
            return None
        progress = self._progress(rows[-1])
        if self.progress is not None and not self.aim.is_flow:
            self.progress(progress)
        if not self.callbacks:
            return None
        model = self.rebuild(carry.state.params)
        ends = [callback(progress, model) for callback in self.callbacks]
        return Outcome.STOPPED if any(plain(end) is True for end in ends) else None

    def _progress(self, row: Row) -> Progress:
        s = float(row["s"]) if self.aim.is_flow else None
        law = None if s is None or self.aim.stopping_time is None else self.aim.law(s)
        cost = float(row["cost"])
        return Progress(self.steps, s, cost, law, self.aim.fraction(cost, self.steps), row, self.seconds)
