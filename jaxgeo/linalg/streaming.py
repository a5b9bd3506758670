"""The lift where not even the samples fit on the device: they come chunk by chunk, from wherever they are kept."""

from collections.abc import Iterable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo.linalg.precision import in_dtype
from jaxgeo.linalg.solvers import NormalCholesky
from jaxgeo.linalg.solvers.base import Damping
from jaxgeo.linalg.solvers.columns import Plus, normal_equations
from jaxgeo.linalg.solvers.sides import gram_dtype
from jaxgeo.problem import Params, Problem


def streamed_lift(
    chunks: Iterable[tuple[Problem, Float[Array, "n Q"]]],
    params: Params,
    solver: NormalCholesky | None = None,
    *,
    damping: Damping = None,
) -> PyTree:
    """(DᵀD)⁺Dᵀv, with DᵀD and Dᵀv summed over chunks of samples. For K < QN and samples beyond the device's memory.

    Paper: (5.2)

    Each chunk is a problem of some of the samples and their part of v; it is forgotten before the next is asked for,
    so the chunks may be made one by one from arrays on the host or from files. Memory is that of DᵀD and of one
    chunk. Chunks of one shape compile once. There is no second pass, and so no refinement: without damping the error is
    that of the normal equations, cond(D)²·eps in float64. Not for use under `jit`.

    **Arguments:**

    - `chunks`: problems of some of the samples, and the (n, Q) part of v that is theirs.
    - `params`: θ, the same for all chunks.
    - `solver`: its `chunk_size` says how many rows of D are held within a chunk.
    - `damping`: as for `jaxgeo.lift`, relative to trace(DDᵀ)/QN over all chunks.

    **Returns:** θ̇, like `params`, as `jaxgeo.lift` gives it for all samples at once.

    **Raises:** `ValueError` if there is no chunk.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> inputs, velocity = jnp.array([[1.0], [2.0], [3.0]]), jnp.array([[2.0], [4.0], [6.0]])
    >>> def chunks():
    ...     for x, v in zip(inputs, velocity):
    ...         yield jg.Problem(lambda slope, x: slope * x, x, jg.L2(jnp.zeros(1))), v[None]
    >>> round(float(jg.linalg.streamed_lift(chunks(), jnp.array(0.0))), 12)
    2.0

    ```
    """
    solver = NormalCholesky() if solver is None else solver
    normal, count, problem = None, 0, None
    for problem, velocity in chunks:
        found = _normal_equations(problem, params, velocity, solver, damping is not None)
        normal = found if normal is None else _plus(normal, found)
        count += velocity.size
    if normal is None or problem is None:
        raise ValueError("`chunks` is empty; pass at least one problem with its velocity.")
    return _solve(problem, params, normal, count, solver, damping)


@eqx.filter_jit
def _normal_equations(
    problem: Problem, params: Params, velocity: Float[Array, "n Q"], solver: NormalCholesky, damped: bool
) -> tuple[Array, Array]:
    jacobian = problem.jacobian(params)
    dtype = gram_dtype(jacobian, 0.0 if damped else None, solver.gram_dtype)
    return normal_equations(jacobian, velocity.reshape(jacobian.outputs.shape), dtype, solver.chunk_size)


@eqx.filter_jit
def _plus(total: tuple[Array, Array], found: tuple[Array, Array]) -> tuple[Array, Array]:
    return in_dtype(Plus(), total[0].dtype)(total, found)


@eqx.filter_jit
def _solve(
    problem: Problem,
    params: Params,
    normal: tuple[Array, Array],
    count: int,
    solver: NormalCholesky,
    damping: Damping,
) -> PyTree:
    jacobian = problem.jacobian(params)
    # λ in units of the mean eigenvalue of DᵀD: its trace is that of DDᵀ, over K in place of QN.
    shift = None
    if damping is not None:
        shift = jnp.asarray(damping, jacobian.outputs.dtype) * (jacobian.in_size() / count)
    return jacobian.embed(solver.solve_normal(jacobian, normal, shift)[1])
