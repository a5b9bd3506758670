"""A table in a file: CSV, Parquet or NPZ."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jaxgeo._names import did_you_mean
from jaxgeo.app.data.table_binary import read_npz, read_parquet

# Columns that one message describes.
MOST_FAULTS = 8


@dataclass(frozen=True)
class Table:
    """A table of text cells with named columns.

    - `path`: where it was read from. `names`: the columns. `rows`: the cells.
    - `lines`: the line of the file on which each row ends, or its number in a file without lines, for messages.
    """

    path: Path
    names: tuple[str, ...]
    rows: list[list[str]]
    lines: list[int]

    def column(self, name: str) -> list[str]:
        """The cells of a column; `ValueError` with the nearest name if there is none of this name."""
        if name not in self.names:
            raise ValueError(
                f"{self.path.name} has no column {name!r}{did_you_mean(name, self.names)} "
                f"Its columns: {_shorten(self.names)}."
            )
        index = self.names.index(name)
        return [row[index] for row in self.rows]

    def numbers(self, name: str) -> NDArray[np.float64]:
        """A column as numbers; `ValueError` with the line if a cell is empty, NaN or infinite, or text."""
        return self.matrix((name,))[:, 0]

    def matrix(self, names: Sequence[str], *, droppable: bool = False) -> NDArray[np.float64]:
        """Columns as numbers, side by side; `ValueError` that names all that are not there or not numbers throughout.

        **Arguments:**

        - `droppable`: whether the message may propose --drop.
        """
        absent = [name for name in names if name not in self.names]
        if len(absent) > 1:
            raise ValueError(
                f"{self.path.name} has no columns {_shorten(tuple(map(repr, absent)))}. "
                f"Its columns: {_shorten(self.names)}."
            )
        columns = [_numbers(self.column(name)) for name in names]
        faults = {
            name: fault for name, column in zip(names, columns, strict=True) if (fault := self._fault(name, column))
        }
        if len(faults) == 1:
            ((name, (fault, remedy)),) = faults.items()
            drop = f", or leave it out with --drop {quote(name)}" if droppable else ""
            raise ValueError(f"column {name!r} of {self.path.name} {fault}; {remedy}{drop}.")
        if faults:
            told = [f"{name!r} {fault}" for name, (fault, _) in faults.items()]
            more = [f"and {len(told) - MOST_FAULTS} more"] if len(told) > MOST_FAULTS else []
            drop = f", or leave the columns out with {' '.join(f'--drop {quote(name)}' for name in faults)}"
            raise ValueError(
                f"{len(faults)} columns of {self.path.name} are not numbers throughout: "
                f"{'; '.join([*told[:MOST_FAULTS], *more])}. Make numbers of text, fill in what is missing or remove "
                f"its rows{drop if droppable else ''}."
            )
        return np.stack(columns, axis=1)

    def _fault(self, name: str, values: NDArray[np.float64]) -> tuple[str, str] | None:
        """What is wrong with a column that was read as these numbers, and what to do."""
        if np.isfinite(values).all():
            return None
        cells = self.column(name)
        missing = [i for i, cell in enumerate(cells) if is_missing(cell)]
        text = [i for i, cell in enumerate(cells) if np.isnan(values[i]) and not is_missing(cell)]
        formulas = [i for i in text if is_formula(cells[i])]
        if formulas:
            raise ValueError(formula_message(self, name, cells, formulas))
        if text:
            where = f"{shorten(cells[text[0]])!r} on line {self.lines[text[0]]}"
            return f"holds text ({where}, {len(text)} of {len(cells)} cells)", "make it numbers"
        bad = missing or [int(np.argmax(~np.isfinite(values)))]
        found = repr(cells[bad[0]]) if cells[bad[0]].strip() else "empty"
        count = int((~np.isfinite(values)).sum())
        return (
            f"has missing or infinite values ({found} on line {self.lines[bad[0]]}, {count} of {len(cells)} cells)",
            f"fill in or remove {_rows(count)}",
        )


def read_table(path: Path | str) -> Table:
    """Read a table, by the ending of its name.

    - `.parquet`: its columns; needs pyarrow.
    - `.npz`: arrays of one length, a column each by name, or several, NAME0, NAME1, …, of a matrix.
    - anything else: CSV text in UTF-8, whose first line names the columns, separated by comma, semicolon or tab.

    **Arguments:**

    - `path`: of the file.

    **Raises:** `ValueError`, in one line that says what to do, if the file is missing, empty, not what it is called,
    has no header, a nameless or doubled column, or rows of different lengths; `ModuleNotFoundError` for Parquet without
    pyarrow.
    """
    if not isinstance(path, str | Path):
        raise ValueError(f"`path` must be a path; got {path!r}.")
    path = Path(path)
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise ValueError(f"{path} {what}; pass the path of a table.")
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); check its permissions.") from None
    reader = {".parquet": read_parquet, ".npz": read_npz}.get(path.suffix.lower())
    table = _read_csv(path) if reader is None else _of_columns(path, reader(path))
    _check_header(path, table.names)
    return table


def _read_csv(path: Path) -> Table:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            separator = max(",;\t", key=header.count)
            file.seek(0)
            reader = csv.reader(file, delimiter=separator)
            lines, rows = [], []
            for row in reader:
                if any(cell.strip() for cell in row):
                    lines.append(reader.line_num)
                    rows.append(row)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}); save it as a CSV file in UTF-8.") from None
    except csv.Error as error:
        raise ValueError(f"{path} is not a readable CSV file ({error}); save it again as CSV.") from None
    except MemoryError:
        raise ValueError(f"{path} does not fit into memory; pass fewer rows, or its columns as an .npz file.") from None
    if "\0" in header:
        raise ValueError(f"{path} holds zero bytes: it is UTF-16 or no text; save it as a CSV file in UTF-8.")
    if len(rows) < 2:
        raise ValueError(f"{path} has no rows of data; the first line must name the columns, and rows must follow.")
    names = tuple(name.strip() for name in rows[0])
    for row, line in zip(rows[1:], lines[1:], strict=True):
        if len(row) != len(names):
            raise ValueError(
                f"{path}, line {line} has {len(row)} cells, but the header names {len(names)} columns; every row "
                "must have the same number (quote text that contains the separator)."
            )
    return Table(path, names, rows[1:], lines[1:])


def _of_columns(path: Path, columns: dict[str, list[str]]) -> Table:
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"the columns of {path} have different lengths: {sizes}; all need one value for each row.")
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    if not rows:
        raise ValueError(f"{path} has no rows of data.")
    return Table(path, tuple(columns), rows, list(range(1, len(rows) + 1)))


def _numbers(cells: list[str]) -> NDArray[np.float64]:
    return np.array([to_number(cell) for cell in cells], np.float64)


def to_number(cell: str) -> float:
    """The number in a cell, NaN if there is none."""
    try:
        # Python reads "1_000" as a number; in a table it is text.
        return float("nan") if "_" in cell else float(cell)
    except ValueError:
        return float("nan")


def is_missing(cell: str) -> bool:
    """Whether a cell says that there is no value."""
    return cell.strip().lower() in ("", "nan", "na", "n/a", "null", "none", "?")


def is_formula(cell: str) -> bool:
    """Whether a cell holds a formula of a spreadsheet, not its value."""
    return cell.lstrip().startswith(("=", "@"))


def formula_message(table: "Table", name: str, cells: list[str], where: list[int]) -> str:
    """That column `name` has formulas in the rows `where`, and what to do."""
    return (
        f"column {name!r} of {table.path.name} holds formulas, the first ({shorten(cells[where[0]])!r}) on line "
        f"{table.lines[where[0]]}; save the table from the spreadsheet with values in place of formulas."
    )


def shorten(cell: str, most: int = 40) -> str:
    """The beginning of a long cell."""
    return cell if len(cell) <= most else f"{cell[:most]}…"


def quote(name: str) -> str:
    """A column name as one types it in a shell."""
    return name if name.replace("_", "").replace("-", "").isalnum() else f"'{name}'"


def _check_header(path: Path, names: tuple[str, ...]) -> None:
    if all(not np.isnan(to_number(name)) for name in names):
        raise ValueError(f"the first line of {path} holds only numbers; add a first line that names the columns.")
    if "" in names:
        raise ValueError(f"column {names.index('') + 1} of {path} has no name (a row index?); name or remove it.")
    doubled = [name for name in names if names.count(name) > 1]
    if doubled:
        raise ValueError(f"{path} has more than one column {doubled[0]!r}; give each column its own name.")


def _shorten(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:12])
    return f"{shown}, … ({len(names)} in all)" if len(names) > 12 else shown


def _rows(count: int) -> str:
    return "this row" if count == 1 else f"these {count} rows"
