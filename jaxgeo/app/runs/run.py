"""Load a run from its folder."""

import reprlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxgeo._checks import check_number
from jaxgeo._trainable import path_name
from jaxgeo.app.data import Encoder, Kind, Table
from jaxgeo.app.data.arrays import read_array
from jaxgeo.app.data.cells import Meaning
from jaxgeo.app.data.encoder import MOST_LEVELS
from jaxgeo.app.data.table import as_table
from jaxgeo.app.runs import networks
from jaxgeo.app.runs.config import EVIDENCE, MOST_LAYERS, PRECISIONS, Config
from jaxgeo.app.runs.fields import read_fields
from jaxgeo.app.runs.folder import RunFolder
from jaxgeo.app.runs.monitor import check_rows
from jaxgeo.equations import Network
from jaxgeo.equations.network import count_params
from jaxgeo.fitting import Scaling
from jaxgeo.fitting.checkpoints import compare
from jaxgeo.fitting.digests import Digests
from jaxgeo.fitting.keeper import read_rows
from jaxgeo.linalg.memory import total_memory
from jaxgeo.tabular import TableModel

# Bytes before the numbers of an array.
MOST_HEADER = 2**10
NETWORK: dict[str, Any] = {
    **dict.fromkeys(("activation", "dtype", "kind"), str),
    **dict.fromkeys(("inputs", "outputs"), dict),
    "sizes": tuple[int, ...],
    "columns": tuple[dict, ...],
}
# Of networks that the evidence weighs.
TABLE: dict[str, Any] = {name: NETWORK[name] for name in ("kind", "inputs", "outputs", "columns")}
READING: dict[str, Any] = {**dict.fromkeys(("meaning", "style", "sign"), str), "strays": bool}
COLUMN: dict[str, Any] = {
    "name": str,
    "reading": dict,
    "levels": tuple[str, ...],
    "fill": float,
    **dict.fromkeys(("gaps", "season"), bool),
}


@dataclass(frozen=True)
class Run:
    """A run and its trained network.

    - `path`: its folder. `config`: its settings. `summary`: its results.
    - `metrics`: one dictionary for each recorded step.
    - `model`: the network, or the networks that the evidence weighs, on standardised inputs; `predict` takes rows as
        they are in the user's data.
    - `kind`: classification or regression.
    - `inputs`, `outputs`: the standardisation of both ends.
    - `encoder`: how the columns of a table become inputs.
    """

    path: Path
    config: Config
    summary: dict[str, Any]
    metrics: list[dict[str, Any]]
    model: Network | TableModel
    kind: Kind
    inputs: Scaling
    outputs: Scaling
    encoder: Encoder

    def __repr__(self) -> str:
        found = self.summary
        return (
            f"Run({str(self.path)!r}: {found['source']}; {self.kind.value}, {found['outcome']} after {found['steps']} "
            f"steps, cost {found['cost']:.3g})"
        )

    def predict(self, rows: Any, return_std: bool = False) -> Any:
        """The class names (classification) or values (regression) that the network predicts, one for each row.

        **Arguments:**

        - `rows`: a pandas `DataFrame` or a dictionary with the columns of the table, as they were written there; or
            numbers, of shape (rows, inputs), in the order of `inputs.names`.
        - `return_std`: return the standard deviations of new values as well, with their noise. Only networks that the
            evidence weighs have them.

        A warning says which cells of a table are unlike all in training, such as unknown text, and what they count as.

        **Raises:** `ValueError` if a column is not there or a cell cannot be read, the numbers are of another shape,
        they or their predictions are not finite, or there are no standard deviations.
        """
        weighed = self._with_errors() if return_std else None
        z = self._standardised(rows)
        if isinstance(self.model, TableModel):
            # These give numbers in the unit of the target.
            outputs = _in_parts(self.model.predict, z)
        else:
            network = self.model
            # So many rows at once that a layer's outputs take 128 MiB.
            part = max(1, 2**24 // max(network.sizes))
            outputs = _in_parts(lambda few: np.asarray(jax.vmap(network)(jnp.asarray(few))), z, part)
            if self.kind is Kind.REGRESSION:
                with np.errstate(over="ignore"):
                    outputs = self.outputs.invert(outputs)
        _refuse_infinite(outputs)
        if self.kind is Kind.CLASSIFICATION:
            # Objects, since an array of text gives each entry the length of the longest name.
            return np.asarray(self.outputs.names, object)[outputs.argmax(axis=1)]
        if weighed is None:
            return outputs[:, 0]
        deviations = _in_parts(weighed.deviation, z)
        _refuse_infinite(deviations)
        return outputs[:, 0], deviations[:, 0]

    def predict_interval(self, rows: Any, coverage: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """From where to where a new value for each of `rows` is with this probability, as much being below as above.

        **Raises:** `ValueError` as `predict` does, and unless `coverage` lies between 0 and 1 and the run has networks
        of numbers that the evidence weighs.
        """
        check_number("coverage", coverage, above=0, most=1)
        if coverage == 1:
            raise ValueError("`coverage` must be below 1: only an infinite interval holds all.")
        model = self._with_errors()
        found = _in_parts(lambda z: np.hstack(model.interval(z, float(coverage))), self._standardised(rows))
        _refuse_infinite(found)
        return found[:, 0], found[:, 1]

    def _with_errors(self) -> TableModel:
        if not isinstance(self.model, TableModel) or self.kind is not Kind.REGRESSION:
            raise ValueError(
                f"the run in {self.path} has no error bars: these are for numbers, and for runs without --flow and "
                "--optimizer."
            )
        return self.model

    def _standardised(self, rows: Any) -> np.ndarray:
        values = self._inputs(rows)
        if values.ndim != 2 or values.shape[1] != len(self.inputs.names):
            raise ValueError(
                f"`rows` must have shape (rows, {len(self.inputs.names)}), with the features in the order of "
                f"`inputs.names`; got {values.shape}."
            )
        if not np.isfinite(values).all():
            raise ValueError("`rows` has NaN or infinite entries; fill them in first.")
        dtype = np.float64 if isinstance(self.model, TableModel) else self.model.layers[0].weight.dtype
        with np.errstate(over="ignore"):
            z = self.inputs.apply(values).astype(dtype)
        if (bad := np.argwhere(~np.isfinite(z))).size:
            row, column = bad[0]
            raise ValueError(
                f"{self.inputs.names[column]!r} is {values[row, column]:g} in row {row + 1}, which is too large for "
                f"the network, trained around {self.inputs.mean[column]:.4g} ± {self.inputs.scale[column]:.4g}."
            )
        return z

    def _inputs(self, rows: Any) -> np.ndarray:
        """The inputs of the network, not yet scaled."""
        if isinstance(rows, dict) or hasattr(rows, "columns"):
            rows = as_table(rows)
        if isinstance(rows, Table):
            cells = self.encoder.read(rows)
            for note in self.encoder.substituted(cells, self.inputs):
                # The caller of `predict` or `predict_interval`.
                warnings.warn(note, stacklevel=4)
            return self.encoder.encode(cells)
        try:
            return np.asarray(rows, np.float64)
        except (TypeError, ValueError):
            raise ValueError(
                "`rows` must be a pandas DataFrame, a dictionary of columns, or an array of numbers; got "
                f"{reprlib.repr(rows)}. Read a file with pandas, or use jaxgeo predict."
            ) from None


def load(path: Path | str) -> Run:
    """Load a run from the folder that `jaxgeo train` wrote, also while it is still going on.

    Weights that were trained in float64 stay so where x64 is on in JAX, and are rounded to float32 elsewhere.

    **Arguments:**

    - `path`: the folder, such as "runs/digits".

    **Returns:** a `jaxgeo.app.runs.Run`: the network with its trained parameters (`model`), `predict` for rows as they
    are in the user's data, and the settings, metrics and summary of the run.

    **Raises:** `ValueError` if the folder is not a run's, or a file of it is damaged.
    """
    folder = RunFolder(Path(path))
    try:
        config = folder.read_config()
        several = config.optimizer == EVIDENCE
        network = read_fields(folder.read_network(), TABLE if several else NETWORK)
        kind = Kind(network["kind"])
        inputs, outputs = (_read_scaling(end, network[end]) for end in ("inputs", "outputs"))
        if not several:
            _check_sizes(network, config, inputs, outputs)
        encoder = _read_encoder(network["columns"], inputs)
        summary = folder.read_summary()
        if summary["kind"] != kind.value or summary["classes"] not in ((), outputs.names):
            raise ValueError("summary.json is of another task than network.json")
        metrics, lost = read_rows(folder.files)
        check_rows(metrics, kind)
        if several:
            model = _read_networks(folder.files, kind, inputs, outputs)
        else:
            model = _read_network(folder.files, network["sizes"], np.dtype(network["dtype"]))
    except FileNotFoundError as error:
        name = Path(error.filename).name
        if name == networks.NAME:
            raise ValueError(f"the run in {path} was ended before its first update; use jaxgeo resume.") from None
        raise ValueError(f"{path} is not the folder of a run: there is no {name} in it.") from None
    except (ValueError, OSError, OverflowError, TypeError, EOFError) as error:
        told = " ".join(str(error)[:500].split())
        complete = told.startswith(("the run in", f"{path} is not the folder"))
        raise ValueError(told if complete else f"the run in {path} is damaged ({told}); train it again.") from error
    if lost:
        warnings.warn(f"metrics.jsonl in {path} is damaged: {lost} of its rows are lost.", stacklevel=2)
    return Run(folder.path, config, summary, metrics, model, kind, inputs, outputs, encoder)


# Characters of a name that is read back.
MOST_NAME = 10_000


def _read_scaling(end: str, found: Any) -> Scaling:
    fields = read_fields(found, {"names": tuple[str, ...], "mean": tuple[float, ...], "scale": tuple[float, ...]})
    names, mean, scale = fields["names"], np.array(fields["mean"], np.float64), np.array(fields["scale"], np.float64)
    if max(map(len, names), default=0) > MOST_NAME:
        raise ValueError(f"network.json has a name of {max(map(len, names))} characters among its {end}")
    if not len(names) == len(mean) == len(scale) == len(set(names)):
        raise ValueError(
            f"network.json has {len(set(names))} names of {end}, {len(mean)} means and {len(scale)} scales"
        )
    if not (scale > 0).all():
        raise ValueError(f"network.json has a scale of {end} that is not positive")
    return Scaling(names, mean, scale)


def _read_encoder(columns: Any, inputs: Scaling) -> Encoder:
    found = [read_fields(column, COLUMN) for column in columns]
    encoder = Encoder.from_list([column | {"reading": read_fields(column["reading"], READING)} for column in found])
    names = [column.name for column in encoder.columns]
    if max(map(len, names), default=0) > MOST_NAME:
        raise ValueError(f"network.json has a column whose name has {max(map(len, names))} characters")
    if len(set(names)) < len(names) or any(len(column.levels) > MOST_LEVELS for column in encoder.columns):
        raise ValueError("network.json has a column twice, or one of too many levels")
    if any(column.levels and column.reading.meaning is not Meaning.TEXT for column in encoder.columns):
        raise ValueError("network.json has levels of a column that is no text")
    if encoder.names != inputs.names:
        raise ValueError("network.json has other inputs by its columns than by its scales")
    return encoder


def _check_sizes(network: dict[str, Any], config: Config, inputs: Scaling, outputs: Scaling) -> None:
    """`ValueError` unless the network is that of its inputs and outputs and of the settings, and can be meant."""
    sizes, ends = network["sizes"], (len(inputs.names), len(outputs.names))
    if not 2 <= len(sizes) <= MOST_LAYERS + 2 or min(sizes) < 1:
        raise ValueError(f"network.json has the sizes {str(sizes)[:80]}")
    if (sizes[0], sizes[-1]) != ends:
        raise ValueError(
            f"network.json has sizes from {sizes[0]} to {sizes[-1]}, but {ends[0]} inputs and {ends[1]} outputs"
        )
    if (sizes[1:-1], network["dtype"]) != (config.hidden, config.precision):
        raise ValueError("network.json is of another network than config.toml")
    if network["dtype"] not in PRECISIONS or network["activation"] != "tanh":
        raise ValueError(f"network.json is of {network['activation']} in {network['dtype']}")


def _read_networks(files: Digests, kind: Kind, inputs: Scaling, outputs: Scaling) -> TableModel:
    """The networks that the evidence weighs."""
    classes = len(outputs.names) if kind is Kind.CLASSIFICATION else None
    if len(outputs.names) < 2 if classes is not None else len(outputs.names) != 1:
        raise ValueError(f"network.json has {len(outputs.names)} outputs for a {kind.value}")
    return networks.read_progress(files, inputs.names, classes).model


def _in_parts(function: Callable[[np.ndarray], np.ndarray], z: np.ndarray, size: int = 2**16) -> np.ndarray:
    """`function` of all rows, a part at a time."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.concatenate([function(z[i : i + size]) for i in range(0, max(len(z), 1), size)])


def _refuse_infinite(outputs: np.ndarray) -> None:
    if (bad := np.argwhere(~np.isfinite(outputs))).size:
        raise ValueError(f"the prediction for row {bad[0, 0] + 1} is not finite; its values are too large.")


def _read_network(files: Digests, sizes: tuple[int, ...], dtype: np.dtype) -> Network:
    """The network of these sizes; `ValueError` with the difference if the weights are another's, or are not finite.

    They are what `eqx.tree_serialise_leaves` wrote, array by array. Each header is read before its array.
    """
    # An array more than there may be, so that its message can name it.
    most = count_params(sizes) * dtype.itemsize + (2 * len(sizes) + 8) * MOST_HEADER
    # Only shapes are needed; as NumPy arrays they keep float64 whether or not x64 is on.
    skeleton = eqx.filter_eval_shape(Network, sizes, jnp.float32, key=jax.eval_shape(lambda: jax.random.key(0)))
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), skeleton)
    wanted = {path_name(path): f"{leaf.dtype} {leaf.shape}" for path, leaf in jax.tree_util.tree_leaves_with_path(like)}
    names = [*wanted, "and an array"]
    kept, arrays, finite = {}, [], True
    # Each array is in memory twice, one after the other.
    with files.open("parameters.eqx", min(most, total_memory() // 4)) as (file, size):
        if count_params(sizes) * dtype.itemsize > size:
            raise ValueError(f"parameters.eqx is of another network: {'-'.join(map(str, sizes))} does not fit into it")
        while file.tell() < size and len(kept) < len(names):
            try:
                array = read_array(file, size - file.tell())
            except ValueError as error:
                raise ValueError(f"parameters.eqx: {error}") from None
            name = names[len(kept)]
            kept[name] = f"{array.dtype} {array.shape}"
            if kept[name] == wanted.get(name):
                finite = finite and bool(np.isfinite(array).all())
                arrays.append(jnp.asarray(array))
    if differences := compare(kept, wanted):
        raise ValueError(f"parameters.eqx is of another network than network.json: {'; '.join(differences)}")
    if not finite:
        raise ValueError("parameters.eqx holds weights that are not finite")
    return jax.tree.unflatten(jax.tree.structure(like), arrays)
