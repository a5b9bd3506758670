"""Standard streams for a command that continues even if they fail."""

import codecs
import io
import os
import sys
import unicodedata
from typing import Any

# Replacements for terminals that only support ASCII.
_PLAIN = {"ᵀ": "^T", "×": "x", "…": "...", "≥": ">=", "≤": "<=", "−": "-", "–": "-", "—": "-", "→": "->", "²": "^2"}


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_PLAIN.get(each, f"\\u{ord(each):04x}") for each in text), error.end


codecs.register_error("jaxgeo.plain", _plain)


def visible(text: str) -> str:
    """Text in one line; characters that would move the cursor or change colour or direction are written out."""
    return "".join(
        " " if each == "\n" else f"\\u{ord(each):04x}" if unicodedata.category(each) in ("Cc", "Cf", "Cs") else each
        for each in text.strip()
    )


class _Patient(io.RawIOBase):
    """A stream that remembers the first error of writing and drops all later output."""

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
    """Inside `with`, standard output and error never raise, and replace characters that their encoding lacks by ASCII.

    So a closed pipe or a full disk behind `>` does not stop a training that writes files.

    - `error`: why standard output could not be written; None if it could, or if its reader has left.
    """

    def __enter__(self) -> "Streams":
        # TensorStore's threads would print a traceback of an error that was already reported here in one line.
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
