"""The settings of a run, kept as TOML."""

import dataclasses
import json
import tomllib
import types as types_module
import typing
from dataclasses import dataclass
from typing import Any

from jaxgeo._names import did_you_mean


@dataclass(frozen=True)
class Config:
    """What a run was asked to do; with the same versions and machine it repeats the run.

    - `problem`: "digits", or the path of a CSV file, whose `target` column is predicted as `task` without the
      columns in `drop`. `samples`: N. `test_fraction`: the part of a table that is held out.
    - `hidden`: widths of the hidden layers. `seed`: of the split and of the initial weights.
    - `flow`: the name of the flow, empty with an `optimizer`, which may have a `learning_rate`, a `batch_size` and
      `record_every`, as in `jaxgeo.fit`. `patience`: of early stopping, by half of the held-out rows.
    - `tol`: the cost to stop at, relative to C(0). `rtol`: tolerance of the ODE steps.
    - `max_steps`: attempted steps after which to give up. `precision`: "float64" or "float32".
    - `keep_every`: seconds from one checkpoint to the next, at least.

    What is None is left to its default, and left out of the file.
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
    test_fraction: float = 0.2
    optimizer: str = ""
    learning_rate: float | None = None
    batch_size: int | None = None
    record_every: int | None = None
    patience: int | None = None
    keep_every: float = 5.0

    def to_toml(self) -> str:
        """The settings as TOML, one a line.

        ```python
        >>> from jaxgeo.app.runs import Config
        >>> config = Config("digits", 100, (64, 64), "adapted", 1e-6, 1e-5, 1000, 0, "float64")
        >>> Config.from_toml(config.to_toml()) == config
        True

        ```
        """
        # JSON's strings, numbers, booleans and lists of them are TOML's too, once non-ASCII text is left as it is.
        fields = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in fields.items())

    @classmethod
    def from_toml(cls, text: str) -> "Config":
        """The settings in `text`; `ValueError` if it is not TOML or its names or values are not those of a run."""
        fields = read_fields(text)
        missing = [
            each.name
            for each in dataclasses.fields(cls)
            if each.default is dataclasses.MISSING and each.name not in fields and each.name != "rtol"
        ]
        if missing:
            raise ValueError(f"not the settings of a run: {', '.join(missing)} missing.")
        return cls(**{"rtol": None, **fields})


def read_fields(text: str) -> dict[str, Any]:
    """Some or all of the settings of a run in TOML; lists are made tuples.

    **Raises:** `ValueError` if `text` is not TOML, or a name or the type of a value is not that of a setting.
    """
    types = typing.get_type_hints(Config)
    found: dict[str, Any] = {}
    try:
        fields = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"not TOML: {error}; each line is NAME = VALUE, with text in quotes.") from None
    for name, value in fields.items():
        if name not in types:
            raise ValueError(
                f"not the settings of a run: there is no setting {name!r}{did_you_mean(name, list(types))}"
            )
        value = tuple(value) if isinstance(value, list) else value
        allowed = typing.get_args(types[name]) if isinstance(types[name], types_module.UnionType) else (types[name],)
        if not any(_fits(value, each) for each in allowed):
            wanted = " or ".join(_describe(each) for each in allowed if each is not type(None))
            raise ValueError(f"not the settings of a run: {name} must be {wanted}; got {value!r}.")
        found[name] = value
    return found


def _fits(value: Any, kind: Any) -> bool:
    if typing.get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_fits(each, typing.get_args(kind)[0]) for each in value)
    # An integer is a number with a fraction too; a boolean is neither.
    return isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)


def _describe(kind: Any) -> str:
    names = {int: "an integer", float: "a number", str: "text"}
    return names.get(kind) or f"a list, each {names[typing.get_args(kind)[0]]}"
