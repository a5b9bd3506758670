"""Ctrl-C and SIGTERM, heard from before anything is loaded. Imports nothing that takes time."""

import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Protocol, runtime_checkable


@runtime_checkable
class Polled(Protocol):
    """What a training looks at between two parts."""

    interrupted: bool


class Signals:
    """Leaves at once while nothing is at stake; a training is told to end with its part, and left by the second signal.

    No exception is raised into whatever code is running: in the midst of an import or of a finalizer it would be lost,
    or end in a traceback. Files are whole at any time, so the process may end at any.

    - `code`: the exit code that the last signal asks for, 128 and its number; 0 without one.
    - `folder`: of the run that can be resumed.
    """

    def __init__(self) -> None:
        self.code = 0
        self.folder: Path | None = None
        self.polled: Polled | None = None

    def install(self) -> None:
        """Answer both signals, unless whoever started this process has them ignored."""
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._hear)

    @contextlib.contextmanager
    def training(self, polled: Polled) -> Iterator[None]:
        """Tell the training, rather than leave."""
        self.polled = polled
        try:
            yield
        finally:
            self.polled = None

    @property
    def advice(self) -> str:
        """What to type to go on."""
        return (
            "nothing was written" if self.folder is None else f"to go on: jaxgeo resume {shlex.quote(str(self.folder))}"
        )

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.code = 128 + number
        if self.polled is not None and not self.polled.interrupted:
            self.polled.interrupted = True
            _say("\nfinishing the steps at hand; press Ctrl-C again to leave at once\n")
            return
        with contextlib.suppress(Exception):
            # The line that was being written when the signal came.
            sys.stdout.flush()
        if os.isatty(2):
            _say("\x1b[?25h\r\x1b[K")  # the cursor, which a progress bar hides, and a clean line
        _say(f"interrupted; {self.advice}\n")
        os._exit(self.code)


def _say(text: str) -> None:
    # Not through `sys.stderr`, in the midst of whose writing the signal may have come.
    with contextlib.suppress(OSError):
        os.write(2, text.encode(errors="replace"))


SIGNALS = Signals()
