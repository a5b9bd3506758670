"""A user's own table as a task: one column to predict from all the others."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from jaxgeo._checks import check_count, check_number
from jaxgeo._names import did_you_mean
from jaxgeo.app.data.table import Table, formula_message, is_formula, is_missing, to_number
from jaxgeo.app.data.task import Kind, Task
from jaxgeo.fitting.scaling import Scaling

# Integers with more values than this are taken for quantities, not for classes.
MOST_INTEGER_CLASSES = 20
# The dense solvers take seconds a step beyond this many outputs.
MOST_ROWS = 1000


def table_task(
    table: Table,
    target: str,
    *,
    kind: Kind | None = None,
    drop: Sequence[str] = (),
    num_samples: int | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Task:
    """Predict column `target` of `table` from its other columns, all standardised by the training rows.

    **Arguments:**

    - `table`, `target`: the table, and the name of the column.
    - `kind`: by default classification if the target is text or has at most 20 different integers, and regression
        otherwise.
    - `drop`: columns to leave out.
    - `num_samples`: N, rows to train on; all that are not held out by default, but no more than give 1000 outputs.
    - `test_fraction`: the part of the rows that is held out, drawn by `seed`, a seed of NumPy.

    **Raises:** `ValueError`, in one line that says what to do, on a column that is not there or not numeric, a
    target that cannot be learned, or too few rows.
    """
    if num_samples is not None:
        check_count("num_samples", num_samples)
    check_number("test_fraction", test_fraction, above=0, most=1)
    file = table.path.name
    labels = table.column(target)
    for name in drop:
        table.column(name)
    if target in drop:
        raise ValueError(f"--drop names the target {target!r}; leave one of the two out.")
    features = tuple(name for name in table.names if name != target and name not in drop)
    if not features:
        raise ValueError(
            f"{file} has no columns besides the target {target!r}; at least one is needed to predict from."
        )
    missing = [line for cell, line in zip(labels, table.lines, strict=True) if is_missing(cell)]
    if missing:
        raise ValueError(
            f"the target {target!r} of {file} is missing in {len(missing)} rows, the first on line {missing[0]}; "
            "fill in or remove them."
        )
    if formulas := [i for i, cell in enumerate(labels) if is_formula(cell)]:
        raise ValueError(formula_message(table, target, labels, formulas))
    values = table.matrix(features, droppable=True)
    notes = []
    if kind is None:
        kind, why = _guess_kind(labels)
        notes.append(f"Taken as {kind.value}, since the target {why}.")
    targets, outputs = _classes(file, target, labels) if kind is Kind.CLASSIFICATION else (table.numbers(target), None)
    columns = 1 if outputs is None else len(outputs.names)

    total = len(labels)
    num_test = max(1, round(test_fraction * total))
    available = total - num_test
    if num_samples is None:
        num_samples = min(available, max(2, MOST_ROWS // columns))
        if num_samples < available:
            notes.append(
                f"Training on {num_samples} of {available} rows, which give {num_samples * columns} outputs; more "
                "are slow, and --samples asks for them. All others are held out."
            )
    if not 2 <= num_samples <= total - 1:
        raise ValueError(
            f"cannot train on {num_samples} of the {total} rows of {file}; at least 2 are needed, and 1 held out. "
            "Choose another --samples, or add rows."
        )
    order = np.random.default_rng(seed).permutation(total)
    train, test = order[:num_samples], order[num_samples:]
    inputs = Scaling.fit(features, values[train])
    if inputs.constant:
        notes.append(f"Constant among the training rows, so of no use: {', '.join(inputs.constant)}.")
    if outputs is None:
        outputs = Scaling.fit((target,), targets[train, None])
        if outputs.constant:
            raise ValueError(
                f"the target {target!r} has one and the same value in all training rows: nothing to learn."
            )
        targets = outputs.apply(targets[:, None])
    return Task(
        name=table.path.stem,
        source=f"{file}: {total} rows, target {target!r}, {len(features)} features",
        kind=kind,
        train_inputs=inputs.apply(values[train]),
        train_targets=targets[train],
        test_inputs=inputs.apply(values[test]),
        test_targets=targets[test],
        inputs=inputs,
        outputs=outputs,
        notes=tuple(notes),
    )


def parse_kind(name: str) -> Kind:
    """The kind of this name; `ValueError` with the nearest one if there is none."""
    names = [kind.value for kind in Kind]
    if name not in names:
        raise ValueError(f"no task {name!r}{did_you_mean(name, names)} There are: {', '.join(names)}.")
    return Kind(name)


def _guess_kind(labels: list[str]) -> tuple[Kind, str]:
    numbers = [to_number(label) for label in labels]
    if np.isnan(numbers).any():
        return Kind.CLASSIFICATION, "holds text"
    if not all(label.strip().lstrip("+-").isdigit() for label in labels):
        return Kind.REGRESSION, "holds decimal numbers; --task classification takes them as classes"
    count = len(set(numbers))
    if count <= MOST_INTEGER_CLASSES:
        return Kind.CLASSIFICATION, f"holds {count} different integers; --task regression takes them as quantities"
    return Kind.REGRESSION, f"holds {count} different integers, too many for classes unless --task says so"


def _classes(file: str, target: str, labels: list[str]) -> tuple[NDArray[np.float64], Scaling]:
    """One-hot targets, and the classes by name: numbers in numeric order, text in alphabetic order."""
    stripped = [label.strip() for label in labels]
    numeric = not any(np.isnan(to_number(label)) for label in stripped)
    names: tuple[str, ...] = tuple(
        sorted(set(stripped), key=(lambda name: (to_number(name), name)) if numeric else str)
    )
    if len(names) < 2:
        raise ValueError(f"the target {target!r} of {file} has one class, {stripped[0]!r}; at least two are needed.")
    if len(names) > max(2, len(labels) // 2):
        raise ValueError(
            f"the target {target!r} of {file} has {len(names)} classes in {len(labels)} rows, too few rows of each; "
            "for a quantity use --task regression, else choose another --target."
        )
    index = {name: i for i, name in enumerate(names)}
    return np.eye(len(names))[[index[label] for label in stripped]], Scaling.identity(names)
