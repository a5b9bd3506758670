"""Prepare an integration from its options: fill in defaults, and find out what the flow promises."""

import warnings

import diffrax as dfx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jaxgeo._checks import is_concrete
from jaxgeo.costs.squares import AbstractSquares
from jaxgeo.flows import AbstractLiftedFlow
from jaxgeo.integrate.controller import OutputController, default_rtol
from jaxgeo.integrate.corrector import OrbitCorrector
from jaxgeo.integrate.events import CostReached, Stalled
from jaxgeo.integrate.integration import Integration, check_cost, largest_output
from jaxgeo.integrate.line import StraightLine, keeps_line
from jaxgeo.integrate.options import Options
from jaxgeo.integrate.stops import Stops
from jaxgeo.integrate.times import Scalar
from jaxgeo.integrate.watch import Watch
from jaxgeo.linalg.rank import check_rank
from jaxgeo.problem import Problem


def prepare(options: Options, problem: Problem, trainable: PyTree, rank_check: bool) -> Integration:
    """The integration for a restricted problem.

    **Raises:** `ValueError` if the cost is not finite at the start, or if D does not have the rank that the flow needs.
    """
    flow = options.flow
    rows, size = problem.num_rows(trainable), problem.num_params(trainable)
    required = flow.required_rank(rows, size)
    check_cost(problem.cost(trainable))
    if rank_check and required is not None and is_concrete((trainable, problem)):
        check_rank(problem, trainable, required)
    law = flow.follows_law(rows, size) and isinstance(problem.loss, AbstractSquares)
    exact = law and keeps_line(flow, rows, size)
    solver = dfx.Tsit5() if options.solver is None else options.solver
    within = solver.solver if isinstance(solver, OrbitCorrector) else solver
    if isinstance(within, StraightLine) and not exact:
        raise ValueError(
            "`StraightLine` needs a flow along which x − y falls as e^(-s/N): `AdaptedFlow` with an L2 cost, K ≥ QN "
            f"and no damping; got {type(flow).__name__} with {type(problem.loss).__name__}, K={size} and QN={rows}. "
            "Integrate with the wrapped solver itself."
        )
    if isinstance(solver, OrbitCorrector) and not exact:
        warnings.warn(
            "`OrbitCorrector` corrects only what lies in range(D) along a flow that does not require rank(D) = QN. "
            "This is right if range(D) does not change along the orbit; if it turns, the corrected orbit is another "
            "curve to the same critical points.",
            stacklevel=3,
        )
    dtype = jnp.result_type(*jax.tree.leaves(trainable))
    rtol = default_rtol(dtype) if options.rtol is None else options.rtol
    controller = options.stepsize_controller
    if controller is None:
        controller = _output_controller(rtol, options.atol, problem, trainable)
    watch = _watch(options, solver, controller, law, required)
    return Integration(options, solver, watch, controller, _stops(options, rtol, dtype, exact), law)


def _output_controller(rtol: Scalar, atol: Scalar | None, problem: Problem, trainable: PyTree) -> OutputController:
    if atol is None:
        eps = float(jnp.finfo(jnp.result_type(*jax.tree.leaves(trainable))).eps)
        atol = eps * jnp.maximum(largest_output(problem, trainable), rtol)
    # If steps get this short, no step is good enough: the velocity is not finite, or it jumps.
    pid = dfx.PIDController(rtol, 0.0, dtmin=1e-10 * problem.num_samples, force_dtmin=False)
    return OutputController(rtol, atol, pid)


def _stops(options: Options, rtol: Scalar, dtype: jnp.dtype, exact: bool) -> Stops:
    if options.cost_tol is None:
        return Stops(options.events)
    # A velocity within the tolerance of a step counts as zero.
    stalled = None if exact else Stalled(options.flow, (10 * rtol) ** 2)
    return Stops(options.events, CostReached(jnp.asarray(options.cost_tol, dtype)), stalled)


def _watch(
    options: Options,
    solver: dfx.AbstractSolver,
    controller: dfx.AbstractStepSizeController,
    law: bool,
    required: int | None,
) -> Watch | None:
    """The solver, watched; None for a flow that lifts nothing and works for any D."""
    strict = required is not None
    if not (strict or law or isinstance(options.flow, AbstractLiftedFlow)):
        return None
    adaptive = isinstance(controller, dfx.AbstractAdaptiveStepSizeController)
    while isinstance(controller, dfx.ClipStepSizeController):
        controller = controller.controller
    known = (controller.rtol, controller.atol) if isinstance(controller, OutputController) else None
    # A flow that continues after losing rank no longer follows the law.
    return Watch(solver, law and strict, strict, adaptive, known)
