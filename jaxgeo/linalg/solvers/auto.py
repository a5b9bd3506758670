"""The default: a solver chosen by the sizes, the dtype and the memory, with the reason."""

import math
from collections.abc import Callable
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
    though the parameters are float32. Beyond that, and with damping for K ≥ QN, DDᵀ or DᵀD is factored in float64,
    whichever is smaller, and beyond that products with D alone are used. In each but the last, where D has lost
    rank or is too ill-conditioned, singular values or eigenvalues with a smooth cut-off take over;
    `LiftInfo.outcome` says so.

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
        # In float32 a damped Gram matrix would ask for more damping than was given: its eigenvalues spread by the
        # condition number of D squared, and with QN.
        double, own = jnp.dtype(jnp.float64), jnp.dtype(jacobian.outputs.dtype)
        side, wide = min(rows, columns), columns >= rows
        dense, factored = double.itemsize * rows * columns, _factored(side, double)
        name = "DDᵀ" if wide else "DᵀD"
        if wide and (own == double or damping is not None) and factored <= memory:
            # Products with D are in this dtype already, or damping bounds their error, so holding D would gain nothing.
            reason = f"{name}, {side} × {side}, takes {_bytes(factored)} to factor, and is formed without D"
            return Choice(
                GramCholesky(gram_dtype=double, cutoff=self.cutoff, dense_fallback=4 * dense <= memory), reason
            )
        if 4 * dense <= memory and (rows * columns <= self.max_entries or (not wide and damping is None)):
            few = "" if rows * columns <= self.max_entries else "K < QN, and "
            reason = f"{few}D, {rows} × {columns}, takes {_bytes(dense)} in {double}"
            return Choice(DenseCholesky(self.cutoff, double), reason)
        for dtype in (double,) if damping is None else (double, own):
            factored = _factored(side, dtype)
            if factored > memory:
                continue
            reason = f"D has {rows} × {columns} entries; {name} in {dtype} takes {_bytes(factored)} to factor"
            if wide:
                return Choice(GramCholesky(gram_dtype=dtype, cutoff=self.cutoff), reason)
            return Choice(NormalCholesky(gram_dtype=dtype, cutoff=self.cutoff), reason)
        reason = f"{name}, {side} × {side}, would take {_bytes(factored)} of {_bytes(memory)} to factor"
        return Choice(CG() if wide else LSMR(), reason)

    def solve(
        self, jacobian: Jacobian, velocity: Float[Array, "N Q"], damping: Damping = None
    ) -> tuple[PyTree, LiftInfo]:
        return self.choose(jacobian, damping).solver.solve(jacobian, velocity, damping)

    def prepare(
        self, jacobian: Jacobian, damping: Damping = None
    ) -> Callable[[Float[Array, "N Q"]], tuple[PyTree, LiftInfo]] | None:
        return self.choose(jacobian, damping).solver.prepare(jacobian, damping)


def _factored(side: int, dtype: jnp.dtype) -> int:
    """Bytes of a Gram matrix, its factor, and what eigenvectors take where they are needed."""
    return dtype.itemsize * side**2 * 4


def _bytes(count: int) -> str:
    power = min(int(math.log2(max(count, 1)) // 10), 4)
    return f"{count / 2 ** (10 * power):.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
