"""The settings of a run, saved as TOML."""

import dataclasses
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxgeo._names import did_you_mean
from jaxgeo.app.runs.fields import read_toml, to_toml
from jaxgeo.fitting.methods import flow_named, optimizer_named

# The name of the method for tables by which networks are trained and weighted by their evidence.
EVIDENCE = "evidence"
PRECISIONS = ("float64", "float32")
LEAST_TOL = 1e-30
# Of whatever is counted, and of layers.
MOST, MOST_LAYERS = 2**31 - 1, 100
# Of updates of networks that the evidence weighs.
MOST_ROUNDS = 2**20


@dataclass(frozen=True)
class Config:
    """The settings of a run. With the same versions, on the same machine, they repeat it bit for bit.

    - `problem`: "digits", or the absolute path of a table, whose `target` column is predicted as `task` without the
      columns in `drop`. `samples`: N. `test_fraction`: the part of a table that is held out. `weights`: the column of
      how often each row counts, or empty.
    - `hidden`: widths of the hidden layers. `seed`: of the split and of the initial weights.
    - `flow`: the name of the flow, empty with an `optimizer`, which may have a `learning_rate`, a `batch_size` and
      `record_every`, as in `jaxgeo.fit`. `patience`: of early stopping, by a fifth of the training rows. The optimizer
      "evidence" stands for the networks of the estimators, which choose their widths: `hidden` is empty.
    - `tol`: the cost to stop at, relative to C(0); for "evidence" a change of its logarithm that is hardly one.
      `rtol`: tolerance of the ODE steps.
    - `max_steps`: attempted steps after which to give up. `precision`: "float64" or "float32".
    - `keep_every`: seconds from one checkpoint to the next, at least.

    Settings that are None have their defaults, and are not written to the file.
    """

    problem: str
    samples: int
    hidden: tuple[int, ...]
    flow: str
    tol: float
    rtol: float | None
    max_steps: int
    seed: int
    precision: str
    target: str = ""
    task: str = ""
    drop: tuple[str, ...] = ()
    weights: str = ""
    test_fraction: float = 0.2
    optimizer: str = ""
    learning_rate: float | None = None
    batch_size: int | None = None
    record_every: int | None = None
    patience: int | None = None
    keep_every: float = 5.0

    def to_toml(self) -> str:
        """The settings as TOML, one on each line.

        ```python
        >>> from jaxgeo.app.runs import Config
        >>> config = Config("digits", 100, (64, 64), "adapted", 1e-6, 1e-5, 1000, 0, "float64")
        >>> Config.from_toml(config.to_toml()) == config
        True

        ```
        """
        return to_toml({name: value for name, value in dataclasses.asdict(self).items() if value is not None})

    @classmethod
    def from_toml(cls, text: str) -> "Config":
        """The settings in `text`; `ValueError` if it is not TOML or its names or values are not those of a run."""
        fields = read_toml(text, KINDS)
        missing = [
            each.name
            for each in dataclasses.fields(cls)
            if each.default is dataclasses.MISSING and each.name not in fields and each.name != "rtol"
        ]
        if missing:
            raise ValueError(f"not all the settings of a run: {', '.join(missing)} missing.")
        check_settings(found := {**DEFAULTS, **fields})
        return cls(**found)


KINDS: dict[str, Any] = typing.get_type_hints(Config)
# Defaults of the settings that a file may omit.
DEFAULTS: dict[str, Any] = {"rtol": None} | {
    each.name: each.default for each in dataclasses.fields(Config) if each.default is not dataclasses.MISSING
}


def check_settings(asked: Mapping[str, Any]) -> None:
    """`ValueError` on a setting that cannot be meant."""
    if asked["optimizer"] == EVIDENCE:
        _check_evidence(asked)
    elif asked["weights"]:
        raise ValueError("--weights is for networks that the evidence weighs; leave --flow, --optimizer and so on out.")
    elif asked["optimizer"]:
        if asked["learning_rate"] is not None and not math.isfinite(asked["learning_rate"]):
            raise ValueError(f"--learning-rate must be finite; got {asked['learning_rate']}.")
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
        if value is not None and not LEAST_TOL <= value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must lie between {LEAST_TOL:g} and 1; got {value}.")
    for name in ("samples", "max_steps", "batch_size", "record_every", "patience"):
        most = 10**6 if name == "record_every" else MOST
        if asked[name] is not None and not 1 <= asked[name] <= most:
            raise ValueError(f"--{name.replace('_', '-')} must be positive, and at most {most}; got {asked[name]}.")
    if not 0 <= asked["seed"] < 2**63:
        raise ValueError(f"--seed must not be negative, and be below 2**63; got {asked['seed']}.")
    if not asked["keep_every"] >= 0:
        raise ValueError(f"--keep-every must not be negative; got {asked['keep_every']}.")
    if asked["hidden"] and (min(asked["hidden"]) < 1 or max(asked["hidden"]) > MOST):
        raise ValueError(f"--hidden takes positive widths such as 64-64; got {asked['hidden']}.")
    if len(asked["hidden"]) > MOST_LAYERS:
        raise ValueError(f"--hidden takes at most {MOST_LAYERS} layers; got {len(asked['hidden'])}.")


def _check_evidence(asked: Mapping[str, Any]) -> None:
    """`ValueError` on a setting that such networks do not have."""
    for name in ("hidden", "learning_rate", "batch_size", "record_every", "patience", "rtol"):
        if asked[name]:
            raise ValueError(
                f"--{name.replace('_', '-')} is for a single network; choose how to train it, such as by --optimizer "
                "levenberg-marquardt."
            )
    if asked["precision"] != PRECISIONS[0]:
        raise ValueError(f"networks that the evidence weighs are trained in float64; got {asked['precision']}.")
    if asked["max_steps"] is not None and asked["max_steps"] > MOST_ROUNDS:
        raise ValueError(f"--max-steps must be at most {MOST_ROUNDS}; got {asked['max_steps']}.")
