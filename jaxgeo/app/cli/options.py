"""The settings of `jaxgeo train`: from the command line, a file, or defaults."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from jaxgeo._names import did_you_mean
from jaxgeo.app.data import Task, digits, read_table, table_task
from jaxgeo.app.data.table import list_some, shorten
from jaxgeo.app.data.tabular import MOST_OUTPUTS, parse_kind
from jaxgeo.app.runs import Config
from jaxgeo.app.runs.config import DEFAULTS as OPTIONAL, EVIDENCE, KINDS, check_settings
from jaxgeo.app.runs.fields import MOST_BYTES, read_toml
from jaxgeo.equations import choose_hidden
from jaxgeo.equations.network import count_params
from jaxgeo.fitting.files import read_bytes
from jaxgeo.fitting.methods import flow_named
from jaxgeo.integrate.line import keeps_line
from jaxgeo.tabular.ensemble import ROUNDS, TOL

PROBLEMS = ("digits",)
# What only the training of a single network has.
OF_ONE_NETWORK = ("hidden", "tol", "rtol", "patience", "learning_rate", "batch_size", "record_every")
# Defaults for one network on a table that is to predict well: patience on the validation rows, and the hidden widths.
PATIENCE, HIDDEN = 10, (32, 32)
# Steps or updates of one network.
MAX_STEPS = 1000
# With fewer training rows, none are used for validation.
LEAST_ROWS = 10
# Defaults of settings that a run always has; `Config` has the defaults of the others.
DEFAULTS: dict[str, Any] = {
    **OPTIONAL,
    "samples": None,
    "hidden": (),
    "max_steps": None,
    "precision": "float64",
    "seed": 0,
}


def resolve(given: dict[str, Any], file: Path | None) -> tuple[Config, Task]:
    """The settings of a run and its task: `given` settings first, then those of the TOML `file`, then defaults.

    **Raises:** `ValueError` if an option makes no sense, or if the data cannot be learned from.
    """
    from_file = {} if file is None else _read(file)
    _forget_other_method(given, from_file)
    for one, other in (("flow", "optimizer"), ("optimizer", "flow")):
        # A choice on the command line overrides the choice of the file.
        if given.get(one):
            from_file.pop(other, None)
    if given.get("flow"):
        from_file = {k: v for k, v in from_file.items() if k not in ("learning_rate", "batch_size", "record_every")}
    if given.get("optimizer"):
        from_file = {k: v for k, v in from_file.items() if k not in ("rtol", "learning_rate")}
    asked = {**DEFAULTS, **from_file, **given}
    if not asked.get("problem"):
        raise ValueError("PROBLEM is missing: pass digits or the path of a table, or a --config FILE that names it.")
    if asked.get("flow") and asked["optimizer"]:
        raise ValueError("pass either --flow or --optimizer, not both.")
    double, ready = asked["precision"] == "float64", asked["problem"] in PROBLEMS
    unasked = False
    if ready and asked["optimizer"] == EVIDENCE:
        raise ValueError(f"--optimizer {EVIDENCE} only applies to tables; leave it out with {asked['problem']}.")
    if not ready and not asked.get("flow") and not asked["optimizer"]:
        # Aim for a low error on new rows.
        if double and not asked["hidden"] and all(asked.get(name) is None for name in OF_ONE_NETWORK[1:]):
            asked["optimizer"] = EVIDENCE
        else:
            asked["optimizer"], unasked = "levenberg-marquardt", asked["patience"] is None
            asked["patience"] = PATIENCE if unasked else asked["patience"]
    weighed = asked["optimizer"] == EVIDENCE
    asked["flow"] = "" if asked["optimizer"] else asked.get("flow") or "adapted"
    check_settings(asked)
    if "problem" in from_file and not given.get("problem"):
        refuse_endless(asked["problem"])
    task = read_task(asked)
    if unasked and len(task.train_inputs) < LEAST_ROWS:
        asked["patience"] = None
    stops_early = asked["optimizer"] and asked["patience"] is not None
    if weighed:
        sizes, tol, max_steps = (), TOL, ROUNDS
    else:
        sizes, max_steps = asked["hidden"] or (HIDDEN if stops_early else choose_hidden(*_sizes_of(task))), MAX_STEPS
        tol = 1e-8 if stops_early else 1e-6 if ready else 1e-4
    if asked["flow"] and asked["rtol"] is None:
        asked["rtol"] = step_tolerance(asked["flow"], task, sizes, asked["precision"])
    settled = {
        # Use an absolute path, so that the run can be resumed from any folder.
        "problem": asked["problem"] if ready else os.path.abspath(asked["problem"]),
        "samples": len(task.train_inputs),
        "hidden": sizes,
        "tol": asked.get("tol") or tol,
        "max_steps": asked["max_steps"] or max_steps,
        "task": task.kind.value,
    }
    # Refuse settings that cannot be written and read back now, not after training.
    return Config.from_toml(Config(**{**asked, **settled}).to_toml()), task


def _forget_other_method(given: dict[str, Any], from_file: dict[str, Any]) -> None:
    """Drop from the settings of a file what belongs to a method that the command line has replaced."""
    of_file, chosen = from_file.get("optimizer"), given.get("optimizer")
    asks_for_one = given.get("flow") or any(name in given for name in OF_ONE_NETWORK if name != "tol")
    if of_file == EVIDENCE and (chosen or EVIDENCE) == EVIDENCE and not asks_for_one:
        return
    if EVIDENCE in (of_file, chosen):
        for name in ("flow", "optimizer", "max_steps", *OF_ONE_NETWORK):
            from_file.pop(name, None)


def read_task(settings: dict[str, Any]) -> Task:
    """The data of these settings, split into training and held-out rows."""
    problem = settings["problem"]
    if problem in PROBLEMS:
        for name in ("target", "task", "drop", "weights"):
            if settings[name] and not (name == "task" and settings[name] == "classification"):
                raise ValueError(f"--{name} only applies to tables; leave it out with {problem}.")
        return digits(100 if settings["samples"] is None else settings["samples"], settings["seed"])
    path = Path(problem)
    # `prepare` names the columns that overflow or underflow.
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return _read_table_task(path, settings)


def refuse_endless(problem: str) -> None:
    """Raise `ValueError` if the table that a file of settings names is a device or a pipe, which may never end.

    A system file that claims to be empty may not end either. Standard input is the user's choice, unless it is the
    terminal.
    """
    path = Path(problem)
    piped = problem == "/dev/stdin" and not sys.stdin.isatty()
    if problem in PROBLEMS or not path.exists() or piped:
        return
    if not path.is_file() or path.stat().st_size == 0:
        raise ValueError(
            f"the settings name {shorten(problem, 200)}, which is empty or not a plain file; train on a table."
        )


def _read_table_task(path: Path, settings: dict[str, Any]) -> Task:
    problem = settings["problem"]
    if not path.exists() and not path.suffix and path.name == problem:
        hint = did_you_mean(problem, PROBLEMS)
        raise ValueError(f"no problem {problem!r}{hint} Pass digits or the path of a table.")
    table = read_table(path)
    if not settings["target"]:
        raise ValueError(f"say which column to predict with --target; {path.name} has: {list_some(table.names)}.")
    stops_early = settings["optimizer"] and settings["patience"] is not None
    return table_task(
        table,
        settings["target"],
        kind=parse_kind(settings["task"]) if settings["task"] else None,
        drop=settings["drop"],
        weights=settings["weights"],
        num_samples=settings["samples"],
        # These have fewer parameters than rows, so they can use all rows.
        most_outputs=None if settings["optimizer"] == EVIDENCE or stops_early else MOST_OUTPUTS,
        test_fraction=settings["test_fraction"],
        seed=settings["seed"],
    )


STEP_TOLERANCE = (
    "Tolerance of an ODE step; by default 1e-3 in float32 and along the adapted flow with K ≥ QN, whose steps are "
    "corrected, otherwise 1e-5."
)


def step_tolerance(flow: str, task: Task, hidden: tuple[int, ...], precision: str) -> float:
    """The default of --rtol: larger if each step is corrected, so that the outputs keep to their law all the same."""
    inputs, outputs, rows = _sizes_of(task)
    corrected = keeps_line(flow_named(flow), rows, count_params((inputs, *hidden, outputs)))
    return 1e-3 if corrected or precision != "float64" else 1e-5


def _sizes_of(task: Task) -> tuple[int, int, int]:
    return task.train_inputs.shape[1], task.train_targets.shape[1], task.num_rows


def parse_hidden(text: str) -> tuple[int, ...]:
    """Widths from text such as 64-64; raises `ValueError` for other text."""
    parts = text.replace(",", "-").split("-")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"--hidden must be positive widths such as 64-64; got {text!r}.")
    return tuple(int(part) for part in parts)


def _read(file: Path) -> dict[str, Any]:
    """The settings in a short and plain file, or one behind a link."""
    try:
        return read_toml(read_bytes(file, MOST_BYTES, follow=True).decode(), KINDS)
    except FileNotFoundError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror}); pass the path of a TOML file.") from None
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
