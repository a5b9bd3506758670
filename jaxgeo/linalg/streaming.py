"""The lift if not even the samples fit on the device: they arrive chunk by chunk, from wherever they are stored."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from jaxgeo._checks import as_real
from jaxgeo.linalg.gram.gram import Gram
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.precision import in_dtype, without_tf32
from jaxgeo.linalg.solvers import CG, NormalCholesky
from jaxgeo.linalg.solvers.base import Damping, check_damping
from jaxgeo.linalg.solvers.normal_cholesky import add_trees, normal_equations
from jaxgeo.linalg.solvers.nystrom import NystromInverse
from jaxgeo.linalg.solvers.sides import gram_dtype
from jaxgeo.outputs import AbstractProblem, Params

Chunks = Iterable[tuple[AbstractProblem, Float[ArrayLike, "_ _"]]]


def streamed_lift(
    chunks: Chunks | Callable[[], Chunks],
    params: Params,
    solver: NormalCholesky | CG | None = None,
    *,
    damping: Damping = None,
) -> PyTree:
    """(DᵀD)⁺Dᵀv, for samples beyond the device's memory.

    Paper: (5.2)

    Each chunk is a problem with some of the samples, and their part of v. It is dropped before the next one is
    requested, so chunks may be made one by one from arrays on the host or from files. Chunks of one shape compile once.
    Not for use under `jit`.

    `NormalCholesky` passes over the chunks once and holds DᵀD, so use it for K < QN. It does not refine: without
    damping the error is that of the normal equations, cond(D)²·eps in float64. `CG` only holds vectors of K numbers,
    2·rank of them for its preconditioner, for any QN and K. It iterates on DᵀD + λ, with one pass over the chunks for
    each step and one for the preconditioner, until the residual of the normal equations is `rtol` of Dᵀv. Between
    passes it is on the host, so it can be interrupted.

    **Arguments:**

    - `chunks`: pairs of a problem with some of the samples and their part of v, of shape (n, Q). For `CG` pass a
        sequence of pairs, or a function that starts a pass over them.
    - `params`: θ, the same for all chunks.
    - `solver`: `NormalCholesky()` by default; its `chunk_size` says how many rows of D are held within a chunk. `CG`
        ignores `hold_gram` here.
    - `damping`: as for `jaxgeo.lift`, relative to trace(DDᵀ)/QN over all chunks.

    **Returns:** θ̇, like `params`, equal to `jaxgeo.lift` for all samples at once.

    **Raises:** `ValueError` if there is no chunk, if a chunk is not a pair of a problem and its velocity, or if `CG`
    gets an iterator, which one pass uses up. `TypeError` for another solver. Warns if `CG` takes `max_steps` steps.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> inputs, velocity = jnp.array([[1.0], [2.0], [3.0]]), jnp.array([[2.0], [4.0], [6.0]])
    >>> def chunks():
    ...     for x, v in zip(inputs, velocity):
    ...         yield jg.Problem(lambda slope, x: slope * x, x, jg.L2(jnp.zeros(1))), v[None]
    >>> round(float(jg.linalg.streamed_lift(chunks(), jnp.array(0.0))), 12)
    2.0
    >>> round(float(jg.linalg.streamed_lift(chunks, jnp.array(0.0), jg.linalg.CG())), 6)
    2.0

    ```
    """
    solver = NormalCholesky() if solver is None else solver
    check_damping(damping)
    if isinstance(solver, CG):
        return _by_conjugate_gradients(chunks, params, solver, damping)
    if not isinstance(solver, NormalCholesky):
        raise TypeError(f"`solver` must be `NormalCholesky` or `CG`, which do not hold D; got {solver}.")

    def terms(problem: AbstractProblem, velocity: Float[Array, "..."]) -> tuple[Array, Array]:
        return _normal_equations(problem, params, velocity, solver, damping is not None)

    normal, count, problem = _summed(chunks, params, terms)
    return _solve(problem, params, normal, count, solver, damping)


def _pass(chunks: Chunks | Callable[[], Chunks]) -> Iterator[tuple[AbstractProblem, ArrayLike]]:
    """The chunks one by one; raises `ValueError` for anything that is not a chunk."""
    started = chunks() if callable(chunks) else chunks
    try:
        one_by_one = iter(started)
    except TypeError:
        raise ValueError(
            "`chunks` must be pairs of a problem and its velocity, one after another, or a function that starts a pass "
            f"over them; got {'a function that returns ' if callable(chunks) else ''}{type(started).__name__}."
        ) from None
    for index, chunk in enumerate(one_by_one):
        if not isinstance(chunk, tuple | list) or len(chunk) != 2 or not isinstance(chunk[0], AbstractProblem):
            raise ValueError(
                f"`chunks[{index}]` must be a pair of a `jaxgeo.Problem` and its velocity; got {type(chunk).__name__}."
            )
        yield chunk[0], chunk[1]


def _summed(
    chunks: Chunks | Callable[[], Chunks],
    params: Params,
    terms: Callable[[AbstractProblem, Float[Array, "..."]], tuple[Array, Array]],
) -> tuple[tuple[Array, Array], int, AbstractProblem]:
    """The first pass, which also checks the chunks: the sum of `terms`, the number of rows, a chunk's problem."""
    total, count, problem = None, 0, None
    for index, (problem, velocity) in enumerate(_pass(chunks)):
        if index == 0:
            problem.check(params)
        found = terms(problem, as_real(f"chunks[{index}][1]", velocity))
        total = found if total is None else _plus(total, found)
        count += jnp.size(velocity)
    if total is None or problem is None:
        raise ValueError("`chunks` is empty; pass at least one problem with its velocity.")
    return total, count, problem


def _rows(velocity: Float[Array, "..."], outputs: Float[Array, "n Q"]) -> Float[Array, "n Q"]:
    """The velocity in the dtype of the outputs; raises `ValueError` unless it has their shape."""
    if velocity.shape != outputs.shape:
        raise ValueError(f"`chunks` has a velocity of shape {velocity.shape} for outputs of shape {outputs.shape}.")
    return velocity.astype(outputs.dtype)


@eqx.filter_jit
def _normal_equations(
    problem: AbstractProblem, params: Params, velocity: Float[Array, "..."], solver: NormalCholesky, damped: bool
) -> tuple[Array, Array]:
    jacobian = Jacobian(problem, params)
    dtype = gram_dtype(jacobian, 0.0 if damped else None, solver.dtype)
    return normal_equations(jacobian, _rows(velocity, jacobian.outputs), dtype, solver.chunk_size)


@eqx.filter_jit
def _plus(total: tuple[Array, Array], found: tuple[Array, Array]) -> tuple[Array, Array]:
    return in_dtype(add_trees, total[0].dtype)(total, found)


@eqx.filter_jit
def _solve(
    problem: AbstractProblem,
    params: Params,
    normal: tuple[Array, Array],
    count: int,
    solver: NormalCholesky,
    damping: Damping,
) -> PyTree:
    jacobian = Jacobian(problem, params)
    # λ in units of the mean eigenvalue of DᵀD, whose trace is that of DDᵀ, but over K instead of QN.
    relative_damping = None
    if damping is not None:
        relative_damping = jnp.asarray(damping, jacobian.outputs.dtype) * (jacobian.in_size() / count)
    return jacobian.embed(solver.solve_normal(jacobian, normal, relative_damping)[1])


def _by_conjugate_gradients(
    chunks: Chunks | Callable[[], Chunks], params: Params, solver: CG, damping: Damping
) -> PyTree:
    if isinstance(chunks, Iterator):
        raise ValueError(
            f"`chunks` is {chunks!r}, which allows only one pass, but `CG` needs a pass for each step; pass a "
            "sequence, or the function that makes the iterator."
        )

    def terms(problem: AbstractProblem, velocity: Float[Array, "..."]) -> tuple[Array, Array]:
        return _image_and_trace(problem, params, velocity, damping is not None)

    (image, trace), count, problem = _summed(chunks, params, terms)

    def product(vectors: Float[Array, "m K"]) -> Float[Array, "m K"]:
        total = jnp.zeros_like(vectors)
        for problem, _ in _pass(chunks):
            total = _add_products(total, problem, params, vectors)
        return total

    absolute = jnp.zeros((), image.dtype) if damping is None else jnp.asarray(damping, image.dtype) * trace / count
    preconditioner = None
    if solver.preconditioner is not None:
        test = solver.preconditioner.test(image.size, image.dtype)
        preconditioner = solver.preconditioner.from_sketch(test, product(test.T).T, absolute)
    state = _start(image, preconditioner)
    steps, size = 0, jnp.linalg.norm(image)
    while (left := jnp.linalg.norm(state.residual)) > solver.rtol * size:
        if steps == solver.max_steps:
            warnings.warn(
                f"the residual is {float(left / size):.1e} of Dᵀv after `max_steps` = {steps} steps, not "
                f"{solver.rtol:.1e}; use more steps, more damping, or a preconditioner of higher rank.",
                stacklevel=3,
            )
            break
        state = _step(state, product(state.direction[None])[0], absolute, preconditioner)
        steps += 1
    return _embed(problem, params, state.value)


class _State(NamedTuple):
    """The state of conjugate gradients between two passes."""

    value: Float[Array, " K"]
    residual: Float[Array, " K"]
    direction: Float[Array, " K"]
    # Residual times preconditioned residual.
    alignment: Float[Array, ""]


@eqx.filter_jit
@without_tf32
def _start(image: Float[Array, " K"], preconditioner: NystromInverse | None) -> _State:
    direction = image if preconditioner is None else preconditioner(image)
    return _State(jnp.zeros_like(image), image, direction, image @ direction)


@eqx.filter_jit
@without_tf32
def _step(
    state: _State, product: Float[Array, " K"], damping: Float[Array, ""], preconditioner: NystromInverse | None
) -> _State:
    product = product + damping * state.direction
    length = state.alignment / (state.direction @ product)
    residual = state.residual - length * product
    turned = residual if preconditioner is None else preconditioner(residual)
    alignment = residual @ turned
    value = state.value + length * state.direction
    return _State(value, residual, turned + alignment / state.alignment * state.direction, alignment)


@eqx.filter_jit
def _image_and_trace(
    problem: AbstractProblem, params: Params, velocity: Float[Array, "..."], traced: bool
) -> tuple[Float[Array, " K"], Float[Array, ""]]:
    """Dᵀv, and the trace of DDᵀ if `traced`."""
    jacobian = Jacobian(problem, params)
    image = ravel_pytree(jacobian.T.mv(_rows(velocity, jacobian.outputs)))[0]
    return image, Gram(jacobian).trace() if traced else jnp.zeros((), image.dtype)


@eqx.filter_jit
def _add_products(
    total: Float[Array, "m K"], problem: AbstractProblem, params: Params, vectors: Float[Array, "m K"]
) -> Float[Array, "m K"]:
    """`total` + DᵀD times each of the vectors, one after another."""
    jacobian = Jacobian(problem, params)

    def product(vector: Float[Array, " K"]) -> Float[Array, " K"]:
        return ravel_pytree(jacobian.T.mv(jacobian.mv(jacobian.unravel(vector))))[0]

    return total + jax.lax.map(product, vectors)


@eqx.filter_jit
def _embed(problem: AbstractProblem, params: Params, value: Float[Array, " K"]) -> PyTree:
    jacobian = Jacobian(problem, params)
    return jacobian.embed(jacobian.unravel(value))
