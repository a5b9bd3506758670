"""Estimates of the spectrum of a DDᵀ too large to decompose: Lanczos' method on products with it, with error bars."""

from collections.abc import Callable
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from jaxgeo._checks import check_count
from jaxgeo.outputs import Params
from jaxgeo.problem import Problem

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number with the standard error of its mean over random probes.

    - `value`: the mean. `error`: its standard error.
    """

    value: float
    error: float


@dataclass(frozen=True)
class SpectrumEstimate:
    """What a few products with DDᵀ tell about its eigenvalues.

    - `num_rows`: QN. `num_params`: K.
    - `eigenvalues`: approximations of the largest eigenvalues, largest first. Up to round-off, none is above the true
        eigenvalue of the same index.
    - `errors`: for each of them, a distance within which there is certainly an eigenvalue, up to round-off.
    - `nodes`, `weights`: of shape (probes, steps): for each random probe z, |z|² = QN, a Gauss rule with
        zᵀf(DDᵀ)z ≈ Σ weights · f(nodes), exact for polynomials f of degree below 2·steps.
    """

    num_rows: int
    num_params: int
    eigenvalues: Floats
    errors: Floats
    nodes: Floats
    weights: Floats

    def sum_of(self, function: Callable[[Floats], Floats]) -> Estimate:
        """Σ f(λ) over all QN eigenvalues of DDᵀ, with its standard error.

        The error is that of the random probes. Unless f is a polynomial of low degree, the Gauss rules add a bias that
        falls with the number of steps, for instance if f counts the eigenvalues above a threshold.
        """
        samples = np.sum(self.weights * function(self.nodes), axis=1)
        error = np.std(samples, ddof=1) / np.sqrt(len(samples)) if len(samples) > 1 else np.inf
        return Estimate(float(np.mean(samples)), float(error))

    @property
    def effective_rank(self) -> Estimate:
        """(Σλ)² / Σλ², like `RankReport.effective_rank`, with its standard error to first order."""
        first = np.sum(self.weights * self.nodes, axis=1)
        second = np.sum(self.weights * self.nodes**2, axis=1)
        value = np.mean(first) ** 2 / np.mean(second)
        # The relative deviations of both sums. They are correlated: a probe with a large trace has large squares too.
        spread = value * (2 * first / np.mean(first) - second / np.mean(second))
        error = np.std(spread, ddof=1) / np.sqrt(len(spread)) if len(spread) > 1 else np.inf
        return Estimate(float(value), float(error))


def spectrum_estimate(
    problem: Problem, params: Params, *, num_steps: int = 60, num_probes: int = 8, seed: int = 0
) -> SpectrumEstimate:
    """Estimate the largest eigenvalues of DDᵀ and sums over all of them, from products with DDᵀ alone.

    Paper: (2.12), (4.1)

    Runs Lanczos' method from random signs and orthogonalises the basis twice in each step. Takes
    num_steps · num_probes JVPs and VJPs, and holds num_steps vectors of length QN.

    **Arguments:**

    - `num_steps`: the number of products for each probe, at most QN.
    - `num_probes`: the number of random probes, which the standard errors come from.
    - `seed`: the seed of the probes.

    **Raises:** `ValueError` if there is no step or no probe.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: a * x, jnp.diag(jnp.array([3.0, 2.0, 1.0])), jg.L2(jnp.zeros((3, 3))))
    >>> found = jg.geometry.spectrum_estimate(problem, jnp.ones(3))
    >>> found.eigenvalues[:3].round(9).tolist(), round(found.sum_of(lambda x: x).value, 9)
    ([9.0, 4.0, 1.0], 14.0)

    ```
    """
    check_count("num_steps", num_steps)
    check_count("num_probes", num_probes)
    problem.check(params)
    rows = problem.num_rows(params)
    keys = jax.random.split(jax.random.key(seed), num_probes)
    found = _run(problem, params, keys, min(num_steps, rows))
    eps = float(jnp.finfo(found[0].dtype).eps)
    diagonals, offs = (np.asarray(part, np.float64) for part in found)
    nodes, weights, best = [], [], None
    for diagonal, off in zip(diagonals, offs, strict=True):
        # The Krylov space is exhausted once the next vector is nothing but round-off.
        ended = np.flatnonzero(off <= 10 * eps * np.abs(diagonal).max())
        size = int(ended[0]) + 1 if len(ended) else len(diagonal)
        beside = off[: size - 1]
        values, vectors = np.linalg.eigh(np.diag(diagonal[:size]) + np.diag(beside, 1) + np.diag(beside, -1))
        pad = len(diagonal) - size
        nodes.append(np.pad(values[::-1], (0, pad)))
        weights.append(np.pad(rows * vectors[0, ::-1] ** 2, (0, pad)))
        bound = off[size - 1] * np.abs(vectors[-1, ::-1])
        if best is None or bound[0] < best[1][0]:
            best = values[::-1], bound
    assert best is not None
    return SpectrumEstimate(rows, problem.num_params(params), *best, np.array(nodes), np.array(weights))


@eqx.filter_jit
def _run(
    problem: Problem, params: Params, keys: Array, num_steps: int
) -> tuple[Float[Array, "probes steps"], Float[Array, "probes steps"]]:
    """The diagonal of the tridiagonal matrix, and the entries beside it, for each probe."""
    jacobian = problem.jacobian(params)
    shape, dtype = jacobian.outputs.shape, jacobian.outputs.dtype
    rows = jacobian.out_size()
    tiny = jnp.finfo(dtype).tiny

    def one(key: Array) -> tuple[Array, Array]:
        start = jax.random.rademacher(key, (rows,), dtype) / jnp.sqrt(jnp.asarray(rows, dtype))

        def step(state: tuple[Array, Array], count: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
            basis, vector = state
            basis = basis.at[count].set(vector)
            product = jacobian.mv(jacobian.T.mv(vector.reshape(shape))).reshape(-1)
            diagonal = product @ vector
            # Once would leave what cancellation lost; twice is enough.
            for _ in range(2):
                product = product - basis.T @ (basis @ product)
            off = jnp.linalg.norm(product)
            return (basis, product / jnp.maximum(off, tiny)), (diagonal, off)

        basis = jnp.zeros((num_steps, rows), dtype)
        _, found = jax.lax.scan(step, (basis, start), jnp.arange(num_steps))
        return found

    # One probe after another: all bases at once would take num_probes times the memory.
    return jax.lax.map(one, keys)
