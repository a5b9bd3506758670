"""Columns of a table, encoded as the inputs of a network."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxgeo._names import did_you_mean
from jaxgeo.app.data.cells import Meaning, Reading, find_readings
from jaxgeo.app.data.table import MOST_NAME, MOST_SHOWN, Table, list_some, shorten
from jaxgeo.fitting.scaling import Scaling

# The most frequent values of a text column that get their own input.
MOST_LEVELS = 40
YEAR = 365.2425
# Columns by name, as `Reading.read` returns them.
Cells = dict[str, np.ndarray]
# Standard deviations from the mean beyond which a number is unlike those of the training rows.
FAR = 6.0
# Names of columns that may just number the rows.
ROW_NUMBERS = ("(row)", "index", "id", "no", "nr", "row", "unnamed: 0")


@dataclass(frozen=True)
class Column:
    """How a column becomes inputs.

    - `levels`: values of a text column. Each is an input that is 1 at this value; other text makes all of them 0.
    - `gaps`: whether missing cells have their own input. `fill`: the number that replaces them.
    - `season`: whether a date also gives the sine and cosine of the time of year.
    """

    name: str
    reading: Reading
    levels: tuple[str, ...] = ()
    gaps: bool = False
    fill: float = 0.0
    season: bool = False

    @property
    def features(self) -> tuple[str, ...]:
        """A name for each input."""
        own = tuple(f"{self.name}={level}" for level in self.levels)
        if self.reading.meaning is not Meaning.TEXT:
            own = (self.name, *((f"{self.name} (sine of the year)", f"{self.name} (cosine)") if self.season else ()))
        return (*own, *((f"{self.name} is missing",) if self.gaps else ()))

    @property
    def is_switch(self) -> tuple[bool, ...]:
        """For each input, whether it can only be 0 or 1."""
        count = len(self.features) - self.gaps
        return (*[self.reading.meaning is Meaning.TEXT] * count, *[True] * self.gaps)

    def encode(self, values: np.ndarray) -> Float[np.ndarray, "rows features"]:
        """The inputs for the cells of the column, which are as `Reading.read` returns them."""
        if self.reading.meaning is Meaning.TEXT:
            missing = np.array([value is None for value in values], bool)
            inputs = [values == level for level in self.levels]
        else:
            missing = np.isnan(values)
            filled = np.where(missing, self.fill, values)
            inputs = [filled]
            if self.season:
                angle = 2 * np.pi / YEAR * filled
                inputs += [np.sin(angle), np.cos(angle)]
        inputs += [missing] if self.gaps else []
        return np.stack([np.asarray(each, np.float64) for each in inputs], axis=1)


@dataclass(frozen=True)
class Encoder:
    """The `columns` of a table that are used, and how each becomes inputs."""

    columns: tuple[Column, ...]

    @classmethod
    def fit(cls, table: Table, names: Sequence[str], rows: np.ndarray) -> "tuple[Encoder, Cells, list[str]]":
        """Fit an encoder to the training `rows`; returns it, all cells of these columns, and notes for the user.

        **Raises:** `ValueError` if a cell cannot be right, or if no column is useful.
        """
        readings, notes = find_readings(table, names)
        cells = {name: readings[name].read(table, name) for name in names}
        columns, left_out = [], {}
        for name, values in cells.items():
            found = _useless(name, readings[name], values) or _column(name, readings[name], values[rows])
            if isinstance(found, str):
                left_out[name] = found
                continue
            columns.append(found)
            if found.reading.meaning is Meaning.NUMBER:
                _refuse_a_giant(table, name, values)
            others = len({value for value in values[rows] if value is not None} - set(found.levels))
            if found.levels and others:
                notes.append(f"{name!r} has {others} rare values, which count as one; the others are told apart.")
        if left_out:
            some = [f"{shorten(name)!r}, which {why}" for name, why in [*left_out.items()][:MOST_SHOWN]]
            more = f"; and {len(left_out) - MOST_SHOWN} more" if len(left_out) > MOST_SHOWN else ""
            notes.append(f"Left out: {'; '.join(some)}{more}.")
        gaps = [column.name for column in columns if column.gaps]
        if gaps:
            notes.append(f"Missing cells have an input of their own in: {list_some(gaps)}.")
        if not columns:
            raise ValueError(f"{table.name} has no column to predict from. {notes[-1]}")
        return cls(tuple(columns)), cells, notes

    @classmethod
    def of_numbers(cls, names: Sequence[str]) -> "Encoder":
        """Columns of numbers, used as they are."""
        return cls(tuple(Column(name, Reading(Meaning.NUMBER)) for name in names))

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each input."""
        return tuple(name for column in self.columns for name in column.features)

    def read(self, table: Table) -> Cells:
        """Read the cells of the columns that are used.

        **Raises:** `ValueError` if a column is missing, or a cell cannot be read like those of the training rows.
        """
        absent = [column.name for column in self.columns if column.name not in table.frame.columns]
        if len(absent) > 1:
            raise ValueError(
                f"{table.name} has no columns {list_some([repr(name) for name in absent])}"
                f"{did_you_mean(absent[0], table.names)} It has: {list_some(table.names)}."
            )
        return {column.name: column.reading.read(table, column.name) for column in self.columns}

    def encode(self, cells: Cells) -> Float[np.ndarray, "rows features"]:
        """The inputs for these cells, not yet scaled."""
        return np.concatenate([column.encode(cells[column.name]) for column in self.columns], axis=1)

    def scaling(self, inputs: Float[np.ndarray, "rows features"]) -> Scaling:
        """A scaling of numbers to mean 0 and standard deviation 1, and of switches to mean 0."""
        switches = np.array([each for column in self.columns for each in column.is_switch])
        found = Scaling.fit(self.names, inputs)
        constant = tuple(name for name, switch in zip(self.names, switches, strict=True)
                         if name in found.constant and not switch)  # fmt: skip
        return dataclasses.replace(found, scale=np.where(switches, 1.0, found.scale), constant=constant)

    def substituted(self, cells: Cells, inputs: Scaling) -> list[str]:
        """What these cells hold that the training rows did not, and what was done with it, one sentence a column.

        **Arguments:**

        - `inputs`: mean and scale of the training rows.
        """
        notes = []
        for column in self.columns:
            values = cells[column.name]
            rows = f"rows of column {column.name!r}"
            if column.levels:
                known = {*column.levels, None}
                new = [value for value in values if value not in known]
                if new:
                    notes.append(
                        f"{len(new)} of {len(values)} {rows} have text that was absent or rare in training, such as "
                        f"{shorten(new[0])!r}; it counts as none of the known values."
                    )
                missing = sum(value is None for value in values)
            else:
                notes += _far_notes(column, values, rows, inputs)
                missing = int(np.isnan(values).sum())
            if missing and not column.gaps:
                stand = "they count as none of the known values" if column.levels else (
                    f"the mean of the training rows, {column.fill:.6g}, was used"
                )  # fmt: skip
                notes.append(f"{missing} of {len(values)} {rows} are missing, and none was in training; {stand}.")
        return notes

    def to_list(self) -> list[dict[str, Any]]:
        """The encoder as values that JSON can represent."""
        return [
            dataclasses.asdict(column)
            | {"reading": dataclasses.asdict(column.reading) | {"meaning": column.reading.meaning.value}}
            for column in self.columns
        ]

    @classmethod
    def from_list(cls, columns: Sequence[dict[str, Any]]) -> "Encoder":
        """The encoder that `to_list` described; raises `KeyError`, `TypeError` or `ValueError` for anything else."""
        found = []
        for column in columns:
            reading = Reading(**column["reading"] | {"meaning": Meaning(column["reading"]["meaning"])})
            reading.check()
            found.append(Column(**column | {"reading": reading, "levels": tuple(column["levels"])}))
        return cls(tuple(found))


def names_rows(name: str) -> bool:
    """Whether a column of this name usually tells rows apart."""
    return name.lower() in ROW_NUMBERS or name.lower().endswith(("_id", " id", "-id"))


def _far_notes(column: Column, values: np.ndarray, rows: str, inputs: Scaling) -> list[str]:
    """A sentence if some numbers are far from all on which the network was trained."""
    at = inputs.names.index(column.name)
    mean, scale = inputs.mean[at], inputs.scale[at]
    with np.errstate(over="ignore", invalid="ignore"):
        far = np.abs((values - mean) / scale) > FAR
    if not far.any():
        return []
    return [
        f"{int(far.sum())} of {len(values)} {rows} are far from the training rows, such as {values[far][0]:.6g} "
        f"where those are {mean:.4g} ± {scale:.4g}; predictions for them are guesses."
    ]


def _useless(name: str, reading: Reading, values: np.ndarray) -> str | None:
    """The reason why nothing can be learned from a column; None if something can."""
    if reading.meaning is Meaning.TEXT:
        present = [value for value in values if value is not None]
        distinct = len(set(present))
        if not present:
            return "is empty"
        if (longest := max(map(len, present))) > MOST_NAME:
            return f"holds texts of up to {longest} characters"
        if distinct > max(MOST_LEVELS, len(present) // 2):
            return "names each row"
    elif np.isnan(values).all():
        return "is empty"
    elif names_rows(name) and len(values) > 1 and (np.diff(values) == 1).all():
        return "numbers the rows"
    return "names the rows" if name == "(row)" else None


def _column(name: str, reading: Reading, values: np.ndarray) -> Column | str:
    """The encoding of a column from its training rows; or the reason why they say nothing."""
    if reading.meaning is Meaning.TEXT:
        present = [value for value in values if value is not None]
        levels, counts = np.unique(np.array(present, object), return_counts=True)
        frequent = sorted(zip(-counts, levels, strict=True))[:MOST_LEVELS]
        column = Column(name, reading, tuple(sorted(str(level) for _, level in frequent)), len(present) < len(values))
        return column if len(column.features) > 1 else "is constant among the training rows"
    missing = np.isnan(values)
    present = values[~missing]
    if not len(present) or (present.min() == present.max() and not missing.any()):
        return "is constant among the training rows"
    fill = float(np.mean(present))
    season = reading.meaning is Meaning.DATE and present.max() - present.min() > YEAR
    return Column(name, reading, (), bool(missing.any()), fill if np.isfinite(fill) else 0.0, bool(season))


def _refuse_a_giant(table: Table, name: str, values: np.ndarray) -> None:
    """Raise `ValueError` if the largest number of a column makes nearly all others indistinguishable."""
    present = values[~np.isnan(values)]
    unit = np.abs(present).max() if len(present) else 0.0
    if unit == 0:
        return
    low, middle, high = np.quantile(present / unit, [0.05, 0.5, 0.95])
    far = np.abs(values / unit - middle)
    if 0 < high - low < 1e-9 * np.nanmax(far):
        row = int(np.nanargmax(far))
        raise ValueError(
            f"column {name!r} of {table.name} holds {values[row]:.4g} on line {table.lines[row]}, beside which all "
            "others are the same; mend the cell or leave it empty."
        )
