"""What `jaxgeo train` was asked for: on the command line, in a file, or by default."""

import dataclasses
from pathlib import Path
from typing import Any

from jaxgeo._names import did_you_mean
from jaxgeo.app.data import Task, digits, read_table, table_task
from jaxgeo.app.data.tabular import parse_kind
from jaxgeo.app.runs import Config
from jaxgeo.app.runs.config import read_fields
from jaxgeo.equations import choose_hidden
from jaxgeo.fitting.methods import flow_named, optimizer_named

PROBLEMS = ("digits",)
PRECISIONS = ("float64", "float32")
# Of the settings that a run always has; the others have theirs in `Config`.
DEFAULTS: dict[str, Any] = {
    **{each.name: each.default for each in dataclasses.fields(Config) if each.default is not dataclasses.MISSING},
    "samples": None,
    "hidden": (),
    "rtol": None,
    "max_steps": 1000,
    "precision": "float64",
    "seed": 0,
}


def resolve(given: dict[str, Any], file: Path | None) -> tuple[Config, Task]:
    """The settings of a run and what it learns: `given`, then what the TOML `file` says, then defaults.

    **Raises:** `ValueError` on an option that cannot be meant, and on data that cannot be learned from.
    """
    from_file = {} if file is None else _read(file)
    for one, other in (("flow", "optimizer"), ("optimizer", "flow")):
        # What the command line chooses puts the choice of the file aside.
        if given.get(one):
            from_file.pop(other, None)
    if given.get("flow"):
        from_file = {k: v for k, v in from_file.items() if k not in ("learning_rate", "batch_size", "record_every")}
    if given.get("optimizer"):
        from_file = {k: v for k, v in from_file.items() if k not in ("rtol", "learning_rate")}
    asked = {**DEFAULTS, **from_file, **given}
    if not asked.get("problem"):
        raise ValueError("PROBLEM is missing: pass digits or the path of a table, or --config FILE that names it.")
    if asked.get("flow") and asked["optimizer"]:
        raise ValueError("pass either --flow or --optimizer, not both.")
    asked["flow"] = "" if asked["optimizer"] else asked.get("flow") or "adapted"
    _check(asked)
    task = read_task(asked)
    double, ready = asked["precision"] == "float64", asked["problem"] in PROBLEMS
    if asked["flow"] and asked["rtol"] is None:
        asked["rtol"] = 1e-5 if double else 1e-3
    sizes = asked["hidden"] or choose_hidden(task.train_inputs.shape[1], task.train_targets.shape[1], task.num_rows)
    settled = {
        "samples": len(task.train_inputs),
        "hidden": sizes,
        "tol": asked.get("tol") or (1e-6 if ready else 1e-4),
        "task": task.kind.value,
    }
    return Config(**{**asked, **settled}), task


def read_task(settings: dict[str, Any]) -> Task:
    """The data of these settings, split into training and held-out rows."""
    problem = settings["problem"]
    if problem in PROBLEMS:
        for name in ("target", "task", "drop"):
            if settings[name] and not (name == "task" and settings[name] == "classification"):
                raise ValueError(f"--{name} is for tables; leave it out with {problem}.")
        return digits(100 if settings["samples"] is None else settings["samples"], settings["seed"])
    path = Path(problem)
    if not path.exists() and not path.suffix and path.name == problem:
        hint = did_you_mean(problem, PROBLEMS)
        raise ValueError(f"no problem {problem!r}{hint} There is digits, or pass the path of a table.")
    table = read_table(path)
    if not settings["target"]:
        raise ValueError(f"say which column to predict with --target; {path.name} has: {', '.join(table.names[:12])}.")
    return table_task(
        table,
        settings["target"],
        kind=parse_kind(settings["task"]) if settings["task"] else None,
        drop=settings["drop"],
        num_samples=settings["samples"],
        test_fraction=settings["test_fraction"],
        seed=settings["seed"],
    )


def parse_hidden(text: str) -> tuple[int, ...]:
    """Widths from text such as 64-64; `ValueError` if they are none."""
    parts = text.replace(",", "-").split("-")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"--hidden takes positive widths such as 64-64; got {text!r}.")
    return tuple(int(part) for part in parts)


def _read(file: Path) -> dict[str, Any]:
    try:
        return read_fields(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror}); pass the path of a TOML file.") from None
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def _check(asked: dict[str, Any]) -> None:
    """`ValueError` on an option that cannot be meant."""
    if asked["optimizer"]:
        optimizer_named(asked["optimizer"], asked["learning_rate"])
        if asked["rtol"] is not None:
            raise ValueError("--rtol is the tolerance of the steps of a flow; leave it out with --optimizer.")
    else:
        flow_named(asked["flow"])
        for name in ("learning_rate", "batch_size", "record_every"):
            if asked[name] is not None:
                raise ValueError(f"--{name.replace('_', '-')} is for optimizers; choose one with --optimizer.")
    if asked["precision"] not in PRECISIONS:
        hint = did_you_mean(asked["precision"], PRECISIONS)
        raise ValueError(f"no precision {asked['precision']!r}{hint} There are: {', '.join(PRECISIONS)}.")
    for name in ("tol", "rtol", "test_fraction"):
        value = asked.get(name)
        if value is not None and not 0 < value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must lie between 0 and 1; got {value}.")
    for name in ("max_steps", "batch_size", "record_every", "patience"):
        if asked[name] is not None and asked[name] < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be positive; got {asked[name]}.")
    for name in ("seed", "keep_every"):
        if not asked[name] >= 0:
            raise ValueError(f"--{name.replace('_', '-')} must not be negative; got {asked[name]}.")
    if asked["hidden"] and min(asked["hidden"]) < 1:
        raise ValueError(f"--hidden takes positive widths such as 64-64; got {asked['hidden']}.")
