"""Tables: named columns, read from a file or passed in memory."""

import collections
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxgeo._names import did_you_mean
from jaxgeo.app.data.files import MOST_COLUMNS, import_pandas, read_columns

# Characters of the name of a column or a class, and names that a message shows.
MOST_NAME, MOST_SHOWN = 1000, 12


@dataclass(frozen=True)
class Table:
    """Named columns. Cells are text, unless the file has types: then also numbers, truth values and dates.

    - `name`: name of the file. `frame`: a pandas `DataFrame`.
    - `lines`: for messages, the line on which each row ends, or its number in a file without lines.
    - `separator`: separator of the cells of a text file, otherwise None.
    """

    name: str
    frame: Any
    lines: Sequence[int]
    separator: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.frame.columns)

    def column(self, name: str) -> Any:
        """The cells of a column, a pandas `Series`; `ValueError` with the nearest name if there is none."""
        # Not `self.names`, which takes the time of all columns for each.
        if name not in self.frame.columns:
            raise ValueError(
                f"{self.name} has no column {shorten(name)!r}{did_you_mean(name, self.names)} "
                f"Its columns: {list_some(self.names)}."
            )
        return self.frame[name]

    def rows(self, which: np.ndarray) -> "Table":
        """Some of the rows."""
        return Table(self.name, self.frame.iloc[which], [self.lines[i] for i in which], self.separator)


def as_table(rows: Any) -> Table:
    """Make a table of a pandas `DataFrame` or a dictionary of columns."""
    frame = import_pandas().DataFrame(rows).reset_index(drop=True)
    frame.columns = [str(name) for name in frame.columns]
    return Table("`rows`", frame, range(1, len(frame) + 1))


def read_table(path: Path | str) -> Table:
    """Read a table in the format that the ending of its name says.

    - `.parquet`, `.xlsx`: its columns, the latter of the first sheet; needs pyarrow or openpyxl.
    - `.jsonl`, `.ndjson`: one object on each line, whose keys name the columns.
    - `.npz`: arrays of equal length, each a column; a matrix becomes the columns NAME0, NAME1, …
    - anything else: text in UTF-8, whose first line names the columns, separated by commas, semicolons, tabs, bars or
        spaces. Text may be compressed (`.gz`, `.bz2`, `.xz`).

    **Arguments:**

    - `path`: path of the file.

    **Raises:** `ValueError`, in one line that says what to do, if the file is missing, empty, not what it is called,
    has no header, a doubled column, or rows of different lengths; `ModuleNotFoundError` without the package that reads
    it.
    """
    if not isinstance(path, str | Path):
        raise ValueError(f"`path` must be a path; got {path!r}.")
    path = Path(path)
    if not path.exists() or path.is_dir():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise ValueError(f"{path} {what}; pass the path of a table.")
    try:
        names, columns, lines, separator = read_columns(path)
    except PermissionError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); check its permissions.") from None
    _check_header(path, names)
    pandas = import_pandas()
    # Only the first column may have no name: it is the index that many programs write.
    names = tuple(name or "(row)" for name in names)
    return Table(path.name, pandas.DataFrame(dict(zip(names, columns, strict=True))), lines, separator)


def _check_header(path: Path, names: tuple[str, ...]) -> None:
    longest = max(names, key=len)
    if len(longest) > MOST_NAME:
        raise ValueError(
            f"the name of column {names.index(longest) + 1} of {path} has {len(longest)} characters, and may have "
            f"{MOST_NAME}; shorten it, or add a first line that names the columns."
        )
    if all(is_number(name) for name in names):
        raise ValueError(f"the first line of {path} holds only numbers; add a first line that names the columns.")
    if "" in names[1:]:
        raise ValueError(f"column {names.index('', 1) + 1} of {path} has no name; name or remove it.")
    if len(names) > MOST_COLUMNS:
        raise ValueError(f"{path} has {len(names)} columns, and may have {MOST_COLUMNS}.")
    doubled = [name for name, count in collections.Counter(names).items() if count > 1]
    if doubled:
        raise ValueError(f"{path} has more than one column {shorten(doubled[0])!r}; give each column its own name.")


def is_number(text: str) -> bool:
    """Whether Python can read the text as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def list_some(names: Sequence[str]) -> str:
    """The first of many names, each shortened, and their number."""
    shown = ", ".join(shorten(name, 100) for name in names[:MOST_SHOWN])
    return f"{shown}, … ({len(names)} in all)" if len(names) > MOST_SHOWN else shown


def shorten(text: str, most: int = 40) -> str:
    """The beginning of a long text."""
    return text if len(text) <= most else f"{text[:most]}…"
