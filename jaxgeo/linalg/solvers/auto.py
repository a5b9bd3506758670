"""The default: a solver chosen by the sizes, the dtype and the memory, with the reason."""

import math
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.memory import total_memory
from jaxgeo.linalg.solvers.base import AbstractLiftSolver, Damping, LiftInfo
from jaxgeo.linalg.solvers.columns import NormalCholesky
from jaxgeo.linalg.solvers.cutoff import AbstractCutoff, SmoothCutoff
from jaxgeo.linalg.solvers.dense import DenseCholesky
from jaxgeo.linalg.solvers.iterative import CG, LSMR
from jaxgeo.linalg.solvers.rows import GramCholesky


class Choice(NamedTuple):
    """A solver and why it was chosen."""

    solver: AbstractLiftSolver
    reason: str

    def __str__(self) -> str:
        return f"{type(self.solver).__name__}: {self.reason}"


class Auto(AbstractLiftSolver):
    """Chooses a solver before compilation by QN, K, dtype and memory, and that one again while it runs, by the
    conditioning it measures.

    `choose` says which and why. While D is small it is held as a matrix: products with it can then be in float64
    though the parameters are float32. Beyond that DDᵀ or DᵀD is factored, whichever is smaller, and beyond
    that products with D alone are used. In each but the last, where D has lost rank or is too ill-conditioned,
    singular values or eigenvalues with a smooth cut-off take over; `LiftInfo.outcome` says so.

    **Arguments:**

    - `memory`: bytes that a lift may take; by default a quarter of the device's or the machine's.
    - `max_entries`: QN·K up to which D is held for its own sake.
    - `cutoff`: which singular values count where D has lost rank.
    """

    memory: int | None = eqx.field(static=True, default=None)
    max_entries: int = eqx.field(static=True, default=2**24)
    cutoff: AbstractCutoff = SmoothCutoff()

    def choose(self, jacobian: Jacobian, damping: Damping = None) -> Choice:
        """The solver that `solve` will use, and why.

        ```python
        >>> import jax.numpy as jnp, jaxgeo as jg
        >>> problem = jg.Problem(lambda a, x: a @ x, jnp.eye(2), jg.L2(jnp.zeros(2)))
        >>> print(jg.linalg.Auto().choose(problem.jacobian(jnp.zeros(2))))
        GramCholesky: DDᵀ, 2 × 2, takes 128 B to factor, and is formed without D

        ```
        """
        rows, columns = jacobian.out_size(), jacobian.in_size()
        memory = total_memory() // 4 if self.memory is None else self.memory
        dtype = jnp.dtype(jnp.float64) if damping is None else jnp.dtype(jacobian.outputs.dtype)
        side, wide = min(rows, columns), columns >= rows
        dense = dtype.itemsize * rows * columns
        # The matrix, its factor, and what eigenvectors take where they are needed.
        factored = dtype.itemsize * side**2 * 4
        name = "DDᵀ" if wide else "DᵀD"
        if wide and jacobian.outputs.dtype == dtype and factored <= memory:
            # Products with D are in this dtype already, so holding D would gain nothing while DDᵀ can be factored.
            reason = f"{name}, {side} × {side}, takes {_bytes(factored)} to factor, and is formed without D"
            return Choice(GramCholesky(cutoff=self.cutoff, dense_fallback=4 * dense <= memory), reason)
        if rows * columns <= self.max_entries and 4 * dense <= memory:
            return Choice(DenseCholesky(self.cutoff), f"D, {rows} × {columns}, takes {_bytes(dense)} in {dtype}")
        if not wide and 4 * dense <= memory and damping is None:
            return Choice(
                DenseCholesky(self.cutoff), f"K < QN, and D, {rows} × {columns}, takes {_bytes(dense)} in {dtype}"
            )
        if factored <= memory:
            reason = f"D has {rows} × {columns} entries; {name}, {side} × {side}, takes {_bytes(factored)} to factor"
            if wide:
                return Choice(GramCholesky(cutoff=self.cutoff), reason)
            return Choice(NormalCholesky(cutoff=self.cutoff), reason)
        reason = f"{name}, {side} × {side}, would take {_bytes(factored)} of {_bytes(memory)} to factor"
        return Choice(CG() if wide else LSMR(), reason)

    def solve(
        self, jacobian: Jacobian, velocity: Float[Array, "N Q"], damping: Damping = None
    ) -> tuple[PyTree, LiftInfo]:
        return self.choose(jacobian, damping).solver.solve(jacobian, velocity, damping)


def _bytes(count: int) -> str:
    power = min(int(math.log2(max(count, 1)) // 10), 4)
    return f"{count / 2 ** (10 * power):.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
