"""`python tests/input_matrix GROUP`: one line of JSON for each cell of a group."""

import json
import sys
from pathlib import Path

import jax

# The folder of the tests in place of this one, whose modules have names of their own at the top level.
sys.path[0] = str(Path(__file__).parents[1])
# Before arrays are made of what follows.
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_disable_most_optimizations", True)

from input_matrix.cells import cells, judge  # noqa: E402
from input_matrix.groups import group  # noqa: E402

for cell in cells(group(sys.argv[1])):
    verdict, detail = judge(cell)
    print(json.dumps({"cell": cell.name, "verdict": verdict, "detail": detail}), flush=True)
