"""Columns of Parquet and NPZ files, as cells of a table."""

import importlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

# What stands for no value in a cell.
MISSING = ""


def read_parquet(path: Path) -> dict[str, list[str]]:
    """The columns of a Parquet file, as text.

    **Raises:** `ModuleNotFoundError` without pyarrow; `ValueError` if it cannot be read, or a column is of lists.
    """
    try:
        arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Parquet is read by pyarrow; run: pip install pyarrow", name=error.name) from error
    try:
        columns = parquet.read_table(path)
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a readable Parquet file ({' '.join(str(error).split())[:120]}).") from None
    found = {}
    for name, column in zip(columns.column_names, columns.columns, strict=True):
        if arrow.types.is_nested(column.type):
            raise ValueError(f"column {name!r} of {path.name} holds {column.type}; make a column of each of its parts.")
        found[name] = [_cell(value) for value in column.to_pylist()]
    return found


def read_npz(path: Path) -> dict[str, list[str]]:
    """The columns of an NPZ file, as text.

    **Raises:** `ValueError` if it cannot be read, or holds Python objects, or arrays that are no columns.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found: dict[str, np.ndarray] = {name: arrays[name] for name in arrays.files}
    # NumPy gives an array, not a file of arrays, where one is stored under this name.
    except (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile) as error:
        if "allow_pickle" in str(error):
            raise ValueError(
                f"{path} holds Python objects, which to open may run a stranger's program; save plain arrays "
                "of numbers or text."
            ) from None
        raise ValueError(f"{path} is not a readable NPZ file ({error}).") from None
    columns: dict[str, np.ndarray] = {}
    for name, array in found.items():
        if array.ndim not in (1, 2) or array.dtype.kind not in "fiubUS":
            raise ValueError(
                f"array {name!r} of {path.name} has shape {array.shape} and dtype {array.dtype}; a column is (rows,), "
                "several are (rows, columns), of numbers or text."
            )
        parts = {name: array} if array.ndim == 1 else {f"{name}{i}": array[:, i] for i in range(array.shape[1])}
        columns |= {each: part.astype(str) if part.dtype.kind == "S" else part for each, part in parts.items()}
    return {name: [_cell(value) for value in column.tolist()] for name, column in columns.items()}


def _cell(value: Any) -> str:
    if value is None:
        return MISSING
    # True and False are the numbers 1 and 0 to whoever learns from them.
    return str(int(value)) if isinstance(value, bool) else str(value)
