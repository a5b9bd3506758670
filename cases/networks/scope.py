"""What a random program has so far: lines of code, the values that they make, and the leaves that it uses."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Any choice that makes a program: one of these, the first being the simplest.
Choose = Callable[[Sequence[Any]], Any]
NAMESPACE: Mapping[str, Any] = {"jax": jax, "jnp": jnp, "np": np}
# Lengths of axes: mostly one and the same, so that values fit together.
LENGTHS = (3, 3, 3, 2, 2, 1, 4)
MOST_NUMBERS = 100
# Larger values are divided, so that sin and exp of them stay well conditioned.
LARGEST = 6.0


class Value(NamedTuple):
    """A variable of the program, about how large its entries are, whether it comes from a leaf, or is of integers."""

    name: str
    shape: tuple[int, ...]
    size: float = 1.0
    trained: bool = False
    integer: bool = False

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def struct(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.shape, jnp.dtype("int64" if self.integer else "float64"))


class Pool:
    """What all scopes of a program share: its leaves, and names for its values."""

    def __init__(self) -> None:
        self.leaves: list[Value] = []
        self._count = 0

    def name(self, letter: str = "v") -> str:
        self._count += 1
        return f"{letter}{self._count}"

    def leaf(self, shape: tuple[int, ...]) -> Value:
        self.leaves.append(Value(f"w{len(self.leaves)}", shape, trained=True))
        return self.leaves[-1]


class Scope:
    """The body of a function that is being written.

    - `values`: its arguments, what it defines, and what it sees of the functions around it; the newest last.
    - `closed`: sees nothing but its arguments, not even the leaves.
    """

    def __init__(self, choose: Choose, pool: Pool, values: Sequence[Value], depth: int = 0, *, closed: bool = False):
        self.choose = choose
        self.pool = pool
        self.values = list(values)
        self.depth = depth
        self.closed = closed
        self.lines: list[str] = []

    def inner(self, arguments: Sequence[Value], *, closed: bool = False) -> "Scope":
        seen = [] if closed else self.values
        return Scope(self.choose, self.pool, [*seen, *arguments], self.depth + 1, closed=closed or self.closed)

    @property
    def leaves(self) -> list[Value]:
        return [] if self.closed else self.pool.leaves

    def candidates(self, fits: Callable[[Value], bool], *, integer: bool = False) -> list[Value]:
        """Values that fit, the newest first, then leaves."""
        visible = [*reversed(self.values), *self.leaves]
        return [value for value in visible if value.integer == integer and fits(value)]

    def pick(self, fits: Callable[[Value], bool] = lambda value: True, *, integer: bool = False) -> Value | None:
        """One of the values that fit, often a new one, and seldom a leaf: one odd use is enough for a leaf's VJP."""
        candidates = self.candidates(fits, integer=integer)
        others = [value for value in candidates if value not in self.leaves]
        if others and not self.choose((False,) * 7 + (True,)):
            candidates = others
        if len(candidates) > 2 and self.choose((True, False)):
            candidates = candidates[:2]
        return self.choose(candidates) if candidates else None

    def of_shape(self, shape: tuple[int, ...], *, leaf: bool = False) -> Value | None:
        """A value of this shape that is there already, or a leaf: one that is there, or a new one."""
        among = self.leaves if leaf else [value for value in self.candidates(bool) if value not in self.leaves]
        found = [value for value in among if value.shape == shape]
        if found and (self.closed or self.choose((True, False))):
            return self.choose(found)
        return None if self.closed else self.pool.leaf(shape)

    def name(self, letter: str = "v") -> str:
        return self.pool.name(letter)

    def define(
        self,
        expression: str,
        size: float,
        *,
        before: Sequence[str] = (),
        count: int = 1,
        trained: bool | None = None,
    ) -> list[Value]:
        """Add a line that names the values of an expression, unless they are too many numbers or none.

        - `before`: lines that the expression needs, with functions.
        - `trained`: whether a leaf reaches the values; by default, whether it reaches what the expression names.
        """
        names = [self.name() for _ in range(count)]
        if size > LARGEST and count == 1:
            divisor = float(2 ** int(np.ceil(np.log2(size / 2))))
            expression, size = f"({expression}) / {divisor}", size / divisor
        lines = [*before, f"{', '.join(names)} = {expression}"]
        found = self._shapes("\n".join(lines), names)
        if any(not 0 < np.prod(struct.shape) <= MOST_NUMBERS or len(struct.shape) > 3 for struct in found):
            return []
        self.lines.extend(lines)
        if trained is None:
            words = set(re.findall(r"\w+", expression))
            trained = any(value.trained and value.name in words for value in (*self.pool.leaves, *self.values))
        size = min(size, LARGEST)
        made = [Value(name, struct.shape, size, trained) for name, struct in zip(names, found, strict=True)]
        self.values.extend(made)
        return made

    def _shapes(self, code: str, names: Sequence[str]) -> list[jax.ShapeDtypeStruct]:
        visible = {value.name: value.struct for value in (*self.pool.leaves, *self.values)}

        def run(values: dict[str, jax.Array]) -> list[jax.Array]:
            namespace = {**NAMESPACE, **values}
            exec(code, namespace)
            return [namespace[name] for name in names]

        return jax.eval_shape(run, visible)

    def pruned(self, result: str) -> list[str]:
        """The lines that a result needs; all of them now and then."""
        return _live(self.lines, result) if self.choose((True, True, True, False)) else self.lines

    def unused(self) -> list[Value]:
        """Values that no later line takes, the newest first."""
        words = re.findall(r"\w+", "\n".join(self.lines))
        return [value for value in reversed(self.values) if words.count(value.name) == 1 and not value.integer]


def _live(lines: Sequence[str], result: str) -> list[str]:
    """The statements that a result needs."""
    needed, kept = set(re.findall(r"\w+", result)), []
    for line in reversed(lines):
        makes = re.match(r"def (\w+)", line) or re.match(r"(\w+)\.defjvp", line)
        names = [makes[1]] if makes else re.findall(r"\w+", line.split(" = ")[0])
        if needed.intersection(names):
            needed.update(re.findall(r"\w+", line))
            kept.append(line)
    return kept[::-1]


def indented(lines: Sequence[str]) -> list[str]:
    return [f"    {line}" for text in lines for line in text.split("\n")]
