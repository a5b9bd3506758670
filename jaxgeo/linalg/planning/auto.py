"""The default solver: one chosen by sizes, dtype and memory, with the reason for the choice."""

import math
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp

from jaxgeo._checks import check_count
from jaxgeo.linalg.gram.layout import FLOPS_PER_BYTE
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.memory import check_memory, total_memory
from jaxgeo.linalg.planning.bytes import dense_matrices, gram_matrices, held_gram, normal_matrices, sizes_of
from jaxgeo.linalg.solvers.base import AbstractFactorised, AbstractLiftSolver, Damping
from jaxgeo.linalg.solvers.cg import CG
from jaxgeo.linalg.solvers.cutoff import AbstractCutoff, SmoothCutoff, check_factoring
from jaxgeo.linalg.solvers.dense_cholesky import DenseCholesky
from jaxgeo.linalg.solvers.gram_cholesky import GramCholesky
from jaxgeo.linalg.solvers.lsmr import LSMR
from jaxgeo.linalg.solvers.normal_cholesky import NormalCholesky
from jaxgeo.linalg.solvers.prior import PriorLift
from jaxgeo.prior import has_prior


class Choice(NamedTuple):
    """A solver, and why it was chosen."""

    solver: AbstractLiftSolver
    reason: str

    def __str__(self) -> str:
        return f"{type(self.solver).__name__}: {self.reason}"


class Auto(AbstractLiftSolver):
    """Chooses a solver before compilation by QN, K, dtype and memory; the solver adapts to the conditioning as it runs.

    `choose` says which solver and why. A small D is held as a matrix, so that products with it can be in float64 even
    for float32 parameters. For larger D, and with damping for K ≥ QN, the smaller of DDᵀ and DᵀD is factorised in
    float64. If that is too large as well, only products with D are used. If D has lost rank or is too ill-conditioned,
    singular values or eigenvalues with a smooth cut-off take over, or more damping if DDᵀ is damped;
    `LiftInfo.outcome` says so. Solvers that only use products do not do this.

    **Arguments:**

    - `memory`: bytes that the matrices of a lift may take on each device; by default a quarter of the memory of the
        device or machine. `Problem.plan` counts everything that is held.
    - `max_entries`: the largest QN·K for which D is held for the sake of accuracy.
    - `cutoff`: which singular values count if D has lost rank.
    """

    memory: int | None = eqx.field(static=True, default=None)
    max_entries: int = eqx.field(static=True, default=2**24)
    cutoff: AbstractCutoff = SmoothCutoff()

    def __check_init__(self):
        check_memory(self.memory)
        check_count("max_entries", self.max_entries, least=0)
        check_factoring(self.cutoff, "dtype", None)

    def choose(self, jacobian: Jacobian, damping: Damping = None) -> Choice:
        """The solver that `solve` will use, and why.

        ```python
        >>> import jax.numpy as jnp, jaxgeo as jg
        >>> problem = jg.Problem(lambda a, x: a @ x, jnp.eye(2), jg.L2(jnp.zeros(2)))
        >>> print(jg.linalg.Auto().choose(problem.jacobian(jnp.zeros(2))))
        GramCholesky: DDᵀ, 2 × 2, takes 128 B to factor, and is formed without D

        ```
        """
        sizes = sizes_of(jacobian)
        rows, columns = sizes.rows, sizes.columns
        memory = default_memory() if self.memory is None else self.memory
        if has_prior(jacobian.problem) and 2 * columns >= rows:
            size = rows - columns
            return Choice(
                PriorLift(self.cutoff), f"DDᵀ of the data, {size} × {size}, is all to factorise: the prior is diagonal"
            )
        # In float32 a damped Gram matrix would need more damping than was given: its eigenvalues spread by cond(D)²,
        # and with QN.
        double, own = jnp.dtype(jnp.float64), sizes.dtype
        side, wide, damped = min(rows, columns), columns >= rows, damping is not None

        def needed(dtype: jnp.dtype) -> int:
            return gram_matrices(sizes, dtype, damped) if wide else normal_matrices(sizes, dtype)

        dense, square = dense_matrices(sizes, double), needed(double)
        name = "DDᵀ" if wide else "DᵀD"
        if wide and (own == double or damped) and square <= memory:
            # Holding D would gain nothing: products with D are already in this dtype, or damping bounds their error.
            reason = f"{name}, {side} × {side}, takes {show_bytes(square)} to factor, and is formed without D"
            # D is whole on every device.
            fallback = sizes.shards == 1 and not damped and dense <= memory
            return Choice(gram_cholesky(double, damped, self.cutoff, dense_fallback=fallback), reason)
        if dense <= memory and (rows * columns <= self.max_entries or (not wide and not damped)):
            few = "" if rows * columns <= self.max_entries else "K < QN, and "
            reason = f"{few}D, {rows} × {columns}, takes {show_bytes(dense)} to factor in {double}"
            return Choice(DenseCholesky(self.cutoff, double), reason)
        for dtype in (double, own) if damped else (double,):
            square = needed(dtype)
            if square > memory:
                continue
            reason = f"D has {rows} × {columns} entries; {name} in {dtype} takes {show_bytes(square)} to factor"
            if wide:
                return Choice(gram_cholesky(dtype, damped, self.cutoff), reason)
            return Choice(NormalCholesky(dtype=dtype, cutoff=self.cutoff), reason)
        reason = f"{name}, {side} × {side}, would take {show_bytes(square)} of {show_bytes(memory)} to factor"
        # Compare a pass through the network with reading G. Without damping, holding G would lose accuracy.
        dearer = 6 * jacobian.problem.num_samples * columns > FLOPS_PER_BYTE * own.itemsize * rows**2
        if wide and damped and dearer and held_gram(sizes) <= memory:
            return Choice(CG(hold_gram=True), f"{reason}, and {show_bytes(held_gram(sizes))} to hold")
        return Choice(CG() if wide else LSMR(), reason)

    def factorise(self, jacobian: Jacobian, damping: Damping = None) -> AbstractFactorised:
        return self.choose(jacobian, damping).solver.factorise(jacobian, damping)


def gram_cholesky(
    dtype: jnp.dtype, damped: bool, cutoff: AbstractCutoff, *, dense_fallback: bool = False
) -> GramCholesky:
    """The solver by DDᵀ in `dtype`. With damping, a failure is answered by more damping, which compiles less."""
    most = 0 if damped else GramCholesky().max_decomposition
    return GramCholesky(dtype=dtype, cutoff=cutoff, dense_fallback=dense_fallback, max_decomposition=most)


def default_memory() -> int:
    """Bytes that a lift may take by default."""
    return total_memory() // 4


def show_bytes(count: float) -> str:
    power = min(int(math.log2(max(count, 1)) // 10), 4)
    return f"{count / 2 ** (10 * power):.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
