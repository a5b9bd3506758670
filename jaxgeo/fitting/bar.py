"""A line on the terminal that shows the progress of a run."""

import shutil
import sys
from types import TracebackType
from typing import TextIO

from jaxgeo.fitting.loop import Progress

WIDTH = 20


class Bar:
    """Writes one line, updates it at each progress, and ends it.

    Until the first progress the line says that the run is being compiled.
    """

    def __init__(self, stream: TextIO | None = None):
        self.stream = sys.stderr if stream is None else stream
        self.length = 0

    def __call__(self, progress: Progress) -> None:
        done = round(WIDTH * progress.fraction)
        elsewhere = progress.row.get("validation_cost")
        text = f"[{'█' * done}{'·' * (WIDTH - done)}] step {progress.step}, cost {progress.cost:.2e}"
        text += "" if elsewhere is None else f", held out {elsewhere:.2e}"
        self._write(f"{text}, {progress.seconds:.0f} s")

    def compiling(self) -> None:
        """Say why nothing moves yet. An error message that comes next starts at the beginning of the line."""
        self._write("compiling …")
        self.stream.write("\r")
        self.stream.flush()

    def _write(self, text: str) -> None:
        text = text[: shutil.get_terminal_size().columns - 1]
        self.stream.write(f"\r{text.ljust(self.length)}")
        self.stream.flush()
        self.length = len(text)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.length:
            self.stream.write("\n")
            self.stream.flush()
