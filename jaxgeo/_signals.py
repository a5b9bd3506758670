"""Handle Ctrl-C and SIGTERM before anything else is loaded. Imports nothing slow."""

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
    """What a training run checks between two parts."""

    interrupted: bool


class Signals:
    """Exits at once while nothing is at stake. A training run may first finish its part; a second signal ends it.

    No exception is raised into running code: in the middle of an import or a finalizer it would be lost, or end in a
    traceback. Files are complete at all times, so the process may exit at any moment.

    - `code`: the exit code for the last signal, 128 plus its number; 0 if there was none.
    - `folder`: the folder of the run that can be resumed.
    """

    def __init__(self) -> None:
        self.code = 0
        self.folder: Path | None = None
        self.polled: Polled | None = None

    def install(self) -> None:
        """Handle both signals, unless the parent process has set them to be ignored."""
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._hear)

    @contextlib.contextmanager
    def training(self, polled: Polled) -> Iterator[None]:
        """Ask the training run to stop, rather than exit."""
        self.polled = polled
        try:
            yield
        finally:
            self.polled = None

    @property
    def advice(self) -> str:
        """What to type to resume."""
        return (
            "nothing was written"
            if self.folder is None
            else f"to resume: jaxgeo resume {shlex.quote(str(self.folder))}"
        )

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.code = 128 + number
        if self.polled is not None and not self.polled.interrupted:
            self.polled.interrupted = True
            _say("\nfinishing the current steps; press Ctrl-C again to exit at once\n")
            return
        with contextlib.suppress(Exception):
            # Write out the line that the signal interrupted.
            sys.stdout.flush()
        if os.isatty(2):
            _say("\x1b[?25h\r\x1b[K")  # show the cursor, which a progress bar hides, and clear the line
        _say(f"interrupted; {self.advice}\n")
        os._exit(self.code)


def _say(text: str) -> None:
    # Not through `sys.stderr`: the signal may have interrupted a write to it.
    with contextlib.suppress(OSError):
        os.write(2, text.encode(errors="replace"))


SIGNALS = Signals()
