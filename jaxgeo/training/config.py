"""The settings of a run, kept as TOML."""

import dataclasses
import json
import tomllib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Config:
    """What a run was asked to do; with the same versions and machine it repeats the run.

    - `problem`: "digits", or the path of a CSV file, whose `target` column is predicted as `task` without the
      columns in `drop`. `samples`: N. `test_fraction`: the part of a table that is held out.
    - `hidden`: widths of the hidden layers. `seed`: of the split and of the initial weights.
    - `flow`: the name of the flow. `tol`: the cost to stop at, relative to C(0). `rtol`: tolerance of the ODE steps.
    - `max_steps`: attempted steps after which to give up. `precision`: "float64" or "float32".
    """

    problem: str
    samples: int
    hidden: tuple[int, ...]
    flow: str
    tol: float
    rtol: float
    max_steps: int
    seed: int
    precision: str
    target: str = ""
    task: str = ""
    drop: tuple[str, ...] = ()
    test_fraction: float = 0.2

    def to_toml(self) -> str:
        """The settings as TOML, one a line.

        ```python
        >>> from jaxgeo.training import Config
        >>> config = Config("digits", 100, (64, 64), "adapted", 1e-6, 1e-5, 1000, 0, "float64")
        >>> Config.from_toml(config.to_toml()) == config
        True

        ```
        """
        # JSON's strings, numbers, booleans and lists of them are TOML's too, once non-ASCII text is left as it is.
        fields = dataclasses.asdict(self)
        return "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in fields.items())

    @classmethod
    def from_toml(cls, text: str) -> "Config":
        """The settings in `text`; `ValueError` if it is not TOML or its names are not those of a run."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in tomllib.loads(text).items()
        }
        try:
            return cls(**fields)
        except TypeError as error:
            raise ValueError(f"not the settings of a run ({error}).") from None
