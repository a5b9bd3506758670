"""Keep orbits on the law of the outputs, by a correction after each step."""

from collections.abc import Callable
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo import theory
from jaxgeo._fields import Checked, by
from jaxgeo.costs.squares import AbstractSquares
from jaxgeo.integrate.field import Measured, trainable_of
from jaxgeo.integrate.wrapped import SOLVER, AbstractSolverAround
from jaxgeo.linalg.lifting import check_lift_solver
from jaxgeo.linalg.planning.auto import Auto
from jaxgeo.linalg.solvers import AbstractLiftSolver
from jaxgeo.problem import Problem

Time = Any


class Start(eqx.Module):
    """Where an orbit started: the time s₀, and the deviation x(s₀) − y at that time."""

    s: Float[Array, ""]
    deviation: Float[Array, "N Q"]


def start_of(name: str, s: Time, state: PyTree, problem: Problem) -> Start:
    """The start of the orbit through `state` at time `s`.

    **Raises:** `ValueError`, which names the solver, unless the cost is L2.
    """
    if not isinstance(problem.loss, AbstractSquares):
        raise ValueError(
            f"`{name}` needs an L2 cost, whose orbits are known in the outputs; got {type(problem.loss).__name__}. "
            "Integrate with the wrapped solver itself."
        )
    outputs = problem.outputs(trainable_of(state))
    return Start(jnp.asarray(s, outputs.dtype), problem.loss.deviation(outputs))


class OrbitCorrector(Checked, AbstractSolverAround):
    """Wrap a diffrax solver so that each step is followed by one lift of x_exact(s) − x[θ].

    Paper: (2.7)

    Use it to keep the outputs on their law to round-off, at the price of one more lift per step, rejected steps
    included. Along the overparametrized flow of an L2 cost the QN quantities e^{s/N}(x − y) are constant, so x_exact(s)
    is known. The lift moves the outputs back to it by the shortest way: down to round-off, if the error of the step was
    below the square root of round-off. The error estimate is that of the wrapped solver, so steps are as long as
    without correction, and dense output passes through the corrected points.

    The lift reaches range(D) only, so it corrects only that part if D is rank-deficient or K < QN. This is right if
    range(D) stays the same along the orbit (outputs linear in θ, samples that occur twice). If range(D) turns,
    (1 − 𝒫)(x − y) leaks into it, and the quantities in it are no longer constant. The corrected orbit is then another
    curve to the same critical points: the points of the image nearest to x_exact(s). `solve_flow` warns about this.

    **Arguments:**

    - `solver`: any diffrax solver, such as `diffrax.Tsit5()`.
    - `lift_solver`: how to lift; `jaxgeo.linalg.Auto()` by default.

    **Raises:** `ValueError` unless `solver` and `lift_solver` are solvers, and unless the cost is an L2 cost.

    ```python
    >>> import diffrax, jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: jnp.tanh(a @ x), jnp.eye(2), jg.L2(jnp.array([0.5, -0.5])))
    >>> solver = jg.OrbitCorrector(diffrax.Tsit5())
    >>> sol = jg.solve_flow(problem, jg.AdaptedFlow(), jnp.zeros(2), s1=10.0, solver=solver)
    >>> bool(abs(sol.defect).max() < 1e-11)
    True

    ```
    """

    solver: dfx.AbstractSolver = eqx.field(metadata=SOLVER)
    lift_solver: AbstractLiftSolver = eqx.field(default=Auto(), metadata=by(check_lift_solver))

    @property
    def stepper(self) -> dfx.AbstractSolver:
        return self.solver

    @property
    def interpolation_cls(self):
        return _Interpolate(self.solver.interpolation_cls)

    def init(self, terms, t0, t1, y0, args):
        return self.solver.init(terms, t0, t1, y0, args), self.start(t0, y0, args)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        state, start = solver_state
        y1, error, dense_info, state, result = self.solver.step(terms, t0, t1, y0, args, state, made_jump)
        change = self.change(start, t1, y1, args)
        y1 = jax.tree.map(jnp.add, y1, change)
        return y1, error, {"uncorrected": dense_info, "change": change}, (state, start), result

    def start(self, s: Time, state: PyTree, problem: Problem) -> Start:
        """The orbit through `state` at time `s`."""
        return start_of("OrbitCorrector", s, state, problem)

    # Traced once, as `Field`.
    @eqx.filter_jit
    def change(self, start: Start, s: Time, state: PyTree, problem: Problem) -> PyTree:
        """D⁺(x_exact(s) − x[θ]), to be added to `state`; zero for the path lengths."""
        jacobian = problem.jacobian(trainable_of(state))
        # Deviations from y have more digits than outputs near the end of an orbit, where they are small.
        elapsed = jnp.asarray(s, start.s.dtype) - start.s
        wanted = theory.outputs_at(elapsed, start.deviation, jnp.zeros_like(start.deviation), problem.num_samples)
        change, _ = self.lift_solver.solve(jacobian, wanted - problem.loss.deviation(jacobian.outputs))
        change = jacobian.embed(change)
        return Measured(change, jax.tree.map(jnp.zeros_like, state.lengths)) if isinstance(state, Measured) else change


class CorrectedInterpolation(dfx.AbstractLocalInterpolation):
    """The wrapped solver's interpolation, plus the change at the end of the step, spread over it by a cubic."""

    t0: Time
    t1: Time
    uncorrected: dfx.AbstractLocalInterpolation
    change: PyTree

    def evaluate(self, t0: Time, t1: Time | None = None, left: bool = True) -> PyTree:
        if t1 is not None:
            return jax.tree.map(jnp.subtract, self.evaluate(t1, left=left), self.evaluate(t0, left=left))
        share = (t0 - self.t0) / (self.t1 - self.t0)
        weight = share**2 * (3 - 2 * share)
        return jax.tree.map(
            lambda leaf, change: leaf + jnp.asarray(weight, change.dtype) * change,
            self.uncorrected.evaluate(t0, left=left),
            self.change,
        )


class _Interpolate(eqx.Module):
    """Makes a `CorrectedInterpolation`, like a class makes its instances; makers that do the same are equal."""

    interpolation_cls: Callable[..., dfx.AbstractLocalInterpolation] = eqx.field(static=True)

    def __call__(self, *, t0: Time, t1: Time, uncorrected: dict[str, PyTree], change: PyTree) -> CorrectedInterpolation:
        return CorrectedInterpolation(t0, t1, self.interpolation_cls(t0=t0, t1=t1, **uncorrected), change)
