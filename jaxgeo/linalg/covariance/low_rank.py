"""The covariance by the leading directions of D, where there are too many rows and too many columns for either."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from jaxgeo.linalg.covariance.base import AbstractCovariance, as_double, in_double
from jaxgeo.linalg.covariance.columns import of_dense_rows
from jaxgeo.linalg.covariance.rows import GRADIENTS, Pull
from jaxgeo.linalg.covariance.weighting import RowRoot
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.outputs import AbstractProblem, Block, Params

# Random directions that estimate what a sketch leaves out.
PROBES = 8


class Sketch:
    """LD ≈ QB with orthonormal columns in Q and B = QᵀLD, from products with D alone.

    Reference: N. Halko, P. G. Martinsson, J. A. Tropp, Finding structure with randomness, SIAM Review 53, 2011

    - `basis`: Q; `rows`: B.
    """

    basis: Float[np.ndarray, "rows rank"]
    rows: Float[np.ndarray, "rank K"]

    def __init__(
        self,
        problem: AbstractProblem,
        params: Params,
        root: RowRoot,
        rank: int,
        known: "Sketch | None" = None,
        deviations: Float[np.ndarray, " K"] | None = None,
    ):
        """**Arguments:**

        - `root`: L.
        - `rank`: the number of directions.
        - `known`: a sketch with fewer directions, which become more accurate here.
        - `deviations`: the prior deviation of each parameter, in which new directions are drawn; by default 1.
        """
        self._at, self._root, self._random = (problem, params), root, np.random.default_rng(rank)
        columns = problem.num_params(params)
        drawn = self._random.normal(size=(rank - (0 if known is None else len(known.rows)), columns))
        if deviations is not None:
            drawn *= deviations
        if known is not None:
            drawn = np.concatenate([np.linalg.qr(known.rows.T)[0].T, drawn])
        self.basis = np.linalg.qr(self._push(drawn))[0]
        found = _pull(self._at, self._like(root.transposed(self.basis.T)))
        self.rows = np.asarray(found, np.float64)

    def missed(self, precisions: Float[np.ndarray, " K"], beta: float) -> float:
        """An estimate of β tr (LD − QB)A⁻¹(LD − QB)ᵀ: by at most so much γ is larger than QB says.

        **Arguments:**

        - `precisions`: the diagonal of A; `beta`: the precision of a row of weight 1.
        """
        seen = self._push(self._random.normal(size=(PROBES, len(precisions))) / np.sqrt(precisions))
        rest = seen - self.basis @ (self.basis.T @ seen)
        return float(beta * np.sum(rest**2) / PROBES)

    def _push(self, directions: Float[np.ndarray, "m K"]) -> Float[np.ndarray, "rows m"]:
        """LD times some directions."""
        found = _push(self._at, self._like(directions))
        return self._root(np.asarray(found, np.float64).T)

    def _like(self, vectors: np.ndarray) -> Array:
        problem, params = self._at
        return jnp.asarray(vectors, jnp.result_type(*jax.tree.leaves(problem.partition(params)[0])))


class LowRankCovariance(AbstractCovariance):
    """Σ = A⁻¹ − SᵀS, in which directions that the sketch leaves out keep the variance of the prior.

    - `prior`: the prior variance of each parameter.
    - `seen`: S = WBA⁻¹, with WᵀW = β(1 + βBA⁻¹Bᵀ)⁻¹.
    """

    problem: AbstractProblem
    params: Params
    prior: Float[Array, " K"]
    seen: Float[Array, "rank K"]

    def variances(self) -> Float[np.ndarray, " K"]:
        return np.maximum(np.asarray(self.prior) - np.sum(np.asarray(self.seen) ** 2, axis=0), 0)

    def part(self, index: Int[np.ndarray, " k"]) -> Float[np.ndarray, "k k"]:
        seen = np.asarray(self.seen)[:, index]
        return np.diag(np.asarray(self.prior)[index]) - seen.T @ seen

    def of_outputs(
        self, apply: Callable[[PyTree, PyTree], Array], inputs: PyTree, contrasts: bool
    ) -> Float[Array, "M Q Q"]:
        def remaining(rows: Array) -> Array:
            return in_double(_Remaining(contrasts), rows.dtype, rows, self.prior, self.seen)

        return of_dense_rows(self.problem, self.params, Block(apply, inputs), remaining)


class _Remaining(eqx.Module):
    """jA⁻¹jᵀ − |Sjᵀ|², computed in one dtype and returned in another."""

    contrasts: bool = eqx.field(static=True)

    def __call__(self, dtype: jnp.dtype, out: jnp.dtype) -> Callable[..., Array]:
        def run(rows: Array, prior: Array, seen: Array) -> Array:
            rows = rows.astype(dtype)
            if self.contrasts:
                rows = rows - jnp.mean(rows, axis=1, keepdims=True)
            with jax.default_matmul_precision("highest"):
                own = jnp.einsum("mqk,mpk->mqp", rows * prior.astype(dtype)[None, None], rows)
                known = rows @ seen.astype(dtype).T
                return (own - jnp.einsum("mqr,mpr->mqp", known, known)).astype(out)

        return run


def low_rank_covariance(
    problem: AbstractProblem,
    params: Params,
    found: Sketch,
    precisions: Float[np.ndarray, " K"],
    whitener: Float[np.ndarray, "rank rank"],
) -> LowRankCovariance:
    """**Arguments:**

    - `precisions`: the diagonal of A.
    - `whitener`: W, with WᵀW = β(1 + βBA⁻¹Bᵀ)⁻¹.
    """
    seen = whitener @ (found.rows / precisions)
    return LowRankCovariance(problem, params, as_double(1 / precisions), as_double(seen))


@eqx.filter_jit
def _push(at: tuple[AbstractProblem, Params], directions: Float[Array, "m K"]) -> Float[Array, "m QN"]:
    with jax.default_matmul_precision("highest"):
        jacobian = Jacobian(*at)
        return jax.lax.map(
            lambda direction: jacobian.mv(jacobian.unravel(direction)).reshape(-1), directions, batch_size=GRADIENTS
        )


@eqx.filter_jit
def _pull(at: tuple[AbstractProblem, Params], rows: Float[Array, "m QN"]) -> Float[Array, "m K"]:
    return jax.lax.map(Pull(Jacobian(*at)), rows, batch_size=GRADIENTS)
