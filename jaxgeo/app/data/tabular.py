"""Turn a user's table into a task: predict one column from the others."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from jaxgeo._checks import check_count, check_number
from jaxgeo._names import did_you_mean
from jaxgeo.app.data.cells import Meaning, Reading, find_readings
from jaxgeo.app.data.encoder import Encoder
from jaxgeo.app.data.table import MOST_NAME, Table, shorten
from jaxgeo.app.data.task import Kind, Task
from jaxgeo.fitting.scaling import Scaling

# Integers with more different values than this are quantities, not classes.
MOST_INTEGER_CLASSES = 20
# Of what is told.
MOST_NOTES = 40
# A flow takes seconds a step beyond this many outputs.
MOST_OUTPUTS = 1000


def table_task(
    table: Table,
    target: str,
    *,
    kind: Kind | None = None,
    drop: Sequence[str] = (),
    weights: str = "",
    num_samples: int | None = None,
    most_outputs: int | None = MOST_OUTPUTS,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Task:
    """Predict column `target` of `table` from its other columns, however their cells are written.

    Numbers and dates are standardised by the training rows, text becomes an input for each of its values, and a column
    with missing cells gets an input that says so. `notes` tells what was done.

    **Arguments:**

    - `table`, `target`: the table, and the name of the column. Rows without a target are left out.
    - `kind`: by default classification if the target is text, truth values or at most 20 different integers, and
        regression otherwise.
    - `drop`: columns to leave out.
    - `weights`: a column of how often each row counts, in training and in scores. Rows of weight 0 are left out.
    - `num_samples`: N, rows to train on; by default all that are not held out, but no more than give `most_outputs`.
    - `test_fraction`: the part of the rows that is held out, drawn by `seed`, a seed of NumPy.

    **Raises:** `ValueError`, in one line that says what to do, on a column that is not there, a cell that cannot be
    read, a target that cannot be learned, or too few rows.
    """
    if num_samples is not None:
        check_count("num_samples", num_samples)
    check_number("test_fraction", test_fraction, above=0, most=1)
    file = table.name
    table.column(target)
    for name in (*drop, *((weights,) if weights else ())):
        table.column(name)
    if target in drop:
        raise ValueError(f"--drop names the target {target!r}; leave one of the two out.")
    if weights == target:
        raise ValueError(f"--weights names the target {target!r}; choose another column.")
    features = tuple(name for name in table.names if name not in (target, weights) and name not in drop)
    if not features:
        raise ValueError(
            f"{file} has no columns besides the target {target!r}; at least one is needed to predict from."
        )
    readings, notes = find_readings(table, [target])
    table, labels, values = _with_target(table, target, readings[target], notes)
    counts = None
    if weights:
        counts = _read_weights(table, weights)
        kept = np.flatnonzero(counts > 0)
        if len(kept) < len(counts):
            notes.append(f"Left out {len(counts) - len(kept)} rows of weight 0.")
        table, labels, counts = table.rows(kept), [labels[row] for row in kept], counts[kept]
        values = None if values is None else values[kept]
    if kind is None:
        kind, why = _guess_kind(readings[target], values, labels)
        notes.append(f"Taken as {kind.value}, since the target {why}.")
    if kind is Kind.REGRESSION and values is None:
        cell = next(iter(labels))
        raise ValueError(
            f"the target {target!r} of {file} holds text ({shorten(cell)!r}), not quantities; mend it or leave --task "
            "out."
        )
    classes = _classes(file, target, labels, numeric=values is not None) if kind is Kind.CLASSIFICATION else None
    columns = 1 if classes is None else len(classes[1].names)

    total = len(labels)
    num_test = max(1, round(test_fraction * total))
    available = total - num_test
    if num_samples is None:
        num_samples = available if most_outputs is None else min(available, max(2, most_outputs // columns))
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
    encoder, cells, told = Encoder.fit(table, features, train)
    inputs = encoder.encode(cells)
    scaling = encoder.scaling(inputs[train])
    if classes is None:
        assert values is not None
        outputs = Scaling.fit((target,), values[train, None], None if counts is None else counts[train])
        if outputs.constant:
            raise ValueError(
                f"the target {target!r} has one and the same value in all training rows: nothing to learn."
            )
        targets = outputs.apply(values[:, None])
    else:
        targets, outputs = classes
    if counts is not None:
        notes.append(f"By {weights!r} the {len(train)} training rows count as {counts[train].sum():.6g}.")
    return Task(
        name=file.partition(".")[0],
        source=f"{file}: {total} rows, target {target!r}, {len(features)} features",
        kind=kind,
        train_inputs=scaling.apply(inputs[train]),
        train_targets=targets[train],
        test_inputs=scaling.apply(inputs[test]),
        test_targets=targets[test],
        test_rows=tuple(int(table.lines[row]) for row in test),
        inputs=scaling,
        outputs=outputs,
        encoder=encoder,
        notes=_some_of([*notes, *told]),
        train_values=None if classes is not None or values is None else values[train],
        train_weights=None if counts is None else counts[train],
        test_weights=None if counts is None else counts[test],
    )


def _some_of(notes: list[str]) -> tuple[str, ...]:
    """The first notes, since each column may have one, and how many more there are."""
    more = [f"Of other columns there is as much to tell: {len(notes) - MOST_NOTES} notes are left out."]
    return (*notes[:MOST_NOTES], *(more if len(notes) > MOST_NOTES else []))


def parse_kind(name: str) -> Kind:
    """The kind with this name; `ValueError` suggests the nearest one if there is none."""
    names = [kind.value for kind in Kind]
    if name not in names:
        raise ValueError(f"no task {name!r}{did_you_mean(name, names)} There are: {', '.join(names)}.")
    return Kind(name)


def _with_target(
    table: Table, target: str, reading: Reading, notes: list[str]
) -> tuple[Table, list[str], NDArray[np.float64] | None]:
    """The rows that have a target, the targets as text, and as numbers if they are numbers."""
    labels = Reading(Meaning.TEXT).read(table, target)
    values = None if reading.meaning in (Meaning.TEXT, Meaning.TRUTH) else reading.read(table, target)
    present = np.array([label is not None for label in labels])
    if values is not None:
        present &= ~np.isnan(values)
    if not present.all():
        first = table.lines[int(np.argmin(present))]
        notes.append(f"Left out {int((~present).sum())} rows without a target, the first on line {first}.")
    if not present.any():
        raise ValueError(f"the target {target!r} of {table.name} is missing in all rows; choose another --target.")
    kept = np.flatnonzero(present)
    return table.rows(kept), list(labels[kept]), None if values is None else values[kept]


def _read_weights(table: Table, name: str) -> NDArray[np.float64]:
    """How often each row counts; `ValueError` on what cannot be a count."""
    reading = find_readings(table, [name])[0][name]
    if reading.meaning is not Meaning.NUMBER:
        raise ValueError(
            f"the weights {name!r} of {table.name} are not numbers, such as {table.column(name).iloc[0]!r}; each says "
            "how often its row counts."
        )
    found = dataclasses.replace(reading, strays=False).read(table, name)
    bad = ~(found >= 0)
    if bad.any():
        row = int(np.argmax(bad))
        what = "are missing" if np.isnan(found[row]) else f"are {found[row]:g}"
        raise ValueError(
            f"the weights {name!r} of {table.name} {what} on line {table.lines[row]}; each must be a number that is "
            "not negative."
        )
    if not 0 < found.sum() < np.inf:
        raise ValueError(f"the weights {name!r} of {table.name} sum to {found.sum():g}; at least one row must count.")
    return found


def _guess_kind(reading: Reading, values: NDArray[np.float64] | None, labels: list[str]) -> tuple[Kind, str]:
    if values is None:
        return Kind.CLASSIFICATION, f"holds {'text' if reading.meaning is Meaning.TEXT else 'truth values'}"
    if reading.meaning is Meaning.DATE:
        return Kind.REGRESSION, "holds dates, which are predicted in days since 1970"
    if not all(label.lstrip("+-").isdigit() for label in labels):
        return Kind.REGRESSION, "holds decimal numbers; --task classification takes them as classes"
    count = len(set(values))
    if count <= MOST_INTEGER_CLASSES:
        return Kind.CLASSIFICATION, f"holds {count} different integers; --task regression takes them as quantities"
    return Kind.REGRESSION, f"holds {count} different integers, too many for classes unless --task says so"


def _classes(file: str, target: str, labels: list[str], numeric: bool) -> tuple[NDArray[np.float64], Scaling]:
    """One-hot targets, and the classes by name: numbers in numeric order, text in alphabetic order."""
    try:
        names = tuple(sorted(set(labels), key=(lambda name: (float(name), name)) if numeric else str))
    except ValueError:
        names = tuple(sorted(set(labels)))
    if len(longest := max(names, key=len)) > MOST_NAME:
        raise ValueError(
            f"the target {target!r} of {file} has a class of {len(longest)} characters, and names of classes may have "
            f"{MOST_NAME}; choose another --target."
        )
    if len(names) < 2:
        raise ValueError(
            f"the target {target!r} of {file} has one class, {shorten(labels[0])!r}; at least two are needed."
        )
    if len(names) > max(2, len(labels) // 2):
        raise ValueError(
            f"the target {target!r} of {file} has {len(names)} classes in {len(labels)} rows, too few rows of each; "
            "for a quantity use --task regression, else choose another --target."
        )
    index = {name: i for i, name in enumerate(names)}
    return np.eye(len(names))[[index[label] for label in labels]], Scaling.identity(names)
