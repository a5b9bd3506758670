"""Everything that is known before a run begins: network, problem, rank of D and stopping time."""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxgeo import theory
from jaxgeo.app.data import Task
from jaxgeo.app.runs.config import Config
from jaxgeo.equations import Network
from jaxgeo.equations.network import count_params
from jaxgeo.fitting.methods import Method, flow_named, optimizer_named, smooth_to_exact
from jaxgeo.flows import AbstractFlow
from jaxgeo.geometry import RankReport, rank_report
from jaxgeo.geometry.rank import MOST_ENTRIES as DENSE
from jaxgeo.linalg.memory import total_memory
from jaxgeo.outputs import Params
from jaxgeo.problem import Problem, supervised

# Compute singular values of D up to this number of entries: for a flow, which depends on its rank, and otherwise.
MOST_ENTRIES, MOST_ENTRIES_TO_KNOW = 30_000_000, 1_000_000
# Outputs beyond which DDᵀ is not decomposed in place of D.
MOST_ROWS = 4096
# The part of the rows by which early stopping decides.
VALIDATION = 0.2
# From this cond(DDᵀ) a Cholesky factor may fail along the way.
SLOW_CONDITION = 1e-3 / float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Setup:
    """Everything that is known before a run begins.

    `stopping_time` is s_ε of (2.18), None where the cost does not follow the law; `report` is None where D is
    too large for its spectrum to be computed. `validation` is what patience judges by.
    """

    task: Task
    config: Config
    network: Network
    problem: Problem
    params: Params
    method: Method
    validation: tuple[np.ndarray, np.ndarray] | None
    num_rows: int
    num_params: int
    cost0: float
    stopping_time: float | None
    report: RankReport | None

    @property
    def has_slow_steps(self) -> bool:
        """Whether a flow has to go through a D that is too ill-conditioned for a Cholesky factor."""
        return isinstance(self.method, AbstractFlow) and bool(self.report and self.report.condition > SLOW_CONDITION)


def prepare(task: Task, config: Config) -> Setup:
    """Build network and problem, and find the rank of D and the stopping time.

    Paper: (2.1), (2.18)

    **Raises:** `ValueError` if the flow or optimizer has no such name, or takes no such option; if rank(D) is too small
    for the flow, or K does not suit it.
    """
    method = optimizer_named(config.optimizer, config.learning_rate) if config.optimizer else flow_named(config.flow)
    if config.optimizer == "levenberg-marquardt" and config.patience is not None:
        method = smooth_to_exact()
    flow = method if isinstance(method, AbstractFlow) else None
    validation = None
    if config.patience is not None:
        task, validation = _split(task)
    dtype = jnp.float64 if config.precision == "float64" else jnp.float32
    _check_finite(task, np.dtype(config.precision))
    sizes = (task.train_inputs.shape[1], *config.hidden, task.train_targets.shape[1])
    needed = 4 * count_params(sizes) * np.dtype(config.precision).itemsize
    if needed > total_memory():
        raise ValueError(
            f"a network {'-'.join(map(str, sizes))} has {count_params(sizes)} parameters; to train it takes "
            f"{needed / 2**30:.3g} GiB at least, and there are {total_memory() / 2**30:.3g}. Choose a smaller --hidden."
        )
    network = Network(sizes, dtype, key=jax.random.key(config.seed))
    problem, params = supervised(network, task.train_inputs, jnp.asarray(task.train_targets, dtype))
    rows, size = problem.num_rows(params), problem.num_params(params)
    required = None if flow is None else flow.required_rank(rows, size)
    cost0 = float(problem.cost(params))
    if flow is not None and config.tol * cost0 < np.finfo(config.precision).tiny:
        raise ValueError(f"--tol {config.tol:g} of C(0) = {cost0:.3g} is 0 in {config.precision}; choose a larger one.")
    most = MOST_ENTRIES_TO_KNOW if flow is None else MOST_ENTRIES
    report = rank_report(problem, params) if has_spectrum(rows, size, most) else None
    if report is not None and required is not None and report.rank < required:
        doubled = len(task.train_inputs) - len(np.unique(task.train_inputs, axis=0))
        cause = f"; {doubled} of the training rows repeat the inputs of another" if doubled else ""
        raise ValueError(
            f"rank(D) is {report.rank}, but this flow needs {required} (QN={rows}, K={size}){cause}. "
            "Use `RankAdaptiveFlow`, remove repeated rows, or train on fewer samples."
        )
    follows = flow is not None and flow.follows_law(rows, size)
    stop = float(theory.stopping_time(cost0, config.tol * cost0, problem.num_samples)) if follows else None
    setup = Setup(task, config, network, problem, params, method, validation, rows, size, cost0, stop, report)
    if report is None or not setup.has_slow_steps:
        return setup
    note = (
        f"cond(DDᵀ) = {report.condition:.1e} is close to what float64 resolves: steps that go through the singular "
        "values of D instead are many times slower. Fewer --samples help, or --optimizer levenberg-marquardt."
    )
    return dataclasses.replace(setup, task=dataclasses.replace(task, notes=(*task.notes, note)))


def has_spectrum(rows: int, size: int, most: int = MOST_ENTRIES) -> bool:
    """Whether the spectrum of a D of `rows` × `size` entries, `most` in all, is worth its time and memory."""
    return rows * size <= min(most, DENSE if rows > MOST_ROWS else most)


def _check_finite(task: Task, dtype: np.dtype) -> None:
    """`ValueError` that names a column whose standardised numbers this precision does not hold."""
    ends = (
        (task.inputs, (task.train_inputs, task.test_inputs)),
        (task.outputs, (task.train_targets, task.test_targets)),
    )
    for scaling, parts in ends:
        for z in parts:
            with np.errstate(over="ignore"):
                bad = (
                    ~np.isfinite(z.astype(dtype)).all(axis=0) | ~np.isfinite(scaling.mean) | ~np.isfinite(scaling.scale)
                )
            if bad.any():
                raise ValueError(
                    f"the numbers of column {scaling.names[int(np.argmax(bad))]!r} are too large or too close to each "
                    f"other for mean 0 and deviation 1 in {dtype}; give them in another unit, or leave the column out."
                )


def _split(task: Task) -> tuple[Task, tuple[np.ndarray, np.ndarray]]:
    """Some of the training rows to decide by when to stop, so that the score of the held-out rows stays an honest one.

    The rows are in random order.
    """
    total = len(task.train_inputs)
    count = round(VALIDATION * total)
    if not 1 <= count <= total - 2:
        raise ValueError(
            f"--patience decides by a fifth of the training rows, and there are only {total}; leave it out, or raise "
            "--samples."
        )
    note = f"{count} of the training rows were used to decide when to stop."
    rest = dataclasses.replace(
        task,
        train_inputs=task.train_inputs[count:],
        train_targets=task.train_targets[count:],
        train_values=None if task.train_values is None else task.train_values[count:],
        notes=(*task.notes, note),
    )
    return rest, (task.train_inputs[:count], task.train_targets[:count])
