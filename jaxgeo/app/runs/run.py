"""A finished run, loaded back from its folder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxgeo.app.data import Encoder, Kind, Table
from jaxgeo.app.data.table import as_table
from jaxgeo.app.runs.config import Config
from jaxgeo.equations import Network
from jaxgeo.fitting import Scaling
from jaxgeo.fitting.checkpoints import compare, describe
from jaxgeo.fitting.files import read_rows


@dataclass(frozen=True)
class Run:
    """A run and its trained network.

    - `path`: its folder. `config`: its settings. `summary`: what it found.
    - `metrics`: one dictionary for each recorded step.
    - `model`: the network, on standardised inputs; `predict` takes rows as they are in the user's data.
    - `kind`: classification or regression.
    - `inputs`, `outputs`: the standardisation of both ends.
    - `encoder`: how the columns of a table become inputs.
    """

    path: Path
    config: Config
    summary: dict[str, Any]
    metrics: list[dict[str, Any]]
    model: Network
    kind: Kind
    inputs: Scaling
    outputs: Scaling
    encoder: Encoder

    def predict(self, rows: Any) -> np.ndarray:
        """The class names (classification) or values (regression) that the network predicts, one for each row.

        **Arguments:**

        - `rows`: a pandas `DataFrame` or a dictionary with the columns of the table, as they were written there; or
            numbers, of shape (rows, inputs), in the order of `inputs.names`.

        **Raises:** `ValueError` if a column is not there or a cell cannot be read, or the numbers are of another shape,
            or not finite.
        """
        values = self._inputs(rows)
        if values.ndim != 2 or values.shape[1] != len(self.inputs.names):
            raise ValueError(
                f"`rows` must have shape (rows, {len(self.inputs.names)}), with the features in the order of "
                f"`inputs.names`; got {values.shape}."
            )
        if not np.isfinite(values).all():
            raise ValueError("`rows` has NaN or infinite entries; fill them in first.")
        dtype = self.model.layers[0].weight.dtype
        outputs = np.asarray(jax.vmap(self.model)(jnp.asarray(self.inputs.apply(values), dtype)))
        if self.kind is Kind.CLASSIFICATION:
            return np.asarray(self.outputs.names)[outputs.argmax(axis=1)]
        return self.outputs.invert(outputs)[:, 0]

    def _inputs(self, rows: Any) -> np.ndarray:
        """The network's inputs before they are scaled."""
        if isinstance(rows, dict) or hasattr(rows, "columns"):
            rows = as_table(rows)
        return self.encoder.encode(rows) if isinstance(rows, Table) else np.asarray(rows, np.float64)


def load(path: Path | str) -> Run:
    """Load a run from the folder that `jaxgeo train` wrote, also while it is still going on.

    Weights that were trained in float64 stay so where x64 is on in JAX, and are rounded to float32 elsewhere.

    **Arguments:**

    - `path`: the folder, such as "runs/digits".

    **Returns:** a `jaxgeo.app.runs.Run`: the network with its trained parameters (`model`), `predict` for rows as they
    are in the user's data, and the settings, metrics and summary of the run.

    **Raises:** `ValueError` if the folder is not a run's, or a file of it is damaged.
    """
    path = Path(path)
    try:
        config = Config.from_toml((path / "config.toml").read_text(encoding="utf-8"))
        network = json.loads((path / "network.json").read_text(encoding="utf-8"))
        summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
        metrics = read_rows(path)
        sizes, dtype = tuple(network["sizes"]), np.dtype(network["dtype"])
        # Only shapes are needed; as NumPy arrays they keep float64 whether or not x64 is on.
        skeleton = eqx.filter_eval_shape(Network, sizes, jnp.float32, key=jax.eval_shape(lambda: jax.random.key(0)))
        like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, dtype), skeleton)
        model = _read_network(path / "parameters.eqx", like)
        scalings = [
            Scaling(tuple(network[end]["names"]), np.array(network[end]["mean"]), np.array(network[end]["scale"]))
            for end in ("inputs", "outputs")
        ]
        kind = Kind(network["kind"])
        encoder = Encoder.from_list(network["columns"])
    except FileNotFoundError as error:
        raise ValueError(f"{path} is not the folder of a run: there is no {Path(error.filename).name} in it.") from None
    except (ValueError, KeyError, TypeError, EOFError, AttributeError) as error:
        raise ValueError(f"the run in {path} is damaged ({type(error).__name__}: {error}); train it again.") from error
    return Run(path, config, summary, metrics, model, kind, scalings[0], scalings[1], encoder)


def _read_network(path: Path, like: Network) -> Network:
    """The network of `like`'s shape whose weights are in `path`; `ValueError` with the difference if they are not."""
    size, arrays = path.stat().st_size, []
    with path.open("rb") as file:
        while file.tell() < size:
            # What `eqx.tree_serialise_leaves` wrote, array by array, so that all that differs can be told.
            arrays.append(np.load(file, allow_pickle=False))
    wanted = describe(like)
    names = [*wanted, *(f"array {i}" for i in range(len(wanted), len(arrays)))]
    kept = {name: f"{array.dtype} {array.shape}" for name, array in zip(names, arrays, strict=False)}
    if differences := compare(kept, wanted):
        raise ValueError(f"parameters.eqx is of another network than network.json: {'; '.join(differences)}")
    return jax.tree.unflatten(jax.tree.structure(like), [jnp.asarray(array) for array in arrays])
