"""Files that are whole or not there, whatever interrupts their writing."""

import json
import math
import os
from pathlib import Path
from typing import Any


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file all or nothing: under another name, through to the disk, then renamed.

    **Raises:** `ValueError` with the reason and what to do if the disk is full or the folder cannot be written.
    """
    partial = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        # The rename is on the disk once the folder is.
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of text in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def save_rows(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write `metrics.jsonl`, one JSON object a line; null for numbers that are not finite, as JSON has none."""
    clean = ({k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()} for row in rows)
    write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in clean))


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """What `save_rows` wrote; `OSError` or `ValueError` if it is not there or not whole."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: math.nan if v is None else v for k, v in json.loads(line).items()} for line in lines]


def cannot_write(path: Path, error: Exception) -> ValueError:
    """What a user is told when `path` could not be written."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ValueError(
        f"cannot write {path} ({reason}); free space on the disk or make the folder writable. What was kept before is "
        "whole: use `resume`, or choose another folder."
    )
