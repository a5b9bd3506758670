"""How much memory each way to the covariance needs, and which way is taken; decided before any allocation."""

from dataclasses import dataclass
from typing import Literal

import jax

from jaxgeo.linalg.covariance.columns import CHUNK_BYTES
from jaxgeo.linalg.memory import check_memory
from jaxgeo.linalg.planning.auto import default_memory, show_bytes
from jaxgeo.outputs import AbstractProblem, Params

# The numbers of directions to try where neither rows nor columns fit.
LEAST_RANK, MOST_RANK = 256, 4096

Way = Literal["rows", "columns", "low rank"]


@dataclass(frozen=True)
class PosteriorPlan:
    """Whether to use the rows, the columns or the leading directions of D, and the peak memory of each.

    - `rows`, `columns`: QN and K.
    - `ranks`: the numbers of leading directions to try in turn, until there are enough.
    - `by_rows`, `by_columns`, `by_low_rank`: bytes that each needs, the last for the largest of `ranks`.
    - `memory`: bytes that may be used.
    - `way`: which of the three is used.
    """

    rows: int
    columns: int
    ranks: tuple[int, ...]
    by_rows: int
    by_columns: int
    by_low_rank: int
    memory: int
    way: Way

    def __str__(self) -> str:
        lines: list[tuple[Way, str, int]] = [
            ("rows", "by rows, DDᵀ", self.by_rows),
            ("columns", "by columns, DᵀD", self.by_columns),
            ("low rank", f"by {self.ranks[-1]} directions", self.by_low_rank),
        ]
        table = [f"{'→' if way == self.way else ' '} {name:<20}{show_bytes(taken):>10}" for way, name, taken in lines]
        head = f"QN = {self.rows}, K = {self.columns}; {show_bytes(self.memory)} for matrices"
        return "\n".join([head, *table])


def plan_posterior(
    problem: AbstractProblem, params: Params, *, has_prior: bool, groups: int, memory: int | None
) -> PosteriorPlan:
    """Choose rows or columns, whichever needs less memory, or low rank if neither fits.

    Unless every parameter has a prior, only columns are possible.

    Without a prior on every parameter columns are the only way.

    **Raises:** `MemoryError` if none fits.
    """
    check_memory(memory)
    memory = default_memory() if memory is None else memory
    rows, columns = problem.num_rows(params), problem.num_params(params)
    chunk = CHUNK_BYTES + 8 * columns * max(
        jax.eval_shape(block.rows, params, block.sample()).size for block in problem.blocks
    )
    # DDᵀ of each group, and during the factorisation their sum, a factor, its inverse and a product.
    by_rows = 8 * rows**2 * (groups + 4) + chunk
    # The triangle, its decomposition, the covariance, and copies.
    by_columns = 8 * columns**2 * 6 + 3 * chunk

    def by_low_rank(rank: int) -> int:
        # Directions, products with them, both once more while they are orthogonalised; matrices of the rank as for DDᵀ.
        return 8 * rank * 3 * (rows + columns) + 8 * rank**2 * (groups + 4) + chunk

    ranks = [min(LEAST_RANK, rows, columns)]
    while 2 * ranks[-1] <= min(MOST_RANK, rows, columns) and by_low_rank(2 * ranks[-1]) <= memory:
        ranks.append(2 * ranks[-1])
    way: Way = "columns"
    if has_prior and (by_columns > memory or (columns > rows and by_rows <= memory)):
        way = "rows" if by_rows <= memory else "low rank"
    plan = PosteriorPlan(rows, columns, tuple(ranks), by_rows, by_columns, by_low_rank(ranks[-1]), memory, way)
    if {"rows": by_rows, "columns": by_columns, "low rank": plan.by_low_rank}[way] > memory:
        hint = (
            f", {show_bytes(by_rows)} by rows, and {show_bytes(plan.by_low_rank)} by {ranks[-1]} leading directions"
            if has_prior
            else ""
        )
        advice = (
            "Use fewer samples or parameters, or freeze some through `trainable`."
            if has_prior
            else "With a `prior_precision`, rows or leading directions are possible too."
        )
        raise MemoryError(
            f"the posterior of {columns} parameters from {rows} rows needs {show_bytes(by_columns)} by columns{hint}; "
            f"only {show_bytes(memory)} may be used. {advice} Or pass a larger `memory`."
        )
    return plan
