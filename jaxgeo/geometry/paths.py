"""Horizontal lifts of paths in output space: their end points, their lengths, and the holonomy of closed paths."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from jaxgeo._checks import as_real, check_count, check_function
from jaxgeo.linalg.lifting import check_output_velocity, check_solver
from jaxgeo.linalg.solvers import AbstractLiftSolver
from jaxgeo.outputs import Params
from jaxgeo.problem import Problem

Path = Callable[[Float[Array, ""]], Float[Array, "N Q"]]


class Segment(eqx.Module):
    """The straight path t ↦ t·v, t from 0 to 1.

    **Arguments:**

    - `velocity`: v, of shape (N, Q).
    """

    velocity: Float[Array, "N Q"] = eqx.field(converter=partial(as_real, "velocity"))

    def __call__(self, t: Float[Array, ""]) -> Float[Array, "N Q"]:
        return t * self.velocity


class Ellipse(eqx.Module):
    """The closed path t ↦ (cos 2πt − 1)v + sin 2πt w, t from 0 to 1, which encloses π v ∧ w.

    **Arguments:**

    - `first`, `second`: v and w, of shape (N, Q).

    **Raises:** `ValueError` if their shapes differ.
    """

    first: Float[Array, "N Q"] = eqx.field(converter=partial(as_real, "first"))
    second: Float[Array, "N Q"] = eqx.field(converter=partial(as_real, "second"))

    def __check_init__(self):
        if self.first.shape != self.second.shape:
            raise ValueError(f"`first` and `second` differ in shape: {self.first.shape} and {self.second.shape}.")

    def __call__(self, t: Float[Array, ""]) -> Float[Array, "N Q"]:
        angle = 2 * jnp.pi * t
        return (jnp.cos(angle) - 1) * self.first + jnp.sin(angle) * self.second


class LiftedPath(NamedTuple):
    """The horizontal lift of a path.

    - `params`: θ at its end.
    - `displacement`: θ at its end minus θ at its start, like the trainable parameters.
    - `length`: ∫ |θ̇| dt, its length in parameter space.
    - `chord`: |displacement|, never more than `length`.
    - `output_length`: ∫ |Dθ̇| dt, its length in output space and in `pullback_metric`.
    """

    params: Params
    displacement: PyTree
    length: Float[Array, ""]
    chord: Float[Array, ""]
    output_length: Float[Array, ""]


def lift_path(
    problem: Problem, params: Params, path: Path, *, num_steps: int = 32, solver: AbstractLiftSolver | None = None
) -> LiftedPath:
    """Follow θ̇ = D⁺γ̇(t) from `params` for t from 0 to 1: the shortest way for the outputs to follow γ.

    Paper: (2.33)

    Integrates by Dopri8 in steps of equal length. Where D has a rank below QN, the outputs follow 𝒫γ̇.

    **Arguments:**

    - `path`: γ, a function from t to output displacements of shape (N, Q), such as `Segment` or `Ellipse`.
    - `num_steps`: the number of steps.
    - `solver`: as for `jaxgeo.lift`.

    **Raises:** `ValueError` unless `path` returns displacements of shape (N, Q).

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: jnp.exp(a) * x, jnp.array([1.0]), jg.L2(jnp.zeros(1)))
    >>> lifted = jg.geometry.lift_path(problem, jnp.array(0.0), jg.geometry.Segment(jnp.array([[1.0]])))
    >>> round(float(jnp.exp(lifted.params)), 12), round(float(lifted.output_length), 12)
    (2.0, 1.0)

    ```
    """
    check_count("num_steps", num_steps)
    check_function("path", path)
    problem.check(params)
    outputs = eqx.filter_eval_shape(problem.outputs, params)
    found = eqx.filter_eval_shape(path, jax.ShapeDtypeStruct((), outputs.dtype))
    if jax.tree.map(jnp.shape, found) != outputs.shape:
        raise ValueError(f"`path` must give output displacements of shape {outputs.shape}; got {found!r}.")
    return _follow(problem, params, path, int(num_steps), check_solver(solver))


@eqx.filter_jit
def _follow(problem: Problem, params: Params, path: Path, num_steps: int, solver: AbstractLiftSolver) -> LiftedPath:
    problem, trainable = problem.restrict(params)
    dtype = jnp.result_type(*jax.tree.leaves(trainable))
    zero = jnp.zeros((), dtype)
    solution = dfx.diffeqsolve(
        dfx.ODETerm(_PathField(path, solver)),
        dfx.Dopri8(),
        t0=zero,
        t1=jnp.ones((), dtype),
        dt0=None,
        y0=(jax.tree.map(jnp.zeros_like, trainable), zero, zero),
        args=(problem, trainable),
        stepsize_controller=dfx.StepTo(ts=jnp.linspace(0, 1, num_steps + 1, dtype=dtype)),
        max_steps=num_steps + 1,
    )
    assert solution.ys is not None
    displacement, length, output_length = jax.tree.map(lambda leaf: leaf[0], solution.ys)
    _, end = problem.extend(jax.tree.map(jnp.add, trainable, displacement))
    return LiftedPath(end, displacement, length, optx.two_norm(displacement), output_length)


class _PathField(eqx.Module):
    """(θ̇, |θ̇|, |Dθ̇|) as a function of the displacement of θ, which keeps more digits than a large θ would."""

    path: Path
    solver: AbstractLiftSolver

    def __call__(self, t: Any, state: tuple, args: tuple[Problem, PyTree]) -> tuple:
        problem, start = args
        jacobian = problem.jacobian(jax.tree.map(jnp.add, start, state[0]))
        _, velocity = jax.jvp(self.path, (t,), (jnp.ones_like(t),))
        lifted, _ = self.solver.solve(jacobian, velocity)
        return lifted, optx.two_norm(lifted), jnp.linalg.norm(jacobian.mv(lifted))


def holonomy(
    problem: Problem,
    params: Params,
    first: ArrayLike,
    second: ArrayLike,
    *,
    num_steps: int = 32,
    solver: AbstractLiftSolver | None = None,
) -> PyTree:
    """The displacement in the fibre after the outputs have gone once around the ellipse of v and w.

    Paper: (2.33)

    The outputs return to where they started. For a small ellipse the displacement is π times `curvature`, the area
    times the curvature of the horizontal bundle, up to a term of third order in the size of the ellipse.

    **Arguments:**

    - `first`, `second`: v and w, the semi-axes, of shape (N, Q).
    - `num_steps`, `solver`: as for `lift_path`.

    **Returns:** a displacement like `params`.
    """
    first = check_output_velocity(problem, params, "first", first)
    second = check_output_velocity(problem, params, "second", second)
    lifted = lift_path(problem, params, Ellipse(first, second), num_steps=num_steps, solver=solver)
    return problem.jacobian(params).embed(lifted.displacement)
