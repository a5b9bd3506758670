"""Networks that are weighted by their evidence, as one file of arrays, and read back as a stranger's."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxgeo.app.data.arrays import read_array
from jaxgeo.app.runs.config import MOST_LAYERS, MOST_ROUNDS
from jaxgeo.app.runs.fields import read_fields
from jaxgeo.fitting.digests import Digests
from jaxgeo.fitting.files import MOST_TEXT, read_json, to_json
from jaxgeo.fitting.scaling import Scaling
from jaxgeo.linalg.memory import total_memory
from jaxgeo.tabular import Ensemble, TableModel
from jaxgeo.tabular.calibration import DOUBT, SHARPNESS, Calibration
from jaxgeo.tabular.local import Local
from jaxgeo.tabular.member import Member
from jaxgeo.tabular.network import Shape
from jaxgeo.uncertainty.evidence import Evidence

NAME = "networks.npy"
MOST_NETWORKS = 64
STOPPED = ("converged", "max_iter", "max_time")
# A number whose square and inverse are finite, with room for sums.
LARGE = 1e150
FACTS: dict[str, Any] = {
    "rounds": int,
    **dict.fromkeys(("stopped", "data"), str),
    "first_rows": int | None,
    "takes_logs": bool,
    **dict.fromkeys(("tol", "seconds", "sharpness", "doubt"), float),
    "networks": tuple[dict, ...],
}
NETWORK: dict[str, Any] = {"widths": tuple[int, ...], **dict.fromkeys(("updates", "still"), int),
                           **dict.fromkeys(("by_input", "is_behind", "is_asked"), bool)}  # fmt: skip
# Of each network; the weights come from `log`.
NUMBERS = ("beta", "damping", "misfit", "log_evidence", "gain", "log")


@dataclass
class Progress:
    """A model on its way.

    - `data`: a fingerprint of the rows that it is trained on.
    - `tol`: the change of the evidence that is hardly one. `rounds`: of updates so far. `seconds`: that they took.
    """

    model: TableModel
    data: str
    tol: float
    rounds: int = 0
    seconds: float = 0.0


def to_bytes(progress: Progress) -> bytes:
    """Arrays in NumPy's format, one after the other: facts in JSON, then numbers of the model and of each network."""
    model, ensemble = progress.model, progress.model.ensemble
    facts = {
        "data": progress.data,
        "rounds": progress.rounds,
        "stopped": ensemble.stopped,
        "first_rows": ensemble.first_rows,
        "takes_logs": model.takes_logs,
        "tol": progress.tol,
        "seconds": progress.seconds,
        "sharpness": model.calibration.sharpness,
        "doubt": model.calibration.doubt,
        "networks": [
            {
                "widths": member.shape.widths,
                "by_input": member.shape.by_input,
                "updates": member.updates,
                "still": member.still,
                "is_behind": member.is_behind,
                "is_asked": member.local is not None,
            }
            for member in ensemble.members
        ],
    }
    numbers = [
        [member.beta, member.damping, member.misfit, member.log_evidence, member.gain, found.log]
        for member, found in zip(ensemble.members, ensemble.evidences, strict=True)
    ]
    outputs = np.zeros((2, 0)) if model.outputs is None else np.stack([model.outputs.mean, model.outputs.scale])
    arrays = [
        np.frombuffer(to_json(facts).encode(), np.uint8),
        np.array(numbers, np.float64),
        np.array(ensemble.losses, np.float64),
        np.array(model.bounds, np.float64),
        np.stack([model.inputs.mean, model.inputs.scale]),
        outputs,
        np.zeros((0, 0)) if model.axes is None else model.axes,
    ]
    for member, found in zip(ensemble.members, ensemble.evidences, strict=True):
        arrays += [member.theta, member.alpha, found.determined]
        if member.local is not None:
            arrays.append(member.local.square)
    file = io.BytesIO()
    for array in arrays:
        np.save(file, np.ascontiguousarray(array), allow_pickle=False)
    return file.getvalue()


def read_progress(files: Digests, names: Sequence[str], classes: int | None) -> Progress:
    """What `to_bytes` made, for inputs of these names and so many classes, or None for a number.

    **Raises:** `FileNotFoundError`; `ValueError` unless it is that, and can be predicted from.
    """
    # Each array is in memory twice, one after the other.
    with files.open(NAME, total_memory() // 4) as (file, size):
        return _read_progress(_Arrays(file, size), names, classes)


def _read_progress(arrays: "_Arrays", names: Sequence[str], classes: int | None) -> Progress:
    facts = read_fields(read_json(arrays.next(None, np.uint8).tobytes()), FACTS)
    networks = [read_fields(each, NETWORK) for each in facts["networks"]]
    _check_facts(facts, networks)
    numbers = arrays.next((len(networks), len(NUMBERS)))
    losses = arrays.next(None)
    low, high = arrays.next((2,))
    inputs = _scaling(names, arrays.next((2, len(names))))
    outputs = arrays.next((2, 0 if classes is not None else 1))
    axes = arrays.next(None, ndim=2)
    if axes.size and axes.shape[0] != len(names) or not axes.size and axes.shape != (0, 0):
        raise ValueError(f"{NAME} has axes of shape {axes.shape} for {len(names)} inputs")
    columns = axes.shape[1] if axes.size else len(names)
    _check_finite(inputs.mean, inputs.scale, axes, losses)
    # The unit of a target may be as large or small as numbers are.
    fits = np.isfinite(outputs).all() and (outputs[1] > 0).all()
    if not fits or np.isnan([low, high]).any() or len(losses) > 2 * MOST_ROUNDS:
        raise ValueError(f"{NAME} has scales, bounds or losses that no model has")
    members, evidences = [], []
    for found, row in zip(networks, numbers, strict=True):
        shape = Shape(columns, found["widths"], _outputs_for(classes), found["by_input"])
        member, evidence = _read_network(shape, found, row, arrays)
        members.append(member)
        evidences.append(evidence)
    arrays.end()
    ensemble = Ensemble(members, facts["first_rows"], evidences, losses.tolist(), facts["stopped"])
    if any(weight > 0 and member.local is None for weight, member in zip(ensemble.weights, members, strict=True)):
        raise ValueError(f"{NAME} lacks what a network with a weight needs")
    model = TableModel(
        inputs,
        axes if axes.size else None,
        None if classes is not None else Scaling(("target 0",), outputs[0], outputs[1]),
        facts["takes_logs"],
        (float(low), float(high)),
        ensemble,
        Calibration(facts["sharpness"], facts["doubt"]),
    )
    return Progress(model, facts["data"], facts["tol"], facts["rounds"], facts["seconds"])


class _Arrays:
    """The arrays of a file one by one, each of the shape that is expected."""

    def __init__(self, file: io.BufferedIOBase, size: int):
        self.file, self.size = file, size

    def next(self, shape: tuple[int, ...] | None, dtype: type = np.float64, ndim: int = 1) -> np.ndarray:
        """The next one; of any size with `ndim` axes if `shape` is None."""
        try:
            found = read_array(self.file, self.size - self.file.tell())
        except ValueError as error:
            raise ValueError(f"{NAME}: {error}") from None
        if found.dtype != dtype or (found.ndim != ndim if shape is None else found.shape != shape):
            raise ValueError(
                f"{NAME} has an array of shape {str(found.shape)[:60]} and {found.dtype} in place of "
                f"{'any' if shape is None else str(shape)[:60]} and {dtype.__name__}"
            )
        if dtype == np.uint8 and found.size > MOST_TEXT:
            raise ValueError(f"{NAME} has facts of {found.size} bytes")
        # Read from bytes, an array cannot be written to.
        return found.copy()

    def end(self) -> None:
        if self.file.tell() < self.size:
            raise ValueError(f"{NAME} has more arrays than networks need")


def _check_facts(facts: dict[str, Any], networks: list[dict[str, Any]]) -> None:
    counts = [facts["rounds"], 0 if facts["first_rows"] is None else facts["first_rows"]]
    counts += [number for each in networks for number in (each["updates"], each["still"])]
    if not all(0 <= count < 2**63 for count in counts) or facts["rounds"] > MOST_ROUNDS:
        raise ValueError(f"{NAME} has counts that no training has")
    if not 1 <= len(networks) <= MOST_NETWORKS:
        raise ValueError(f"{NAME} has {len(networks)} networks; a model has 1 to {MOST_NETWORKS}")
    if any(len(each["widths"]) > MOST_LAYERS or min(each["widths"], default=1) < 1 for each in networks):
        raise ValueError(f"{NAME} has a network of widths that cannot be meant")
    known = facts["stopped"] in STOPPED and facts["sharpness"] in SHARPNESS and facts["doubt"] in DOUBT
    if not (known and 0 < facts["tol"] < 1 and 0 <= facts["seconds"] < LARGE):
        raise ValueError(f"{NAME} has facts that no training has")


def _read_network(shape: Shape, found: dict[str, Any], row: np.ndarray, arrays: _Arrays) -> tuple[Member, Evidence]:
    theta = arrays.next((shape.size,))
    groups = int(shape.groups.max()) + 1
    alpha, determined = arrays.next((groups,)), arrays.next((groups,))
    square = arrays.next((shape.size, shape.size)) if found["is_asked"] else None
    beta, damping, misfit, log_evidence, gain, log = (float(each) for each in row)
    _check_finite(theta, alpha, determined, np.array([log]))
    if not (0 < beta < LARGE and 0 < damping < LARGE and (alpha > 0).all()):
        raise ValueError(f"{NAME} has precisions that are not positive")
    local = None
    if square is not None:
        _check_finite(square)
        # No entry of DᵀWD exceeds those of the diagonal beside it, else it is no such matrix.
        sizes = np.sqrt(np.maximum(np.diag(square), 0))
        if not (np.abs(square) <= (1 + 1e-9) * np.outer(sizes, sizes) + 1e-300).all():
            raise ValueError(f"{NAME} has a matrix that is not one of squares")
        local = Local(square, np.zeros(shape.size), misfit)
    member = Member(
        shape,
        theta,
        alpha,
        beta,
        damping=damping,
        local=local,
        misfit=misfit,
        log_evidence=log_evidence,
        gain=gain,
        still=found["still"],
        is_behind=found["is_behind"],
        updates=found["updates"],
    )
    return member, Evidence(alpha, beta, determined, log, True)


def _scaling(names: Sequence[str], found: np.ndarray) -> Scaling:
    if not (found[1] > 0).all():
        raise ValueError(f"{NAME} has a scale that is not positive")
    return Scaling(tuple(names), found[0], found[1])


def _outputs_for(classes: int | None) -> int:
    return 1 if classes is None or classes == 2 else classes


def _check_finite(*arrays: np.ndarray) -> None:
    if not all((np.abs(array) < LARGE).all() for array in arrays if array.size):
        raise ValueError(f"{NAME} holds numbers that are not finite, or too large")
