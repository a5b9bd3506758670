"""The lower bounds in pyproject.toml are the versions that the run with the oldest versions installs."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def bounds(lines: list[str], operator: str) -> dict[str, str]:
    matches = [re.match(rf"([\w.-]+)(?:\[.*\])?{operator}([\d.]+)", line) for line in lines]
    return {match[1]: match[2] for match in matches if match}


def as_release(version: str) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in version.split("."))
    return numbers + (0,) * (3 - len(numbers))


def test_oldest_pins_are_the_lower_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    floors = bounds(project["dependencies"] + extras["cli"] + extras["test"], ">=")
    pins = bounds((ROOT / ".ci" / "oldest.txt").read_text().splitlines(), "==")
    assert {name: as_release(version) for name, version in pins.items()} == {
        name: as_release(version) for name, version in floors.items()
    }
