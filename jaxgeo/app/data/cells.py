"""Recognise and read the cells of a column: numbers, truth values, dates or text, in many notations."""

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxgeo.app.data.files import import_pandas
from jaxgeo.app.data.table import Table, shorten

# Cells that mean that there is no value, in lower case.
MISSING = ("", "nan", "na", "n/a", "#n/a", "null", "none", "nil", "?", "-", "--", ".", "nat", "<na>")
# Signs that may precede or follow all numbers of a column.
SIGNS = "$€£¥%"
# The separator of thousands, then the decimal separator.
STYLES = (",.", ".,", " ,", " .", "'.", "',")
SPACES = "[ '\u2019\u00a0\u202f]"
WORDS = (("false", "true"), ("no", "yes"), ("n", "y"), ("f", "t"))
DAYS = ("%Y/%m/%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%m-%d-%Y", "%d-%m-%Y", "%d %b %Y", "%b %d, %Y", "%Y%m%d")
DATES = tuple(f"{day}{time}" for day in DAYS for time in ("", " %H:%M", " %H:%M:%S"))
ISO = "ISO8601"
# If at least this fraction of the cells are numbers, the column is numeric, and the others are gaps.
ENOUGH = 0.95


class Meaning(enum.Enum):
    """What a column holds."""

    NUMBER = "number"
    TRUTH = "truth"
    DATE = "date"
    TEXT = "text"


KINDS = {Meaning.NUMBER: "number", Meaning.TRUTH: "truth value", Meaning.DATE: "date", Meaning.TEXT: "text"}


@dataclass(frozen=True)
class Reading:
    """How the cells of a column are read.

    - `style`: for numbers, the separators of thousands and decimals, "" for those of Python; for dates, their format.
    - `sign`: a sign that all numbers have.
    - `strays`: whether text among numbers counts as a gap.
    """

    meaning: Meaning
    style: str = ""
    sign: str = ""
    strays: bool = False

    def check(self) -> None:
        """Raise `ValueError` unless `find_readings` could have returned this."""
        styles = {Meaning.NUMBER: ("", *STYLES), Meaning.DATE: (ISO, *DATES)}.get(self.meaning, ("",))
        if self.style not in styles or self.sign not in ("", *SIGNS):
            raise ValueError(f"no column is read as {self.meaning.value} in the style {self.style[:40]!r}")

    def read(self, table: Table, name: str) -> np.ndarray:
        """A column as floats, with NaN for gaps and dates in days since 1970; or text as strings, with None for gaps.

        **Raises:** `ValueError`, with the line, if a cell cannot be read in this way.
        """
        pandas = import_pandas()
        column = table.column(name)
        if self.meaning is Meaning.TEXT:
            cells = _as_text(column)
            return cells.astype(object).where(cells.notna(), None).to_numpy(object)
        if pandas.api.types.is_datetime64_any_dtype(column.dtype):
            values = _days(column) if self.meaning is Meaning.DATE else np.full(len(column), np.nan)
            present = column.notna()
        elif pandas.api.types.is_bool_dtype(column.dtype) or pandas.api.types.is_numeric_dtype(column.dtype):
            values = column.to_numpy(np.float64, na_value=np.nan)
            present = column.notna()
        else:
            cells = _as_text(column)
            present = cells.notna()
            values = self._of_text(cells)
        odd = np.isnan(values) & present.to_numpy()
        if odd.any() and not self.strays:
            first = int(np.argmax(odd))
            cell = column.iloc[first : first + 1]
            todo = "correct the cell or leave it empty"
            if self.meaning is Meaning.NUMBER and self.style in ("", ",.") and _fits(_as_text(cell), ".,"):
                todo = "if its comma is decimal, write a point, as in the rows that were trained on"
            raise ValueError(
                f"column {name!r} of {table.name} holds {shorten(str(cell.iloc[0]))!r} on line "
                f"{table.lines[first]}, which is no {KINDS[self.meaning]}; {todo}."
            )
        if np.isinf(values).any():
            first = int(np.argmax(np.isinf(values)))
            raise ValueError(
                f"column {name!r} of {table.name} is infinite on line {table.lines[first]} "
                f"({int(np.isinf(values).sum())} of {len(values)} cells); mend the cells or leave them empty."
            )
        return values

    def _of_text(self, cells: Any) -> np.ndarray:
        if self.meaning is Meaning.NUMBER:
            return _numbers(cells, self.style, self.sign)
        if self.meaning is Meaning.DATE:
            return _dates(cells, self.style)
        small = cells.str.lower()
        values = [small.isin(words).fillna(False).to_numpy(bool) for words in zip(*WORDS, strict=True)]
        return np.select(values, [0.0, 1.0], np.nan)


def find_readings(table: Table, names: Iterable[str]) -> tuple[dict[str, Reading], list[str]]:
    """How to read each of these columns, and notes for the user.

    All columns of the table together decide what a comma means.

    **Raises:** `ValueError` if a cell holds the formula of a spreadsheet instead of its value.
    """
    pandas = import_pandas()
    found: dict[str, Reading] = {}
    texts: dict[str, Any] = {}
    for name in names:
        column = table.column(name)
        kind = column.dtype
        if pandas.api.types.is_bool_dtype(kind):
            found[name] = Reading(Meaning.TRUTH)
        elif pandas.api.types.is_numeric_dtype(kind):
            found[name] = Reading(Meaning.NUMBER)
        elif pandas.api.types.is_datetime64_any_dtype(kind):
            found[name] = Reading(Meaning.DATE, ISO)
        else:
            texts[name] = _as_text(column).dropna()
            _refuse_formulas(table, name, texts[name])
    comma = any(cells.str.contains("[.,]").any() for cells in texts.values()) and _has_decimal_commas(table, texts)
    notes = []
    for name, cells in texts.items():
        found[name], note = _of_text(name, cells, table.separator, comma)
        notes += [note] if note else []
    return found, notes


def _has_decimal_commas(table: Table, texts: dict[str, Any]) -> bool:
    """Whether some column certainly has them; points then separate thousands in all columns."""
    kinds = import_pandas().api.types
    others = (
        _as_text(table.column(name)).dropna()
        for name in table.names
        if name not in texts
        and (kinds.is_object_dtype(table.column(name)) or kinds.is_string_dtype(table.column(name)))
    )
    return any(_fits(cells, ".,") and not _fits(cells, ",.") for group in (texts.values(), others) for cells in group)


def _of_text(name: str, cells: Any, separator: str | None, comma: bool) -> tuple[Reading, str]:
    if not len(cells):
        return Reading(Meaning.TEXT), ""
    small = set(cells.str.lower().unique()[:3])
    for words in WORDS:
        if small <= set(words):
            return Reading(Meaning.TRUTH), ""
    if (number := _as_numbers(name, cells, separator, comma)) is not None:
        return number
    different = cells.drop_duplicates()
    if not np.isnan(_dates(different, ISO)).any():
        return Reading(Meaning.DATE, ISO), ""
    # Most formats are excluded by one cell; to try one on a column takes pandas half a millisecond.
    marks = _marks(cells.iloc[0])
    fitting = [style for style in DATES if _marks(style) == marks and not np.isnan(_dates(different, style)).any()]
    if fitting:
        ambiguous = f"; {fitting[1]} would fit too" if len(fitting) > 1 else ""
        return Reading(Meaning.DATE, fitting[0]), f"Dates in {name!r} are read as {fitting[0]}{ambiguous}."
    return Reading(Meaning.TEXT), ""


def _as_numbers(name: str, cells: Any, separator: str | None, comma: bool) -> tuple[Reading, str] | None:
    sign = next((each for each in SIGNS if cells.str.contains(re.escape(each)).all()), "")
    # "1,234" is ambiguous. If commas separate the cells, the point is decimal.
    styles = ("", *STYLES) if separator == "," and not comma else ("", ".,", *STYLES)
    if comma:
        styles = styles[1:]
    best, part = "", -1.0
    for style in styles:
        found = float(np.mean(~np.isnan(_numbers(cells, style, sign))))
        if found > part:
            best, part = style, found
        if part == 1:
            break
    told = [f"without their sign {sign}"] if sign else []
    if best and cells.str.contains(re.escape(best[0]) if best[0] not in " '" else SPACES).any():
        told.append(f"with {best[0]!r} between thousands")
    if best and best[1] == "," and cells.str.contains(",").any():
        told.append("with decimal commas")
    if part == 1:
        note = f"Numbers in {name!r} are read {' and '.join(told)}." if told else ""
        return Reading(Meaning.NUMBER, best, sign), note
    if part >= ENOUGH:
        strays = cells[np.isnan(_numbers(cells, best, sign))]
        note = (
            f"{len(strays)} cells of {name!r} are text among numbers, such as {shorten(strays.iloc[0])!r}; they "
            "count as gaps."
        )
        return Reading(Meaning.NUMBER, best, sign, strays=True), note
    return None


def _as_text(column: Any) -> Any:
    """Stripped text, with NA for cells that mean that there is no value."""
    pandas = import_pandas()
    if pandas.api.types.is_float_dtype(column.dtype):
        # pandas turns integer classes into floats if some are missing.
        whole = column.dropna()
        column = column.astype("Int64") if (whole == whole.round()).all() else column
    cells = column.astype(object).where(column.notna(), None).map(lambda cell: cell if cell is None else str(cell))
    cells = cells.astype("string").str.strip()
    return cells.mask(cells.str.lower().isin(MISSING))


def _numbers(cells: Any, style: str, sign: str) -> np.ndarray:
    """Numbers written in this style, and NaN for everything else."""
    pandas = import_pandas()
    if sign:
        cells = cells.str.replace(sign, "", regex=False).str.strip()
    cells = cells.str.replace("−", "-", regex=False)
    if style:
        thousands, decimal = (SPACES if style[0] in " '" else re.escape(style[0])), re.escape(style[1])
        pattern = rf"[+-]?(\d+|\d{{1,3}}({thousands}\d{{3}})+)?({decimal}\d*)?([eE][+-]?\d+)?"
        cells = cells.where(cells.str.fullmatch(pattern).fillna(False).astype(bool))
        cells = cells.str.replace(thousands, "", regex=True).str.replace(style[1], ".", regex=False)
    return pandas.to_numeric(cells.astype(object), errors="coerce").to_numpy(np.float64, na_value=np.nan)


def _fits(cells: Any, style: str) -> bool:
    return len(cells) > 0 and not np.isnan(_numbers(cells, style, "")).any()


def _marks(text: str) -> list[str]:
    """What stands between the parts of a date, or of a format."""
    return re.findall(r"[^\w%]", " ".join(text.split()))


def _dates(cells: Any, style: str) -> np.ndarray:
    """Dates written in this format, in days since 1970, and NaN for everything else."""
    pandas = import_pandas()
    return _days(pandas.to_datetime(cells.astype(object), format=style, errors="coerce", utc=True))


def _days(column: Any) -> np.ndarray:
    pandas = import_pandas()
    zone = getattr(column.dt, "tz", None)
    moments = column.dt.tz_convert("UTC").dt.tz_localize(None) if zone is not None else column
    return ((moments - pandas.Timestamp(0)) / pandas.Timedelta(days=1)).to_numpy(np.float64, na_value=np.nan)


def _refuse_formulas(table: Table, name: str, cells: Any) -> None:
    formulas = cells[cells.str.startswith(("=", "@"))]
    if len(formulas):
        line = table.lines[int(formulas.index[0])]
        raise ValueError(
            f"column {name!r} of {table.name} holds formulas, the first ({shorten(formulas.iloc[0])!r}) on line "
            f"{line}; save the table from the spreadsheet with values in place of formulas."
        )
