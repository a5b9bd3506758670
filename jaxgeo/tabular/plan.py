"""Which networks are trained on a table, and on which of its rows."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxgeo.tabular.network import Shape

# Widths of the hidden layer unless the user says, none being the linear path alone; the last for many rows.
WIDTHS, MANY_WIDTHS = ((), (4,), (12,)), ((), (12,), (32,))
STARTS = 2
# Beyond this many inputs, or for a single one, the weights of an input have no precision of their own.
MOST_GROUPS = 64
# Multiplications of one update of all networks, beyond which fewer are trained.
MOST_WORK = 4e9
# From so many rows on, networks are trained on as many first, and the best of them goes on with all.
MANY_ROWS = 8192
# Updates on these.
FIRST_UPDATES = 30


@dataclass(frozen=True)
class Plan:
    """The networks, each with one start, and how many rows they begin with; None for all."""

    shapes: tuple[Shape, ...]
    first_rows: int | None


def plan_networks(rows: int, inputs: int, outputs: int, hidden: Sequence[int] | None, starts: int = STARTS) -> Plan:
    """Widths, groupings of precisions and starts, whose predictions the evidence weighs later.

    **Arguments:**

    - `rows`, `inputs`, `outputs`: how many there are.
    - `hidden`: the widths of the hidden layers, if the user says.
    - `starts`: random starts of each network with hidden layers.
    """
    first = MANY_ROWS if rows > MANY_ROWS else None
    widths = [tuple(hidden)] if hidden is not None else WIDTHS if first is None else MANY_WIDTHS
    groupings = (False, True) if 1 < inputs <= MOST_GROUPS else (False,)
    found, work = [], 0.0
    for index in range(starts if first is None else 1):
        for width in widths:
            for by_input in groupings if width else (False,):
                shape = Shape(inputs, width, outputs, by_input)
                work += min(rows, MANY_ROWS) * outputs * shape.size**2 + shape.size**3
                if found and (work > MOST_WORK or (not width and index)):
                    work -= min(rows, MANY_ROWS) * outputs * shape.size**2 + shape.size**3
                    continue
                found.append(shape)
    return Plan(tuple(found), first)
