"""Steps in the time in which the outputs move along a straight line at constant speed."""

from collections.abc import Callable
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo._fields import Checked, by
from jaxgeo.flows import AbstractFlow, InterpolationFlow
from jaxgeo.integrate.corrector import Start, start_of
from jaxgeo.integrate.field import Field
from jaxgeo.integrate.wrapped import SOLVER, AbstractSolverAround
from jaxgeo.linalg.lifting import check_lift_solver
from jaxgeo.linalg.planning.auto import Auto
from jaxgeo.linalg.solvers import AbstractLiftSolver
from jaxgeo.problem import Problem

Time = Any


def keeps_line(flow: AbstractFlow, num_rows: int, num_params: int) -> bool:
    """Whether x − y of an L2 cost falls as e^{-s/N} along the flow, as long as D keeps the rank that the flow requires.

    A flow that tolerates rank loss does so only while there is none, and counts as one that does not.
    """
    return flow.follows_law(num_rows, num_params) and flow.required_rank(num_rows, num_params) == num_rows


class StraightLine(Checked, AbstractSolverAround):
    """Wrap a diffrax solver so that it steps along the straight line from x(s₀) to y, in t = 1 − e^{-(s−s₀)/N}.

    Paper: (2.7)
    Reference: T. Chen, P. Muñoz Ewald, Gradient flow in parameter space is equivalent to linear interpolation in
    output space, 2024, arXiv 2408.01517

    Use it for long orbits: one to s/N = 30 takes few steps. Along the overparametrized flow of an L2 cost,
    ∂ₜθ = −D⁺(x(s₀) − y), with the same rows to lift all the way. In t the orbit is smooth and has length 1. In s an
    explicit solver cannot take steps longer than a few N, and follows e^{-s/N} only to its order. This form corrects no
    error of the outputs, so wrap it: `jaxgeo.OrbitCorrector(jaxgeo.integrate.StraightLine(diffrax.Tsit5()))`.

    **Arguments:**

    - `solver`: any diffrax solver, such as `diffrax.Tsit5()`.
    - `lift_solver`: how to lift, instead of the flow's solver; `jaxgeo.linalg.Auto()` by default.

    **Raises:** `ValueError` unless `solver` and `lift_solver` are solvers and the cost is an L2 cost. `solve_flow` also
    raises it unless the flow follows (2.7).

    ```python
    >>> import diffrax, jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: jnp.tanh(a @ x), jnp.eye(2), jg.L2(jnp.array([0.5, -0.5])))
    >>> solver = jg.OrbitCorrector(jg.integrate.StraightLine(diffrax.Tsit5()))
    >>> sol = jg.solve_flow(problem, jg.AdaptedFlow(), jnp.zeros(2), s1=10.0, solver=solver)
    >>> bool(abs(sol.defect).max() < 1e-11)
    True

    ```
    """

    solver: dfx.AbstractSolver = eqx.field(metadata=SOLVER)
    lift_solver: AbstractLiftSolver = eqx.field(default=Auto(), metadata=by(check_lift_solver))

    def __check_init__(self):
        if isinstance(self.solver, AbstractSolverAround):
            raise ValueError(
                f"`solver` must be an ODE solver that nothing is wrapped around; got `{type(self.solver).__name__}`. "
                "Wrap in the other order: `jaxgeo.OrbitCorrector(jaxgeo.integrate.StraightLine(diffrax.Tsit5()))`."
            )

    @property
    def stepper(self) -> dfx.AbstractSolver:
        return self.solver

    @property
    def interpolation_cls(self):
        return _Interpolate(self.solver.interpolation_cls)

    def init(self, terms, t0, t1, y0, args):
        del terms
        start = start_of("StraightLine", t0, y0, args)
        width = _Line(start, t0, args).way(t1)
        return self.solver.init(self._term(start), jnp.zeros_like(width), width, y0, args), start

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        del terms
        state, start = solver_state
        line = _Line(start, t0, args)
        width = line.way(t1)
        y1, error, dense_info, state, result = self.solver.step(
            self._term(start), jnp.zeros_like(width), width, y0, args, state, made_jump
        )
        return y1, error, {"along": dense_info, "line": line}, (state, start), result

    def _term(self, start: Start) -> dfx.ODETerm:
        return dfx.ODETerm(Field(InterpolationFlow(start.deviation, self.lift_solver)))


class _Line(eqx.Module):
    """How far along the line a step has come: 1 − e^{-(s−s₀)/N} in all at its start, where `left` is the rest."""

    t0: Float[Array, ""]
    left: Float[Array, ""]
    count: Float[Array, ""]

    def __init__(self, start: Start, t0: Time, problem: Problem):
        dtype = start.s.dtype
        self.t0, self.count = jnp.asarray(t0, dtype), jnp.asarray(problem.num_samples, dtype)
        self.left = jnp.exp((start.s - self.t0) / self.count)

    def way(self, s: Time) -> Float[Array, ""]:
        """The way from the start of the step to flow time `s`."""
        return -self.left * jnp.expm1((self.t0 - jnp.asarray(s, self.t0.dtype)) / self.count)


class LineInterpolation(dfx.AbstractLocalInterpolation):
    """The wrapped solver's interpolation, in flow time."""

    t0: Time
    t1: Time
    line: _Line
    along: dfx.AbstractLocalInterpolation

    def evaluate(self, t0: Time, t1: Time | None = None, left: bool = True) -> PyTree:
        if t1 is not None:
            return jax.tree.map(jnp.subtract, self.evaluate(t1, left=left), self.evaluate(t0, left=left))
        return self.along.evaluate(self.line.way(t0), left=left)


class _Interpolate(eqx.Module):
    """Makes a `LineInterpolation`, like a class makes its instances; makers that do the same are equal."""

    interpolation_cls: Callable[..., dfx.AbstractLocalInterpolation] = eqx.field(static=True)

    def __call__(self, *, t0: Time, t1: Time, along: dict[str, PyTree], line: _Line) -> LineInterpolation:
        width = line.way(t1)
        inner = self.interpolation_cls(t0=jnp.zeros_like(width), t1=width, **along)
        return LineInterpolation(t0, t1, line, inner)
