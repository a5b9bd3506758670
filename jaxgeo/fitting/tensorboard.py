"""Write the rows of a run for TensorBoard, if tensorboardX is installed."""

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from jaxgeo.fitting.drivers import Row


class TensorBoard:
    """Writes new rows into `folder`; does nothing without tensorboardX."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.installed = importlib.util.find_spec("tensorboardX") is not None
        self.writer: Any = None
        self.written = 0

    def write(self, rows: list[Row]) -> None:
        """Write each number of a row as a curve over the number of the row or of the update."""
        if not self.installed or not rows:
            return
        if self.writer is None:
            # A resumed run starts a new file with all rows; the rows of the old file no longer count.
            board = importlib.import_module("tensorboardX")
            self.writer = board.SummaryWriter(logdir=str(self.folder), purge_step=0)
        for i, row in enumerate(rows[self.written :], self.written):
            for name, value in row.items():
                self.writer.add_scalar(name, value, int(row.get("step", i)))
        self.written = len(rows)
        self.writer.flush()

    def close(self) -> None:
        """Close the file."""
        if self.writer is not None:
            self.writer.close()
