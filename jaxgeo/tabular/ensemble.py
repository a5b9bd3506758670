"""Networks of several widths, groupings and starts, trained side by side and weighted by their evidence."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from jaxgeo.tabular.local import localise
from jaxgeo.tabular.member import Inputs, Member
from jaxgeo.tabular.plan import FIRST_UPDATES, Plan
from jaxgeo.tabular.targets import AbstractTargets
from jaxgeo.uncertainty.evidence import Evidence

# Rounds of updates unless the user says, and a change of the logarithm of the evidence that is hardly one.
ROUNDS, TOL = 60, 0.1
# The weights of networks are powers of their evidence of 1 over this: Laplace's approximation tells them apart with
# more confidence than it has reason for, and networks that differ predict better together.
TEMPERATURE = 8.0
# A network is far behind where the logarithm of its evidence is so much smaller than that of the best, and so many
# updates more would not make up for it.
FAR, UPDATES = 10 * TEMPERATURE, 20
# A change of the logarithm of the evidence for each row that hardly changes predictions.
SMALL_GAIN = 1e-3
# Networks of less weight are not asked.
LEAST_WEIGHT = 1e-3


@dataclass
class Ensemble:
    """Networks for one table, and how their training goes on.

    - `members`: the networks. `first_rows`: how many rows they begin with, if not with all.
    - `evidences`: of each network, with γ, after the last call of `train`.
    - `losses`: after each round of updates, misfit/(2·observations) of the network with the largest evidence.
    - `stopped`: why the last call of `train` ended: "converged", "max_iter" or "max_time".
    - `seen`: the targets of the rows that training goes on with, within a call of `train`.
    """

    members: list[Member]
    first_rows: int | None
    evidences: list[Evidence] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    stopped: str = "max_iter"
    seen: AbstractTargets | None = None

    @classmethod
    def start(cls, plan: Plan, has_noise: bool, random: np.random.RandomState) -> "Ensemble":
        """Before the first update."""
        return cls([Member.start(shape, has_noise, random) for shape in plan.shapes], plan.first_rows)

    @property
    def log_evidences(self) -> Float[np.ndarray, " members"]:
        """The logarithm of the evidence of each network."""
        return np.array([each.log for each in self.evidences])

    @property
    def weights(self) -> Float[np.ndarray, " members"]:
        """Of each network; 0 for those that are not asked."""
        logs = self.log_evidences / TEMPERATURE
        found = np.exp(logs - logs.max())
        found = np.where(found < LEAST_WEIGHT * found.sum(), 0, found)
        return found / found.sum()

    def has_settled(self, count: float) -> bool:
        """Whether the last update of the best network hardly changed its weight, or what it says of `count` rows."""
        best = self.members[int(self.log_evidences.argmax())]
        return abs(best.gain) < max(TEMPERATURE, SMALL_GAIN * count)

    def train(
        self,
        x: Inputs,
        targets: AbstractTargets,
        *,
        rounds: int,
        tol: float = TOL,
        seconds: float | None = None,
        progress: Callable[["Ensemble"], bool] = lambda _: True,
    ) -> None:
        """Go on for some rounds, each one update of every network that is not done.

        Further calls with the same data go on as one call would have.

        **Arguments:**

        - `rounds`: at most. `seconds`: to stop after, at the end of an update.
        - `tol`: a change of the logarithm of the evidence that is hardly one.
        - `progress`: called after each round; its result says whether to go on.
        """
        end = None if seconds is None else time.monotonic() + seconds
        here, self.stopped = None, "max_iter"
        for _ in range(rounds):
            if here is None or len(self.losses) == FIRST_UPDATES and self.first_rows is not None:
                here = self._look(x, targets)
            if self._begins and all(member.is_done for member in self.members):
                # The remaining rounds on some of the rows have nothing left to do.
                self.losses += [self.losses[-1]] * (FIRST_UPDATES - len(self.losses))
                here = self._look(x, targets)
            if all(member.is_done for member in self.members):
                self.stopped = "converged"
                break
            for member in self.members:
                if not member.is_done and self.stopped != "max_time":
                    member.update(*here, tol)
                    if end is not None and time.monotonic() >= end:
                        self.stopped = "max_time"
            best = max(member.log_evidence for member in self.members)
            for member in self.members:
                behind = best - member.log_evidence
                member.is_behind = member.is_behind or FAR < behind < np.inf and UPDATES * member.gain < behind
            self.losses.append(self._loss(here[1]))
            self.seen = here[1]
            if not progress(self) or self.stopped == "max_time":
                break
        self.seen = None
        self._judge(x, targets)

    def snapshot(self) -> "Ensemble":
        """Within `progress`: a copy that can be asked, and go on, as it is now, by the rows that have been seen."""
        assert self.seen is not None
        evidences = [member.evidence(self.seen, rounds=0) for member in self.members]
        members = [dataclasses.replace(member) for member in self.members]
        found = Ensemble(members, self.first_rows, evidences, list(self.losses), self.stopped)
        found._forget()
        return found

    def keep(self, targets: AbstractTargets) -> None:
        """Take what these data have said for said: `train` goes on with other data as if all came at once."""
        self.first_rows = None
        asked = [index for index, weight in enumerate(self.weights) if weight > 0]
        self.members = [self.members[index] for index in asked]
        self.evidences = [self.evidences[index] for index in asked]
        for member in self.members:
            member.keep(targets)

    @property
    def _begins(self) -> bool:
        return self.first_rows is not None and len(self.losses) < FIRST_UPDATES

    def _look(self, x: Inputs, targets: AbstractTargets) -> tuple[Float[np.ndarray, "rows inputs"], AbstractTargets]:
        """The rows to train on now, seen by the networks that go on: with all rows the best, and the linear path."""
        if self._begins:
            some = np.random.RandomState(0).permutation(len(x))[: self.first_rows]
            x, targets = x[some], targets.part(some)
        elif self.first_rows is not None and len(self.losses) == FIRST_UPDATES:
            best = max(self.members, key=lambda member: member.log_evidence)
            self.members = [member for member in self.members if member is best or not member.shape.widths]
        for member in self.members:
            member.look(x, targets)
        return x, targets

    def _judge(self, x: Inputs, targets: AbstractTargets) -> None:
        """Find the evidence of each network for all rows, and forget what those say that are not asked."""
        for member in self.members:
            if self._begins or member.local is None:
                member.local = localise(member.shape, member.theta, x, targets, member.past)
        self.evidences = [member.evidence(targets, rounds=0) for member in self.members]
        self._forget()

    def _forget(self) -> None:
        for member, weight in zip(self.members, self.weights, strict=True):
            if weight == 0:
                member.local = None

    def _loss(self, targets: AbstractTargets) -> float:
        best = max(self.members, key=lambda member: member.log_evidence)
        count = targets.count + (0.0 if best.past is None else best.past.count)
        return best.misfit / (2 * count)
