"""The columns of a file: CSV text, Parquet, Excel, JSON lines or NPZ."""

import bz2
import contextlib
import csv
import functools
import gzip
import io
import itertools
import json
import lzma
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from xml.parsers import expat

import numpy as np

from jaxgeo.app.data.arrays import read_array

# Limits in bytes: of a text; of what any compressed file may unpack to, or as a multiple of its size; of one read.
MOST_BYTES, LITTLE, RATIO, PART = 2**31, 2**26, 100, 2**24
# Limit of the columns of a table, and of the files in an archive.
MOST_COLUMNS = 100_000
# The separator is found from this many lines.
FIRST_LINES = 50
DECOMPRESSORS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


class Columns(NamedTuple):
    """The contents of a file: names, a column for each, and for each row the line on which it ends, or its number.

    `separator` is the separator of a text file, and None for a file whose cells have types.
    """

    names: tuple[str, ...]
    columns: list[Any]
    lines: list[int]
    separator: str | None


def read_columns(path: Path) -> Columns:
    """The columns of a file, read by the ending of its name. Formats and errors are those of `read_table`."""
    compressed = path.suffix.lower() in DECOMPRESSORS
    suffix = (path.with_suffix("") if compressed else path).suffix.lower()
    reader = {".npz": _read_npz, ".parquet": _read_parquet, ".xlsx": _read_excel}.get(suffix)
    if reader is not None:
        found = reader(path)
    else:
        text = _read_text(path)
        if suffix not in (".jsonl", ".ndjson"):
            return _read_csv(path, text)
        found = _read_json_lines(path, text)
    sizes = {name: len(column) for name, column in found.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"the columns of {path} have different lengths: {sizes}; all need one value for each row.")
    if not sizes or not max(sizes.values()):
        raise ValueError(f"{path} has no rows of data.")
    return Columns(tuple(found), list(found.values()), list(range(1, max(sizes.values()) + 1)), None)


def _read_text(path: Path) -> str:
    compressed = path.suffix.lower() in DECOMPRESSORS
    opener: Callable[..., Any] = DECOMPRESSORS.get(path.suffix.lower(), open)
    most, parts = _most_of(path) if compressed else MOST_BYTES, []
    try:
        with opener(path, "rb") as file:
            while part := file.read(min(PART, most + 1)):
                if not parts:
                    _refuse_zeros(path, part)
                parts.append(part)
                most -= len(part)
                if most < 0:
                    what = (
                        f"grows to more than {RATIO} times its size" if compressed else f"has over {MOST_BYTES} bytes"
                    )
                    raise ValueError(f"{path} {what}; unpack it, or pass fewer rows, or its columns as an .npz file.")
        text = b"".join(parts).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}); save it as a CSV file in UTF-8.") from None
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read ({error}).") from None
    except MemoryError:
        raise ValueError(f"{path} does not fit into memory; pass fewer rows, or its columns as an .npz file.") from None
    return text


def _refuse_zeros(path: Path, first: bytes) -> None:
    if b"\0" in first[:10_000]:
        raise ValueError(f"{path} holds zero bytes: it is UTF-16 or no text; save it as a CSV file in UTF-8.")


def _most_of(path: Path) -> int:
    """The limit of bytes to unpack. Honest tables shrink about tenfold, compression bombs a thousandfold."""
    return max(LITTLE, RATIO * path.stat().st_size)


def _check_members(path: Path, found: zipfile.ZipFile) -> None:
    members = found.infolist()
    if len(members) > MOST_COLUMNS or sum(member.file_size for member in members) > _most_of(path):
        raise ValueError(
            f"{path} holds {len(members)} files, which grow to {sum(member.file_size for member in members)} bytes; it "
            f"may hold {MOST_COLUMNS}, and grow to {RATIO} times its size. Save it without compression."
        )


def _read_csv(path: Path, text: str) -> Columns:
    separator = _separator(text)
    try:
        reader = csv.reader(_squeezed(text) if separator == " " else io.StringIO(text, newline=""), delimiter=separator)
        found = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise ValueError(f"{path} is not a readable CSV file ({error}); save it again as CSV.") from None
    if len(found) < 2:
        raise ValueError(f"{path} has no rows of data; the first line must name the columns, and rows must follow.")
    names = tuple(name.strip() for name in found[0][1])
    if len(found[1][1]) == len(names) + 1:
        # R writes the names of the rows in a column without a name.
        names = ("", *names)
    for line, row in found[1:]:
        if len(row) != len(names):
            split = _split_number(row) if separator == "," and len(row) > len(names) else None
            todo = "quote text that contains the separator" if split is None else (
                f"if {split!r} is one number with a decimal comma, separate the cells by semicolons"
            )  # fmt: skip
            raise ValueError(
                f"{path}, line {line} has {len(row)} cells, but the header names {len(names)} columns; every row "
                f"must have the same number ({todo})."
            )
    columns = [np.array(column, object) for column in zip(*(row for _, row in found[1:]), strict=True)]
    return Columns(names, columns, [line for line, _ in found[1:]], separator)


def _split_number(row: list[str]) -> str | None:
    """The first two neighbouring cells that could be the halves of a number with a decimal comma."""
    for whole, part in itertools.pairwise(row):
        if whole.strip().lstrip("+-").isdecimal() and part.strip().isdecimal():
            return f"{whole.strip()},{part.strip()}"
    return None


def _separator(text: str) -> str:
    """The separator that splits the first lines into equally many cells, and into the most; else by the header."""
    lines = []
    for line in io.StringIO(text, newline=""):
        lines += [line] if line.strip() else []
        if len(lines) == FIRST_LINES:
            break

    def fitness(separator: str) -> tuple[bool, int]:
        given = _squeezed("".join(lines)) if separator == " " else lines
        try:
            widths = [len(row) for row in csv.reader(given, delimiter=separator)]
        except csv.Error:
            return False, 0
        width = widths[0] if widths else 1
        return width > 1 and all(each in (width, width + 1) for each in widths[1:]), width

    best = max(",;\t|", key=fitness)
    # Names and text contain spaces too, so use them only if nothing else separates.
    return " " if fitness(best)[1] == 1 and fitness(" ")[0] else best


def _squeezed(text: str) -> list[str]:
    """The lines, with one space between cells."""
    return [" ".join(line.split()) + "\n" for line in text.splitlines()]


def _read_json_lines(path: Path, text: str) -> dict[str, Any]:
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                rows.append(dict(json.loads(line)))
            except (ValueError, TypeError, RecursionError) as error:
                raise ValueError(
                    f"{path} is not a file of JSON lines (line {number}: {str(error)[:120]}); each must be an object."
                ) from None
    names, given = {name for row in rows for name in row}, sum(map(len, rows))
    if len(rows) * len(names) > max(LITTLE // 8, RATIO * given):
        raise ValueError(
            f"the {len(rows)} lines of {path} have {len(names)} different names, and nearly all cells would be empty; "
            "give each line the same names."
        )
    return _plain(path, import_pandas().DataFrame(rows))


def _read_excel(path: Path) -> dict[str, Any]:
    pandas = import_pandas()
    try:
        with zipfile.ZipFile(path) as members:
            _check_members(path, members)
            for member in members.infolist():
                with members.open(member) as file:
                    _check_sheet(path, file)
        return _plain(path, pandas.read_excel(path))
    except ImportError as error:
        raise ModuleNotFoundError("Excel is read by openpyxl; run: pip install openpyxl", name=error.name) from error
    except (ValueError, OSError, KeyError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise ValueError(f"{path} is not a readable Excel file ({str(error)[:200]}).") from None


def _check_sheet(path: Path, file: Any) -> None:
    """`ValueError` for a sheet nearly all of whose cells are empty, since each takes memory when it is read."""
    found = {"row": 0.0, "column": 0.0, "given": 0.0}

    def start(name: str, attributes: dict[str, str]) -> None:
        kind, place = name.rpartition(":")[2], attributes.get("r", "")
        letters = place.rstrip("0123456789")
        if kind == "row":
            with contextlib.suppress(ValueError):
                found["row"] = max(found["row"], float(place))
        elif kind == "c" and letters.isascii() and letters.isalpha():
            column = functools.reduce(lambda total, letter: 26 * total + ord(letter) - 64, letters[:4].upper(), 0)
            found["column"] = max(found["column"], column)
            found["given"] += 1

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    # Other members are no XML; what breaks off is told by openpyxl.
    with contextlib.suppress(expat.ExpatError):
        parser.ParseFile(file)
    if found["row"] * max(found["column"], 1) > max(LITTLE // 8, RATIO * found["given"]):
        raise ValueError(
            f"a sheet has {found['row']:.0f} rows and {found['column']:.0f} columns, and nearly all its cells are "
            "empty; remove what stands far from the others"
        )


def _read_parquet(path: Path) -> dict[str, Any]:
    pandas = import_pandas()
    try:
        return _plain(path, pandas.read_parquet(path))
    except ImportError as error:
        raise ModuleNotFoundError("Parquet is read by pyarrow; run: pip install pyarrow", name=error.name) from error
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is not a readable Parquet file ({' '.join(str(error).split())[:120]}).") from None


def _plain(path: Path, frame: Any) -> dict[str, Any]:
    """The columns of a frame; raises `ValueError` if one holds lists or other objects with parts."""
    for name in frame.columns:
        column = frame[name]
        first = column.dropna()
        if column.dtype == object and len(first) and isinstance(first.iloc[0], list | dict | tuple | np.ndarray):
            raise ValueError(
                f"column {name!r} of {path.name} holds {type(first.iloc[0]).__name__}; make a column of each of its "
                "parts."
            )
    return {str(name): frame[name] for name in frame.columns}


def _read_npz(path: Path) -> dict[str, Any]:
    found: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(path) as members:
            _check_members(path, members)
            for member in members.infolist():
                name = member.filename.removesuffix(".npy")
                if name in found:
                    raise ValueError(f"it holds two arrays {name[:80]!r}")
                with members.open(member) as file:
                    found[name] = read_array(file, member.file_size)
    # A password raises `RuntimeError`, and an unknown compression a subclass of it.
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError) as error:
        raise ValueError(f"{path} is not a readable NPZ file: {error}.") from None
    columns: dict[str, np.ndarray] = {}
    for name, array in found.items():
        if array.ndim not in (1, 2) or array.dtype.kind not in "fiubUS":
            raise ValueError(
                f"array {name!r} of {path.name} has shape {array.shape} and dtype {array.dtype}; a column is (rows,), "
                "several are (rows, columns), of numbers or text."
            )
        array = array.astype(str) if array.dtype.kind == "S" else array
        parts = {name: array} if array.ndim == 1 else {f"{name}{i}": array[:, i] for i in range(array.shape[1])}
        columns |= {each: part.astype(object) if part.dtype.kind == "U" else part for each, part in parts.items()}
    return columns


def import_pandas() -> Any:
    """Import pandas, which only tables need; `ModuleNotFoundError` says how to install it."""
    try:
        import pandas
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('tables are read by pandas; run: pip install "jaxgeo[cli]"', name="pandas") from error
    return pandas
