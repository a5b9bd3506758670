"""Write files all or nothing, whatever interrupts the writing; and JSON, which has no NaN."""

import contextlib
import io
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Limits on what is read back: bytes of a text, of the digests of a folder, and of the rows of a run; number of rows,
# bytes of a row, number of their numbers, and of the names of these. Parsed JSON takes up to thirty times its bytes.
MOST_TEXT, MOST_DIGESTS, MOST_ROWS = 16 * 2**20, 64 * 2**20, 256 * 2**20
MOST_LINES, MOST_LINE, MOST_NUMBERS, MOST_NAMES = 2**20, 2**16, 2**23, 2**12
# Do not follow a link, nor wait for a pipe, in place of a file; Windows has no such flags.
NO_LINK = getattr(os, "O_NOFOLLOW", 0)
READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


_SURROGATES = re.compile(r"\\u[dD][89a-fA-F]")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file all or nothing: write it under another name, flush it to the disk, then rename it.

    A link under either name is replaced, not followed.

    **Raises:** `ValueError` with the reason and what to do if the disk is full or the folder cannot be written.
    """
    partial = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        with open(os.open(partial, WRITE, 0o666), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        # The rename reaches the disk when the folder does.
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        # The cause may be a folder in place of a file, or a file in place of a folder.
        with contextlib.suppress(OSError):
            partial.unlink()
        raise cannot_write(path, error) from error


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of text in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def read_bytes(path: Path, most: int, *, follow: bool = False) -> bytes:
    """The content of a file that `open_plain` opens."""
    with open_plain(path, most, follow=follow) as (file, size):
        return file.read(size)


@contextlib.contextmanager
def open_plain(path: Path, most: int, *, follow: bool = False) -> Iterator[tuple[io.BufferedIOBase, int]]:
    """A plain file of at most `most` bytes, opened for reading, and its size, checked before memory is allocated.

    **Arguments:**

    - `follow`: whether it may be behind a link.

    **Raises:** `FileNotFoundError`; `ValueError` if it is a link, a pipe or a folder, or larger.
    """
    try:
        with open(os.open(path, READ if follow else READ | NO_LINK), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ValueError(f"{path.name} is not a plain file")
            if found.st_size > most:
                raise ValueError(f"{path.name} has {found.st_size} bytes, and at most {most} are allowed")
            yield file, found.st_size
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = "it is a link, or not accessible" if path.is_symlink() else error.strerror
        raise ValueError(f"{path.name} cannot be read ({reason})") from None


def to_json(value: Any, indent: int | None = None) -> str:
    """`value` in JSON, with null for numbers that are not finite, which JSON lacks."""
    return json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False)


def read_json(content: bytes | str, most: int | None = None) -> Any:
    """Parse JSON whose numbers are finite and whose text can be written again.

    **Arguments:**

    - `most`: values that it may hold, counted before memory is allocated for them; by default what its size allows.

    **Raises:** `ValueError` if it is not JSON, holds NaN, a number too large or more values, or is nested too deeply.
    """
    # `json.loads` on bytes would guess UTF-16, and accept halves of characters.
    text = content if isinstance(content, str) else content.decode("utf-8")
    if most is not None and sum(map(text.count, "[{,")) > most:
        raise ValueError(f"it holds more than {most} values")
    try:
        found = json.loads(text, parse_constant=_to_finite, parse_float=_to_finite)
        if _SURROGATES.search(text):
            # JSON can encode half of a character, which no file can hold.
            json.dumps(found, ensure_ascii=False).encode()
        return found
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None


def cannot_write(path: Path, error: Exception) -> ValueError:
    """The message for a user when `path` cannot be written."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ValueError(
        f"cannot write {path} ({reason}); free space on the disk or make the folder writable. What was saved before is "
        "intact: use `resume`, or choose another folder."
    )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _to_finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"it holds the number {text[:20]}")
    return value
