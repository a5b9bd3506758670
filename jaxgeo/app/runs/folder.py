"""The folder of a run, written so that an interruption leaves each file whole."""

import io
import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from jaxgeo.app.data import Task
from jaxgeo.app.runs.config import Config
from jaxgeo.equations import Network
from jaxgeo.fitting.files import save_rows, write_bytes, write_text


class RunFolder:
    """Where a run is kept: `config.toml`, `network.json`, `parameters.eqx`, `metrics.jsonl`, `summary.json`.

    Beside them lies what `jaxgeo.fit` keeps to go on from. Each file is written under another name first and then
    renamed. Nothing is pickled, so that opening a folder from elsewhere runs no code.
    """

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def create(cls, path: Path, *, fresh_name: bool) -> "RunFolder":
        """Make a new folder.

        **Arguments:**

        - `fresh_name`: take `path`-2, `path`-3, … if `path` is in use, rather than raise.

        **Raises:** `ValueError` if the folder is in use or cannot be written.
        """
        chosen, number = path, 2
        while fresh_name and _in_use(chosen):
            chosen, number = path.with_name(f"{path.name}-{number}"), number + 1
        if _in_use(chosen):
            raise ValueError(f"{chosen} is in use already; choose another folder with --out, or remove it.")
        try:
            chosen.mkdir(parents=True, exist_ok=True)
            probe = chosen / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ValueError(
                f"cannot write to {chosen} ({error.strerror}); choose another folder with --out."
            ) from None
        return cls(chosen)

    def save_settings(self, config: Config, task: Task, sizes: tuple[int, ...]) -> None:
        """Write what does not change during the run."""
        self.write_text("config.toml", config.to_toml())
        scalings = {
            name: {"names": list(s.names), "mean": s.mean.tolist(), "scale": s.scale.tolist()}
            for name, s in (("inputs", task.inputs), ("outputs", task.outputs))
        }
        network = {
            "sizes": list(sizes),
            "activation": "tanh",
            "dtype": config.precision,
            "kind": task.kind.value,
            "columns": task.encoder.to_list(),
            **scalings,
        }
        self.write_text("network.json", json.dumps(network, indent=1, ensure_ascii=False))

    def save_parameters(self, network: Network) -> None:
        """Write the network's weights in NumPy's format, through `eqx.tree_serialise_leaves`."""
        file = io.BytesIO()
        eqx.tree_serialise_leaves(file, jax.tree.map(np.asarray, eqx.filter(network, eqx.is_array)))
        write_bytes(self.path / "parameters.eqx", file.getvalue())

    def save_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Write the metrics, one JSON object a line."""
        save_rows(self.path, rows)

    def save_summary(self, summary: dict[str, Any]) -> None:
        """Write what the run found."""
        self.write_text("summary.json", json.dumps(summary, indent=1, ensure_ascii=False))

    def read_summary(self) -> dict[str, Any]:
        """What `save_summary` wrote; empty if it is not there or not whole."""
        try:
            return json.loads((self.path / "summary.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def write_text(self, name: str, text: str) -> None:
        """Write a file in the folder, all or nothing."""
        write_text(self.path / name, text)


def _in_use(path: Path) -> bool:
    return path.exists() and not (path.is_dir() and not any(path.iterdir()))
