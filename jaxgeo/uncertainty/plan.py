"""What each way to the covariance would hold, and which one is taken: decided before anything is allocated."""

from dataclasses import dataclass

import jax

from jaxgeo.linalg.covariance.columns import CHUNK_BYTES
from jaxgeo.linalg.memory import check_memory
from jaxgeo.linalg.planning.auto import default_memory, show_bytes
from jaxgeo.outputs import AbstractProblem, Params


@dataclass(frozen=True)
class PosteriorPlan:
    """By rows or by columns of D, and what either would hold at its peak.

    - `rows`, `columns`: QN and K.
    - `by_rows`, `by_columns`: bytes; `memory`: what may be taken.
    - `takes_rows`: which of the two is taken.
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
    """The smaller of the two, where it fits; without a prior on every parameter columns are the only way.

    **Raises:** `MemoryError` if neither fits.
    """
    check_memory(memory)
    memory = default_memory() if memory is None else memory
    rows, columns = problem.num_rows(params), problem.num_params(params)
    chunk = CHUNK_BYTES + 8 * columns * max(
        jax.eval_shape(block.rows, params, block.sample()).size for block in problem.blocks
    )
    # DDᵀ of each group, and while that is factored its sum, a factor, the inverse of it and a product.
    by_rows = 8 * rows**2 * (groups + 4) + chunk
    # The triangle, its decomposition, the covariance, and copies.
    by_columns = 8 * columns**2 * 6 + 3 * chunk
    takes_rows = has_prior and (by_columns > memory or (columns > rows and by_rows <= memory))
    taken = by_rows if takes_rows else by_columns
    if taken > memory:
        hint = (
            "Use fewer samples or parameters, or freeze some through `trainable`."
            if has_prior
            else "With a `prior_precision` it goes by rows, too."
        )
        raise MemoryError(
            f"the posterior of {columns} parameters from {rows} rows would hold {show_bytes(by_columns)} by columns"
            f"{f' and {show_bytes(by_rows)} by rows' * has_prior}, and {show_bytes(memory)} may be taken. {hint} Or "
            "pass a larger `memory`."
        )
    return PosteriorPlan(rows, columns, by_rows, by_columns, memory, takes_rows)
