"""Plan a lift before anything is allocated: what each route would hold on each device, and which one is taken."""

from dataclasses import dataclass

import equinox as eqx
import jax.numpy as jnp

from jaxgeo.linalg.gram.gram import Gram
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.memory import check_memory
from jaxgeo.linalg.one_way import said_of
from jaxgeo.linalg.planning.auto import Auto, Choice, default_memory, gram_cholesky, show_bytes
from jaxgeo.linalg.planning.bytes import (
    dense_matrices,
    gram_matrices,
    held_gram,
    normal_matrices,
    products,
    sizes_of,
    sketch,
)
from jaxgeo.linalg.solvers import CG, LSMR, AbstractLiftSolver, DenseCholesky, NormalCholesky
from jaxgeo.linalg.solvers.base import Damping, check_damping
from jaxgeo.outputs import AbstractProblem, Params
from jaxgeo.prior import has_prior, without_prior


@dataclass(frozen=True)
class RoutePlan:
    """What one route holds on each device at its peak, in bytes.

    - `solver`: the route; `label`: its name in the table.
    - `matrices`: Gram matrices or D, their factorisation, and the factors of D that the lift keeps.
    - `assembly`: Kronecker factors of D, the activations that give them, and blocks of DDᵀ, before DDᵀ is factorised.
    - `linearisation`: parameters, samples, and what products with D keep; `lifts`: θ̇ while it is computed.
    """

    solver: AbstractLiftSolver
    label: str
    matrices: int
    assembly: int
    linearisation: int
    lifts: int

    @property
    def bytes(self) -> int:
        """The total at the peak."""
        return self.linearisation + max(self.assembly, self.matrices + self.lifts)


@dataclass(frozen=True)
class LiftPlan:
    """The routes to a lift, and the choice between them; `str` shows them as a table.

    - `rows`, `columns`: QN and K; `devices`: how many devices the samples are spread over.
    - `memory`: bytes that matrices may take on each device.
    - `routes`: what each route would hold.
    - `choice`: the solver that `Auto` takes, and why.
    - `derivatives`: which mode of derivatives a network lacks, and what this costs; empty if it lacks none.
    """

    rows: int
    columns: int
    devices: int
    memory: int
    routes: tuple[RoutePlan, ...]
    choice: Choice
    derivatives: str = ""

    @property
    def chosen(self) -> RoutePlan:
        """The plan of the route that `Auto` takes."""
        return next(route for route in self.routes if route.solver == self.choice.solver)

    def __str__(self) -> str:
        width = max(len(route.label) for route in self.routes)
        lines = [
            f"QN = {self.rows}, K = {self.columns}, samples over {self.devices} device{'s' * (self.devices > 1)}; "
            f"{show_bytes(self.memory)} for matrices on each",
            f"  {'route':<{width}}    matrices    assembly      linear       lifts        peak",
        ]
        for route in self.routes:
            numbers = (route.matrices, route.assembly, route.linearisation, route.lifts, route.bytes)
            mark = "→" if route is self.chosen else " "
            lines.append(f"{mark} {route.label:<{width}}" + "".join(f"{show_bytes(number):>12}" for number in numbers))
        return "\n".join([*lines, str(self.choice), *([self.derivatives] if self.derivatives else [])])


def plan_lift(
    problem: AbstractProblem, params: Params, *, damping: Damping = None, memory: int | None = None
) -> LiftPlan:
    """See `Problem.plan`."""
    check_damping(damping)
    check_memory(memory)
    plans = []

    def look(params: Params) -> None:
        problem.check(params)
        jacobian = Jacobian(problem, params)
        if has_prior(problem) and 2 * jacobian.in_size() >= jacobian.out_size():
            # The lift factorises DDᵀ of the data, damped by the prior.
            plans.append(_plan(Jacobian(without_prior(problem), params), 1.0 if damping is None else damping, memory))
        else:
            plans.append(_plan(jacobian, damping, memory))

    # Shapes are all that is needed: nothing is computed.
    eqx.filter_eval_shape(look, params)
    return plans[0]


def _plan(jacobian: Jacobian, damping: Damping, memory: int | None) -> LiftPlan:
    sizes, damped = sizes_of(jacobian), damping is not None
    gram = Gram(jacobian, memory=memory)
    double = jnp.dtype(jnp.float64)
    dtypes = (double, sizes.dtype) if damped and sizes.dtype != double else (double,)
    routes, cutoff = [], Auto().cutoff

    def add(solver: AbstractLiftSolver, label: str, matrices: int, assembly: int = 0) -> None:
        routes.append(RoutePlan(solver, label, matrices, assembly, sizes.linearisation, sizes.lifts))

    dense = dense_matrices(sizes, double)
    for dtype in dtypes:
        assembly, kept = _assembly(gram, dtype)
        matrices = gram_matrices(sizes, dtype, damped) + kept
        add(gram_cholesky(dtype, damped, cutoff), f"GramCholesky, {dtype}", matrices, assembly)
        if not damped:
            fallback = gram_cholesky(dtype, damped, cutoff, dense_fallback=True)
            add(fallback, f"GramCholesky, {dtype}, D if that fails", max(matrices, dense), assembly)
    for dtype in dtypes:
        share = min(1.0, NormalCholesky().chunk_size / jacobian.problem.num_samples)
        chunk = int(share * sizes.rows * sizes.columns) * dtype.itemsize
        label = f"NormalCholesky, {dtype}"
        add(NormalCholesky(dtype=dtype), label, normal_matrices(sizes, dtype) + chunk)
    add(DenseCholesky(dtype=double), "DenseCholesky", dense)
    nystrom = CG().preconditioner
    assert nystrom is not None
    basis = sketch(sizes, nystrom.rank)
    add(CG(hold_gram=True), "CG, DDᵀ held", held_gram(sizes) + basis, _assembly(gram, sizes.dtype)[0])
    add(CG(), "CG", basis + products(sizes, min(nystrom.batch_size, nystrom.rank, sizes.rows)))
    add(LSMR(), "LSMR", products(sizes, 1))
    memory = default_memory() if memory is None else memory
    choice = Auto(memory=memory).choose(jacobian, damping)
    said = said_of(jacobian.problem.blocks, sizes.rows, sizes.columns, sizes.dtype.itemsize)
    return LiftPlan(sizes.rows, sizes.columns, sizes.shards, memory, tuple(routes), choice, said)


def _assembly(gram: Gram, dtype: jnp.dtype) -> tuple[int, int]:
    """Bytes for the assembly of G, and for the factors that a lift keeps of it."""
    try:
        plan = gram.plan(dtype)
    except MemoryError:
        # Not even G and one sample fit; the matrices of this route already say so.
        return 0, 0
    return plan.bytes, plan.kept
