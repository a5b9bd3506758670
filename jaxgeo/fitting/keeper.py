"""The folder of `fit`: checkpoints, `metrics.jsonl`, and TensorBoard files if tensorboardX is installed."""

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxgeo.fitting.checkpoints import Checkpoints
from jaxgeo.fitting.digests import Digests
from jaxgeo.fitting.drivers import Row, State
from jaxgeo.fitting.files import MOST_LINE, MOST_NAMES, MOST_NUMBERS, read_json, to_json
from jaxgeo.fitting.lock import FolderLock
from jaxgeo.fitting.tensorboard import TensorBoard
from jaxgeo.optim.endings import Outcome
from jaxgeo.outputs import Params


class Carry(NamedTuple):
    """Everything that a run needs to continue.

    - `state`: of the method. `best`, `least`: the parameters with the lowest validation cost, and that cost.
    - `waited`: number of parts since then. `rows`: number of rows recorded so far.
    """

    state: State
    best: Params
    least: np.ndarray
    waited: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True)
class Kept:
    """A saved run; `outcome` is None if it had not ended."""

    carry: Carry
    rows: list[Row]
    outcome: Outcome | None
    message: str
    seconds: float


class Keeper:
    """Saves a run in `folder`, at most once in `every` seconds.

    - `settings`: settings that must be the same for the run to be resumed.

    **Raises:** `ValueError` if the folder cannot be written, if another run is using it, or if it holds a run and
    `resume` is False.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], every: float, *, resume: bool):
        self.folder, self.settings, self.every = folder, settings, every
        self.last = -math.inf
        self.lock, self.files = FolderLock(folder), Digests(folder)
        self.checkpoints = Checkpoints(self.files)
        self.board = TensorBoard(self.files.place("tensorboard/0").parent)
        if any(path.is_symlink() for path in self.board.folder.glob("*")):
            raise ValueError(f"{self.board.folder} holds a link; remove it.")
        if self.checkpoints.numbers and not resume:
            raise ValueError(
                f"`folder` {folder} holds a run; pass `resume=True` to resume it, or choose another folder."
            )

    def restore(self, like: Carry) -> Kept | None:
        """The run as it was last saved, or None if nothing was saved yet.

        **Raises:** `ValueError` if it has other data, settings, network or method.
        """
        found = self.checkpoints.restore(like)
        if found is None:
            return None
        carry, facts = found
        _check_facts(self.folder, facts)
        others = [
            f"{name} was {was!r} and is {now!r}" if name != "data" else "the samples or targets have changed"
            for name, now in self.settings.items()
            if (was := facts["settings"].get(name)) != now
        ]
        if others:
            raise ValueError(
                f"the run in {self.folder} was started with other settings: {'; '.join(others)}. Use the same "
                "settings, or train in another folder."
            )
        rows = self._read_rows(int(carry.rows))
        outcome = None if facts["outcome"] is None else Outcome(facts["outcome"])
        return Kept(carry._replace(rows=np.asarray(len(rows))), rows, outcome, facts["message"], facts["seconds"])

    def _read_rows(self, count: int) -> list[Row]:
        """The first `count` rows: those up to the checkpoint, which may be older."""
        try:
            rows = read_rows(self.files)[0][:count]
        except (OSError, ValueError):
            rows = []
        if len(rows) < count:
            warnings.warn(
                f"metrics.jsonl in {self.folder} is damaged or incomplete: {count - len(rows)} rows are lost, but the "
                "state of the run is intact.",
                stacklevel=4,
            )
        return rows

    def is_due(self) -> bool:
        """Whether it is time to save the run again."""
        return time.monotonic() - self.last >= self.every

    def save(self, carry: Carry, rows: list[Row], outcome: Outcome | None, message: str, seconds: float) -> None:
        """Save the run; raises `ValueError` if it cannot be written, and then keeps the last save intact."""
        # Write the rows first, so that the rows of a checkpoint always exist.
        save_rows(self.files, rows)
        facts = {
            "settings": self.settings,
            "outcome": None if outcome is None else outcome.value,
            "message": message,
            "seconds": seconds,
        }
        self.checkpoints.save(carry, facts)
        self.board.write(rows)
        self.last = time.monotonic()

    def close(self) -> None:
        """Let go of the folder."""
        self.checkpoints.close()
        self.board.close()
        self.files.settle()
        self.lock.release()


def _check_facts(folder: Path, facts: Any) -> None:
    """Raise `ValueError` unless the facts beside a state are what `save` writes."""
    kinds = {"settings": dict, "outcome": str | None, "message": str, "seconds": int | float}
    if not isinstance(facts, dict) or not all(isinstance(facts.get(name), kind) for name, kind in kinds.items()):
        raise ValueError(f"the checkpoint in {folder} does not describe the state of its run; train it again.")


def save_rows(files: Digests, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write `metrics.jsonl`, one JSON object a line."""
    files.write("metrics.jsonl", "".join(f"{to_json(dict(row))}\n" for row in rows).encode())


def read_rows(files: Digests) -> tuple[list[Row], int]:
    """The rows that `save_rows` wrote, up to the first damaged line, and the number of lost lines; null becomes NaN.

    **Raises:** `OSError` or `ValueError` if the file is missing, its rows do not map names to numbers, or it is too
    long.
    """
    lines, lost = files.read_lines("metrics.jsonl")
    rows: list[Row] = []
    # JSON creates a new string for each name in each row.
    names: dict[str, str] = {}
    count = 0
    for number, line in enumerate(lines, 1):
        row: Any = read_json(line) if len(line) <= MOST_LINE else None
        if not isinstance(row, dict) or not all(_is_number(value) for value in row.values()):
            raise ValueError(f"line {number} of metrics.jsonl does not map names to numbers")
        count += len(row)
        if count > MOST_NUMBERS:
            raise ValueError(f"metrics.jsonl holds more than {MOST_NUMBERS} numbers")
        rows.append({names.setdefault(k, k): math.nan if value is None else value for k, value in row.items()})
        if len(names) > MOST_NAMES:
            raise ValueError(f"metrics.jsonl holds numbers of more than {MOST_NAMES} names")
    return rows, lost


def _is_number(value: Any) -> bool:
    # An arbitrarily long integer cannot be drawn in a figure.
    return value is None or isinstance(value, float) or (type(value) is int and abs(value) < 2**63)
