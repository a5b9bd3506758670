"""The folder of a run: an interruption leaves each file whole, and nothing in it is trusted when it is read."""

import contextlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from jaxgeo.app.data import Task
from jaxgeo.app.runs.config import Config
from jaxgeo.app.runs.fields import MOST_BYTES
from jaxgeo.app.runs.summary import read_summary
from jaxgeo.equations import Network
from jaxgeo.fitting.digests import Digests
from jaxgeo.fitting.files import read_json, to_json, write_bytes
from jaxgeo.fitting.keeper import save_rows
from jaxgeo.fitting.lock import NAME as LOCK, FolderLock, InUse

# Bytes of what is written about a network, and values in it, for as many columns as a table may have.
MOST_NETWORK, MOST_VALUES = 2**26, 2**21


class RunFolder:
    """Where a run is kept: `config.toml`, `network.json`, `parameters.eqx`, `metrics.jsonl`, `summary.json`.

    Networks that the evidence weighs are in `networks.npy`, in place of `parameters.eqx`. Beside them lies what
    `jaxgeo.fit` keeps to go on from. All that is read back has its digest in `digests.json`. Nothing is pickled, so
    that opening a folder from elsewhere runs no code. Within `with` the folder is this process's alone.
    """

    def __init__(self, path: Path, lock: FolderLock | None = None):
        self.path, self.lock, self.files = path, lock, Digests(path)

    @classmethod
    def create(cls, path: Path, *, fresh_name: bool) -> "RunFolder":
        """Create a new folder and lock it.

        **Arguments:**

        - `fresh_name`: if `path` is in use, take `path`-2, `path`-3, … instead of raising an error.

        **Raises:** `ValueError` if the folder is in use or cannot be written.
        """
        chosen, number = path, 2
        while True:
            if (folder := cls._take(chosen)) is not None:
                return folder
            if not fresh_name:
                raise ValueError(f"{chosen} is in use already; choose another folder with --out, or remove it.")
            chosen, number = path.with_name(f"{path.name}-{number}"), number + 1

    @classmethod
    def _take(cls, path: Path) -> "RunFolder | None":
        """The folder if nothing is in it, once it is locked: of two that want a name one gets it."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.mkdir()
            except FileExistsError:
                if not path.is_dir() or set(os.listdir(path)) - {LOCK}:
                    return None
        except OSError as error:
            raise ValueError(f"cannot write to {path} ({error.strerror}); choose another folder with --out.") from None
        try:
            lock = FolderLock(path)
        except InUse:
            return None
        if set(os.listdir(path)) - {LOCK}:
            lock.release()
            return None
        return cls(path, lock)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Own the folder of a run that is to go on; `ValueError` if it is none, or the run is going on."""
        if not (path / "config.toml").is_file():
            raise ValueError(
                f"{path} is not the folder of a run: there is no config.toml in it. Pass one, such as runs/digits."
            )
        return cls(path, FolderLock(path))

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *error: object) -> None:
        if self.lock is not None:
            # Of a folder that cannot be written any more the digests are as good as they can be.
            with contextlib.suppress(ValueError):
                self.files.settle()
            self.lock.release()

    @property
    def has_begun(self) -> bool:
        """Whether all that does not change during the run has been written."""
        return "summary.json" in self.files.names

    @property
    def has_checkpoints(self) -> bool:
        """Whether `jaxgeo.fit` has kept a state to go on from."""
        return any(name.startswith("checkpoints/") for name in self.files.names)

    def read_config(self) -> Config:
        """The settings; `ValueError` if they are not those that were written."""
        try:
            return Config.from_toml(self.files.read("config.toml", MOST_BYTES).decode())
        except FileNotFoundError:
            raise ValueError(
                f"{self.path} is not the folder of a run: there is no config.toml in it. Pass one, such as runs/digits."
            ) from None
        except ValueError as error:
            raise ValueError(
                f"the run in {self.path} is damaged: {error}. If you have edited config.toml, undo that: "
                "`jaxgeo resume` takes --tol and --max-steps, and `jaxgeo train --config` takes edited settings."
            ) from None

    def save_config(self, config: Config) -> None:
        """Write the settings."""
        self.files.write("config.toml", config.to_toml().encode())

    def save_settings(self, config: Config, task: Task, sizes: tuple[int, ...]) -> None:
        """Write the settings and the encoding, which do not change during the run."""
        self.save_config(config)
        network = {
            "sizes": list(sizes),
            "activation": "tanh",
            "dtype": config.precision,
            "kind": task.kind.value,
            "columns": task.encoder.to_list(),
            **_scalings(task),
        }
        content = to_json(network, indent=1).encode()
        if len(content) > MOST_NETWORK:
            raise ValueError(
                f"the names and scales of {len(task.inputs.names)} inputs take {len(content)} bytes, and may take "
                f"{MOST_NETWORK}; leave columns out with --drop, or shorten their names."
            )
        self.files.write("network.json", content)

    def read_network(self) -> Any:
        """What is written about the network, as JSON."""
        return read_json(self.files.read("network.json", MOST_NETWORK), MOST_VALUES)

    def save_table(self, task: Task) -> None:
        """Write how rows become inputs of networks that the evidence weighs, and what they predict."""
        table = {"kind": task.kind.value, "columns": task.encoder.to_list(), **_scalings(task)}
        self.files.write("network.json", to_json(table, indent=1).encode())

    def save_parameters(self, network: Network) -> None:
        """Write the network's weights in NumPy's format, through `eqx.tree_serialise_leaves`."""
        file = io.BytesIO()
        eqx.tree_serialise_leaves(file, jax.tree.map(np.asarray, eqx.filter(network, eqx.is_array)))
        self.files.write("parameters.eqx", file.getvalue())

    def save_metrics(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write the metrics, one JSON object on each line."""
        save_rows(self.files, rows)

    def save_summary(self, summary: dict[str, Any]) -> None:
        """Write the results of the run."""
        self.files.write("summary.json", to_json(summary, indent=1).encode())

    def read_summary(self) -> dict[str, Any]:
        """What `save_summary` wrote. `FileNotFoundError` or `ValueError` if it is not there, or damaged."""
        return read_summary(self.files.read("summary.json"))

    def write_text(self, name: str, text: str) -> None:
        """Write a file that jaxgeo never reads, completely or not at all."""
        write_bytes(self.files.place(name), text.encode())


def _scalings(task: Task) -> dict[str, Any]:
    return {
        name: {"names": list(s.names), "mean": s.mean.tolist(), "scale": s.scale.tolist()}
        for name, s in (("inputs", task.inputs), ("outputs", task.outputs))
    }
