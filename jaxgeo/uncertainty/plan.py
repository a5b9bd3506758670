"""How much memory each way to the covariance needs, and which way is taken; decided before any allocation."""

from dataclasses import dataclass

import jax

from jaxgeo.linalg.covariance.columns import CHUNK_BYTES
from jaxgeo.linalg.memory import check_memory
from jaxgeo.linalg.planning.auto import default_memory, show_bytes
from jaxgeo.outputs import AbstractProblem, Params


@dataclass(frozen=True)
class PosteriorPlan:
    """Whether to use the rows or the columns of D, and the peak memory of either.

    - `rows`, `columns`: QN and K.
    - `by_rows`, `by_columns`: bytes that each needs; `memory`: bytes that may be used.
    - `takes_rows`: whether the rows are used.
    """

    rows: int
    columns: int
    by_rows: int
    by_columns: int
    memory: int
    takes_rows: bool

    def __str__(self) -> str:
        marks = ("→", " ") if self.takes_rows else (" ", "→")
        return (
            f"QN = {self.rows}, K = {self.columns}; {show_bytes(self.memory)} for matrices\n"
            f"{marks[0]} by rows, DDᵀ     {show_bytes(self.by_rows):>10}\n"
            f"{marks[1]} by columns, DᵀD  {show_bytes(self.by_columns):>10}"
        )


def plan_posterior(
    problem: AbstractProblem, params: Params, *, has_prior: bool, groups: int, memory: int | None
) -> PosteriorPlan:
    """Choose the way that needs less memory; unless every parameter has a prior, only columns are possible.

    **Raises:** `MemoryError` if neither fits.
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
    takes_rows = has_prior and (by_columns > memory or (columns > rows and by_rows <= memory))
    taken = by_rows if takes_rows else by_columns
    if taken > memory:
        hint = (
            "Use fewer samples or parameters, or freeze some through `trainable`."
            if has_prior
            else "With a `prior_precision`, rows are possible too."
        )
        raise MemoryError(
            f"the posterior of {columns} parameters from {rows} rows needs {show_bytes(by_columns)} by columns"
            f"{f' and {show_bytes(by_rows)} by rows' * has_prior}, but only {show_bytes(memory)} may be used. {hint} "
            "Or pass a larger `memory`."
        )
    return PosteriorPlan(rows, columns, by_rows, by_columns, memory, takes_rows)
