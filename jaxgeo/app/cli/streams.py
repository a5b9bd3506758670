"""The standard streams of a command that goes on whatever becomes of them."""

import codecs
import io
import os
import sys
import unicodedata
from typing import Any

# For terminals that have ASCII only.
_PLAIN = {"ᵀ": "^T", "×": "x", "…": "...", "≥": ">=", "≤": "<=", "−": "-", "–": "-", "—": "-", "→": "->", "²": "^2"}


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_PLAIN.get(each, f"\\u{ord(each):04x}") for each in text), error.end


codecs.register_error("jaxgeo.plain", _plain)


def visible(text: str) -> str:
    """Text in one line, with what would move a terminal's cursor, colour it or turn its direction written out."""
    return "".join(
        " " if each == "\n" else f"\\u{ord(each):04x}" if unicodedata.category(each) in ("Cc", "Cf", "Cs") else each
        for each in text.strip()
    )


class _Patient(io.RawIOBase):
    """A stream that remembers the first error of writing and lets the rest go."""

    def __init__(self, inner: Any):
        self.inner = getattr(inner, "raw", inner)
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self.inner.isatty()

    def fileno(self) -> int:
        return self.inner.fileno()

    def write(self, content: Any) -> int:
        if self.error is None:
            try:
                return self.inner.write(content) or 0
            except OSError as error:
                self.error = error
        return len(content)


class Streams:
    """Within `with`, standard output and error that write what their encoding has not as ASCII, and raise nothing.

    So a closed pipe or a full disk behind `>` does not end a training that writes files.

    - `error`: why the standard output could not be written; None if it could, or if its reader has left.
    """

    def __enter__(self) -> "Streams":
        # TensorStore's threads have a traceback to print of what has been answered here in one line.
        self.hook, sys.unraisablehook = sys.unraisablehook, lambda told: None
        self.before = sys.stdout, sys.stderr
        self.raw = []
        for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
            inner = open(os.devnull, "wb") if stream is None else stream.buffer
            encoding = "utf-8" if stream is None else stream.encoding
            raw = _Patient(inner)
            if stream is not None:
                stream.flush()
            setattr(sys, name, io.TextIOWrapper(io.BufferedWriter(raw), encoding, "jaxgeo.plain", line_buffering=True))
            self.raw.append(raw)
        return self

    @property
    def error(self) -> OSError | None:
        sys.stdout.flush()
        found = self.raw[0].error
        return None if isinstance(found, BrokenPipeError) else found

    def __exit__(self, *error: object) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = self.before
        sys.unraisablehook = self.hook
