"""The covariance by the rows of D, for many parameters with a prior: from DDᵀ and its blocks with new inputs."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

from jaxgeo.linalg.covariance.base import (
    DOUBLE,
    AbstractCovariance,
    AbstractInformation,
    Determined,
    as_double,
    in_double,
    of_spectrum,
)
from jaxgeo.linalg.covariance.columns import in_chunks
from jaxgeo.linalg.covariance.cross import Cross, Products
from jaxgeo.linalg.covariance.weighting import RowRoot
from jaxgeo.linalg.gram.gram import Gram
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.outputs import AbstractProblem, Params
from jaxgeo.prior import with_trainable

# How many gradients to compute at a time, for single columns of D.
GRADIENTS = 8


def group_grams(
    problem: AbstractProblem, params: Params, masks: tuple[PyTree, ...], root: RowRoot, memory: int | None
) -> list[Float[np.ndarray, "rows rows"]]:
    """LDDᵀLᵀ for each group, with D by the leaves of this group alone."""
    return [
        root.both_sides(np.asarray(_gram(with_trainable(problem, mask), params, memory), np.float64)) for mask in masks
    ]


@eqx.filter_jit
def _gram(problem: AbstractProblem, params: Params, memory: int | None) -> Float[Array, "QN QN"]:
    return Gram(Jacobian(problem, params), memory=memory).as_matrix(DOUBLE)


class RowInformation(AbstractInformation):
    """What DDᵀ of each group says about the group."""

    def __init__(self, grams: list[Float[np.ndarray, "rows rows"]]):
        self.grams = grams
        self.values = np.maximum(np.linalg.eigvalsh(grams[0]), 0) if len(grams) == 1 else None

    @property
    def size(self) -> float:
        return float(sum(np.trace(gram) for gram in self.grams))

    def determined(self, precisions: Float[np.ndarray, " groups"], beta: float) -> Determined:
        if self.values is not None:
            return of_spectrum(beta * self.values / precisions[0])
        inverse, logdet = self._inverse_root(precisions, beta)
        parts = [beta / alpha * inverse @ gram @ inverse.T for gram, alpha in zip(self.grams, precisions, strict=True)]
        products = np.array([[np.vdot(one, other) for other in parts] for one in parts])
        return Determined(np.array([np.trace(part) for part in parts]), products, logdet)

    def whitener(self, precisions: Float[np.ndarray, " groups"], beta: float) -> Float[np.ndarray, "rows rows"]:
        """W with WᵀW = β(1 + βLDA⁻¹DᵀLᵀ)⁻¹."""
        return np.sqrt(beta) * self._inverse_root(precisions, beta)[0]

    def _inverse_root(self, precisions: np.ndarray, beta: float) -> tuple[np.ndarray, float]:
        """V with VᵀV = (1 + βLDA⁻¹DᵀLᵀ)⁻¹, and log det of that matrix."""
        matrix = np.eye(len(self.grams[0]))
        for gram, alpha in zip(self.grams, precisions, strict=True):
            matrix += beta / alpha * gram
        try:
            lower = np.linalg.cholesky(matrix)
        except np.linalg.LinAlgError:
            # The noise is so small that it is below the round-off of DDᵀ.
            values, vectors = np.linalg.eigh(matrix)
            values = np.maximum(values, 1)
            return vectors.T / np.sqrt(values)[:, None], float(np.sum(np.log(values)))
        inverse = np.linalg.inv(lower)
        return inverse, 2 * float(np.sum(np.log(np.diag(lower))))


class RowCovariance(AbstractCovariance):
    """Σ = A⁻¹ − A⁻¹DᵀWᵀWDA⁻¹, exact for any K, and never formed.

    - `masks`: which leaves are in each group; `spreads`: their prior variances 1/α.
    - `prior`: the prior variance of each parameter.
    - `whitener`: W, with L in it.
    """

    problem: AbstractProblem
    params: Params
    masks: tuple[PyTree, ...]
    spreads: Float[Array, " groups"]
    prior: Float[Array, " K"]
    whitener: Float[Array, "rows QN"]

    def variances(self) -> Float[np.ndarray, " K"]:
        prior = np.asarray(self.prior)
        known = np.asarray(_column_squares((self.problem, self.params), self._own_whitener()), np.float64)
        return prior * np.clip(1 - prior * known, 0, 1)

    def part(self, index: Int[np.ndarray, " k"]) -> Float[np.ndarray, "k k"]:
        prior = np.asarray(self.prior)[index]
        columns = _columns((self.problem, self.params), self._own_whitener(), jnp.asarray(index))
        seen = np.asarray(columns, np.float64) * prior
        return np.diag(prior) - seen.T @ seen

    def _own_whitener(self) -> Float[Array, "rows QN"]:
        """W in the dtype of the parameters, for products with D."""
        dtype = jnp.result_type(*jax.tree.leaves(self.problem.partition(self.params)[0]))
        return jnp.asarray(np.asarray(self.whitener), dtype)

    def of_outputs(
        self, apply: Callable[[PyTree, PyTree], Array], inputs: PyTree, contrasts: bool
    ) -> Float[Array, "M Q Q"]:
        crosses = self._crosses(apply, inputs)
        products = tuple(cross.products for cross in crosses)
        dtype = jnp.result_type(*jax.tree.leaves(self.problem.partition(self.params)[0]))

        def blocks(inputs: PyTree) -> Array:
            known = [(cross.factors(inputs), cross.old) for cross in crosses]
            arrays, static = eqx.partition(known, eqx.is_array)
            return in_double(_Remaining(products, static, contrasts), dtype, arrays, self.whitener, self.spreads)

        return in_chunks(blocks, jax.tree.map(jnp.asarray, inputs), crosses[0].size)

    def _crosses(self, apply: Callable[[PyTree, PyTree], Array], inputs: PyTree) -> list[Cross]:
        """A `Cross` for each group, all with chunks of one size."""
        problems = [with_trainable(self.problem, mask) for mask in self.masks]
        found = [Cross(problem, self.params, apply, inputs) for problem in problems]
        size = min(cross.size for cross in found)
        return [
            cross if cross.size == size else Cross(problem, self.params, apply, inputs, size)
            for cross, problem in zip(found, problems, strict=True)
        ]


class _Remaining(eqx.Module):
    """jA⁻¹jᵀ − |W DA⁻¹jᵀ|², computed in one dtype and returned in another."""

    products: tuple[Products, ...]
    static: PyTree
    contrasts: bool = eqx.field(static=True)

    def __call__(self, dtype: jnp.dtype, out: jnp.dtype) -> Callable[..., Array]:
        def run(arrays: PyTree, whitener: Array, spreads: Array) -> Array:
            known = eqx.combine(arrays, self.static)
            whitener, spreads = whitener.astype(dtype), spreads.astype(dtype)
            with jax.default_matmul_precision("highest"):
                found = [one(new, old, dtype) for one, (new, old) in zip(self.products, known, strict=True)]
                between = jnp.stack([each for each, _ in found], axis=-1) @ spreads
                own = jnp.stack([each for _, each in found], axis=-1) @ spreads
                seen = between @ whitener.T
                left = own - jnp.einsum("mqr,mpr->mqp", seen, seen)
            if self.contrasts:
                left = left - jnp.mean(left, axis=1, keepdims=True)
                left = left - jnp.mean(left, axis=2, keepdims=True)
            return left.astype(out)

        return run


@eqx.filter_jit
def _column_squares(
    jacobian_at: tuple[AbstractProblem, Params], whitener: Float[Array, "rows QN"]
) -> Float[Array, " K"]:
    """|WDe_k|² for each parameter, from as many gradients as W has rows."""
    pull = Pull(Jacobian(*jacobian_at))
    short = -len(whitener) % GRADIENTS
    chunks = jnp.pad(whitener, ((0, short), (0, 0))).reshape(-1, GRADIENTS, whitener.shape[1])

    def add(total: Array, rows: Array) -> tuple[Array, None]:
        return total + jnp.sum(jax.vmap(pull)(rows) ** 2, axis=0), None

    zero = jnp.zeros(pull.jacobian.in_size(), whitener.dtype)
    return jax.lax.scan(add, zero, chunks)[0]


@eqx.filter_jit
def _columns(
    jacobian_at: tuple[AbstractProblem, Params], whitener: Float[Array, "rows QN"], index: Int[Array, " k"]
) -> Float[Array, "rows k"]:
    """Some columns of WD."""
    pull = Pull(Jacobian(*jacobian_at))
    return jax.lax.map(lambda row: pull(row)[index], whitener, batch_size=GRADIENTS)


class Pull(eqx.Module):
    """A row of output space → its gradient by the parameters, as a vector."""

    jacobian: Jacobian

    def __call__(self, row: Float[Array, " QN"]) -> Float[Array, " K"]:
        with jax.default_matmul_precision("highest"):
            return ravel_pytree(self.jacobian.T.mv(row.reshape(self.jacobian.outputs.shape)))[0]


def row_covariance(
    problem: AbstractProblem,
    params: Params,
    masks: tuple[PyTree, ...],
    precisions: Float[np.ndarray, " groups"],
    prior: Float[np.ndarray, " K"],
    whitener: Float[np.ndarray, "rows QN"],
) -> RowCovariance:
    """**Arguments:**

    - `masks`: which leaves are in each group.
    - `precisions`: α of each group; `prior`: 1/α of each parameter.
    - `whitener`: W, with L in it.
    """
    return RowCovariance(problem, params, masks, as_double(1 / precisions), as_double(prior), as_double(whitener))
