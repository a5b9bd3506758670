"""The loop of `fit`: run part after part, report it, judge it by validation, and save it."""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import SupportsFloat

import jax
import numpy as np
from jaxtyping import PyTree

from jaxgeo._checks import plain
from jaxgeo._trainable import path_name
from jaxgeo.fitting.blas import one_blas_thread
from jaxgeo.fitting.course import CourseDriver
from jaxgeo.fitting.drivers import FlowDriver, OptimizerDriver, Part, Row, State, unfixed_shares
from jaxgeo.fitting.interrupt import Interruptible
from jaxgeo.fitting.keeper import Carry, Keeper
from jaxgeo.fitting.rebuild import Rebuild
from jaxgeo.fitting.starts import StartsDriver, chosen, told
from jaxgeo.optim.endings import Outcome, Start, told_of
from jaxgeo.outputs import Params
from jaxgeo.problem import Problem

# If the held-out cost is this many times the training cost, the training cost means little.
APART = 10.0
# How many of the parameters that the data do not fix are named in the summary.
NAMED = 8
# Shares in unfixed directions above this value are more than round-off.
SHARE = 1e-6
# Outcomes that `resume=True` continues.
OPEN = (None, Outcome.INTERRUPTED, Outcome.STOPPED, Outcome.MAX_STEPS, Outcome.MAX_SECONDS)


@dataclass(frozen=True)
class Progress:
    """The progress of a run.

    - `step`: attempted steps of a flow up to this part, or updates. `s`: flow time, None for an optimizer.
    - `cost`: C on all samples. `law`: the value of C by (2.6), None if the cost follows no law.
    - `fraction`: completed fraction of the run, by log C on its way to the tolerance or by updates, whichever is more.
    - `row`: the recorded row; within a part of a flow only its s and cost.
    - `seconds`: duration of the run, including compilation, without the time between an interruption and its
        resumption.
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
    """A trained network and the record of its run. `print` it for a summary.

    - `model`: the trained model, with the structure that was passed to `fit`. With `patience` it is the model with the
        lowest validation cost, otherwise the last one.
    - `outcome`: how the run ended; `message` says why it converged, stalled or failed, or where the orbit of a flow
        left its law.
    - `steps`: attempted steps of a flow, or updates. `s`: flow time at the end, None for an optimizer.
    - `initial_cost`, `cost`: C before the run, and of `model`.
    - `validation_cost`: C of `model` on the held-out data; None without held-out data.
    - `stopping_time`: s_ε of (2.18), known before the run; None if the cost follows no law.
    - `rows`: the recorded rows: a dictionary for each accepted step of a flow, or each part of an optimizer.
    - `seconds`: duration of the run, including compilation.
    - `unfixed`: the parameters that the data or conditions do not fix, alone or in combination, by name, such as
        "rate" or "network.layers[0].bias[3]"; `open_directions` is the number of such combinations. For a network they
        are normal. Only Levenberg–Marquardt on all samples finds them, if K ≤ QN and K ≤ 1024.
    - `starts`: a `jaxgeo.optim.Start` for each start, `model` first; empty unless there were several.
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
    validation_cost: float | None = None
    unfixed: tuple[str, ...] = ()
    open_directions: int = 0
    starts: tuple[Start, ...] = ()

    def __str__(self) -> str:
        """How the run ended, the training cost, and the held-out cost."""
        reason = f"{self.outcome.words}{f' ({self.message})' if self.message else ''}"
        lines = [f"{self.outcome.value}: {reason}, after {self.steps} steps and {self.seconds:.1f} s"]
        lines += [f"cost {self.cost:.2e}, from {self.initial_cost:.2e}"]
        if self.starts:
            lines += [told_of(self.starts)]
        if self.unfixed:
            lines += [self._open()]
        if self.validation_cost is None:
            return "\n".join(lines)
        row = row_of_model(self.rows, self.validation_cost)
        at = f"step {row['step']}" if "step" in row else f"s = {row['s']:.6g}"
        lines += [
            f"held-out cost {self.validation_cost:.2e}, a root mean square of "
            f"{math.sqrt(2 * self.validation_cost):.1e}; the model is that of {at}"
        ]
        if self.rows[-1].get("drawn"):
            lines += [f"redraws of the points: {self.rows[-1]['drawn']}"]
        if self.validation_cost > APART * row["cost"]:
            lines += [
                f"the held-out cost is {self.validation_cost / max(row['cost'], 1e-300):.1e} times the training cost: "
                "the network interpolates its training data; use more points or more data"
            ]
        return "\n".join(lines)

    def _open(self) -> str:
        """The parameters that are not fixed; many of them are counted for each array."""
        leaves = {path_name(path): np.size(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(self.model)}
        arrays = Counter(name if name in leaves else name.rpartition("[")[0] for name in self.unfixed)
        few = len(self.unfixed) <= NAMED
        shown = list(self.unfixed) if few else [
            name if name in self.unfixed else f"{name or 'the array'} ({count} of {leaves.get(name, '?')})"
            for name, count in arrays.items()
        ]  # fmt: skip
        count, which = self.open_directions, ", ".join(shown[:NAMED])
        more = f" and {len(shown) - NAMED} more arrays" if len(shown) > NAMED else ""
        normal = "" if few else " (normal for the weights of a network)"
        return f"not fixed by the data: {count} combination{'s' * (count > 1)} of {which}{more}{normal}"


def row_of_model(rows: list[Row], validation_cost: float | None) -> Row:
    """The row of the model that is returned: the first with its validation cost, or the last if there is none.

    Rows may be missing if those of a resumed run were lost.
    """
    found = [row for row in rows if validation_cost is not None and row.get("validation_cost") == validation_cost]
    return found[0] if found else rows[-1]


Driver = FlowDriver | OptimizerDriver | StartsDriver | CourseDriver
Callback = Callable[[Progress, PyTree], bool | None]


@dataclass(frozen=True)
class Aim:
    """The goal of a run, and what is known about it in advance; `stopping_time` is None without a law."""

    initial_cost: float
    tol: float
    cost_tol: float
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
        """The completed fraction of the run."""
        done = steps / self.max_steps if not self.is_flow or self.tol == 0 else 0.0
        if self.tol > 0 and self.initial_cost > 0:
            way = math.log(cost / self.initial_cost) / math.log(self.tol) if cost > 0 else 1.0
            done = max(done, way)
        return min(max(done, 0.0), 1.0) if math.isfinite(done) else 0.0


class Loop:
    """Advances a driver until it ends, patience or time runs out, or somebody stops it.

    - `judged_from`: the step from which patience counts.
    - `least_gain`: the relative decrease of the validation cost that restarts patience.
    - `whole`: whether updates use all samples.
    """

    def __init__(
        self,
        *,
        aim: Aim,
        held_out: Problem | None,
        patience: int | None,
        progress: Callable[[Progress], None] | None,
        callbacks: Sequence[Callback],
        rebuild: Rebuild,
        keeper: Keeper | None,
        interruptible: Interruptible | None,
        max_seconds: float | None = None,
        judged_from: int = 0,
        least_gain: float = 0.0,
        whole: bool = True,
    ):
        self.aim, self.held_out, self.patience = aim, held_out, patience
        self.progress, self.callbacks, self.rebuild = progress, callbacks, rebuild
        self.keeper, self.interruptible, self.max_seconds = keeper, interruptible, max_seconds
        self.judged_from, self.least_gain, self.whole = judged_from, least_gain, whole
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
        # Raise the user's own error outside the compiled program, not as an error of the program.
        except Exception as error:
            self.unheard = self.unheard or error

    def run(self, driver: Driver, params: Params) -> Fit:
        """Run from `params`, or from the saved state, to the end."""
        try:
            with one_blas_thread():
                return self._run(driver, params)
        finally:
            if self.keeper is not None:
                self.keeper.close()

    def _run(self, driver: Driver, params: Params) -> Fit:
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
                if outcome is None and self.max_seconds is not None and self.seconds >= self.max_seconds:
                    outcome = Outcome.MAX_SECONDS
                if self.keeper is not None and outcome is None and self.keeper.is_due():
                    self.keeper.save(carry, rows, None, message, self.seconds)
        except KeyboardInterrupt:
            outcome = Outcome.INTERRUPTED
        # Ctrl-C may arrive between a row and the state that belongs to it.
        del rows[int(carry.rows) :]
        seconds = self.seconds
        if self.keeper is not None:
            self.keeper.save(carry, rows, outcome, message, seconds)
        best = carry.state.params if self.patience is None else carry.best
        unfixed, directions = self._unfixed(carry.state)
        validation_cost = self._validation_cost(carry, rows)
        return Fit(
            model=self.rebuild(best),
            outcome=outcome,
            message=message,
            steps=int(carry.state.steps),
            s=float(carry.state.s) if self.aim.is_flow else None,
            initial_cost=self.aim.initial_cost,
            cost=float(row_of_model(rows, validation_cost)["cost"]) if rows else self.aim.initial_cost,
            stopping_time=self.aim.stopping_time,
            rows=rows,
            seconds=seconds,
            validation_cost=validation_cost,
            unfixed=unfixed,
            open_directions=directions,
            starts=told(carry.state.method, self.aim.cost_tol),
        )

    def _unfixed(self, state: State) -> tuple[tuple[str, ...], int]:
        """The names of the parameters that the data do not fix, and the number of unfixed directions."""
        shares = unfixed_shares(chosen(state.method)) if self.whole and int(state.steps) else np.zeros(0)
        if not shares.size:
            return (), 0
        return self.rebuild.named(state.params, shares > SHARE), round(float(shares.sum()))

    def _validation_cost(self, carry: Carry, rows: list[Row]) -> float | None:
        """The validation cost of the parameters that are returned."""
        if self.patience is not None:
            return float(carry.least) if np.isfinite(carry.least) else None
        return None if not rows or "validation_cost" not in rows[-1] else float(rows[-1]["validation_cost"])

    def _reopened(self, outcome: Outcome | None, rows: list[Row]) -> Outcome | None:
        """The outcome of a saved run, or None if it can continue."""
        lowered = outcome is Outcome.REACHED and rows and rows[-1]["cost"] > 1.01 * self.aim.cost_tol
        if outcome is Outcome.MAX_STEPS and self.steps >= self.aim.max_steps:
            return outcome
        if outcome is Outcome.MAX_SECONDS and self.max_seconds is not None and self.before >= self.max_seconds:
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
        """Add the law to a row of a flow."""
        if not self.aim.is_flow:
            return row
        s, cost = row["s"], row["cost"]
        law = self.aim.law(s)
        scores = {name: value for name, value in row.items() if name not in ("s", "cost")}
        off = cost / law - 1 if law > 0 else math.nan
        return {"s": s, "s_over_N": s / self.aim.num_samples, "cost": cost, "law": law, "deviation": off, **scores}

    def _judge(self, carry: Carry, part: Part, new: list[Row]) -> tuple[Carry, Outcome | None]:
        """The state after a part, with the best parameters by validation; and the outcome if patience has run out."""
        best, least, waited = carry.best, carry.least, int(carry.waited)
        if self.held_out is not None and new:
            if "validation_cost" not in new[-1]:
                new[-1]["validation_cost"] = float(self.held_out.cost(part.state.params))
            cost = new[-1]["validation_cost"]
            enough = cost < (1 - self.least_gain) * float(least) or int(part.state.steps) <= self.judged_from
            waited = 0 if enough else waited + 1
            if cost < float(least):
                best, least = part.state.params, np.asarray(cost)
        count = int(carry.rows) + len(new)
        after = Carry(part.state, best, least, np.asarray(waited), np.asarray(count))
        return after, Outcome.EARLY if self.patience is not None and waited >= self.patience else None

    def _tell(self, carry: Carry, rows: list[Row]) -> Outcome | None:
        """Report the end of a part; returns an outcome if a callback stops the run."""
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
