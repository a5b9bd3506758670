"""The covariance by the columns of D, for few parameters, from a triangle to which samples are added chunk by chunk."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from jaxgeo.linalg.covariance.base import (
    AbstractCovariance,
    AbstractInformation,
    Determined,
    as_double,
    in_double,
    of_spectrum,
)
from jaxgeo.linalg.covariance.weighting import RowRoot
from jaxgeo.linalg.jacobian import sample_rows
from jaxgeo.linalg.spectra import round_off
from jaxgeo.outputs import AbstractProblem, Block, Params

# Bytes of rows of D to hold at a time, also for new inputs.
CHUNK_BYTES = 2**26


def triangle(problem: AbstractProblem, params: Params, root: RowRoot) -> Float[np.ndarray, "rows K"]:
    """R of LD = QR, with at most K rows, without ever holding more of D than a chunk of samples."""
    trainable, frozen = problem.partition(params)
    columns = sum(leaf.size for leaf in jax.tree.leaves(trainable))
    found, start = np.zeros((0, columns)), 0
    for block in problem.blocks:
        count = jax.tree.leaves(block.inputs)[0].shape[0]
        height = jax.eval_shape(block.rows, params, block.sample()).size
        size = chunk_of(count, height * columns)
        host = eqx.tree_at(lambda block: block.inputs, block, jax.tree.map(np.asarray, block.inputs))
        for first in range(0, count, size):
            # All chunks have one shape, so that one program is compiled: the last starts within the one before it.
            begin = max(min(first, count - size), 0)
            part = _cut(host, begin, size)
            rows = np.asarray(_rows(part, trainable, frozen), np.float64)[(first - begin) * height :]
            found = np.concatenate([found, root(rows, start)])
            start += len(rows)
            found = np.asarray(np.linalg.qr(found, mode="r")) if len(found) > columns else found
    return found


def _cut(block: Block, start: int, size: int) -> Block:
    """The block with some of its samples, on the device."""
    inputs = jax.tree.map(lambda leaf: jnp.asarray(leaf[start : start + size]), block.inputs)
    return eqx.tree_at(lambda block: block.inputs, block, inputs)


@eqx.filter_jit
def _rows(block: Block, trainable: PyTree, frozen: PyTree) -> Float[Array, "rows K"]:
    with jax.default_matmul_precision("highest"):
        return sample_rows(block, trainable, frozen)


def chunk_of(count: int, entries: int) -> int:
    """How many of `count` samples to take at a time, if each has this many entries of D."""
    return max(1, min(count, CHUNK_BYTES // (8 * entries)))


# If a singular value is this small, and the parameters this small compared with their error along it, nothing is known.
VAGUE = 1e-6


class ColumnInformation(AbstractInformation):
    """What the triangle of LD says about each group of columns."""

    def __init__(self, triangle: Float[np.ndarray, "rows K"], groups: Int[np.ndarray, " K"]):
        self.triangle = triangle
        self.groups = groups
        self.squares = None if groups.max() else np.linalg.svd(triangle, compute_uv=False) ** 2

    @property
    def size(self) -> float:
        return float(np.sum(self.triangle**2))

    def determined(self, precisions: Float[np.ndarray, " groups"], beta: float) -> Determined:
        if self.squares is not None:
            return of_spectrum(beta * self.squares / precisions[0])
        # Measure parameters in units of their prior deviation, so that the prior is 1.
        scaled = np.sqrt(beta) * self.triangle / np.sqrt(precisions[self.groups])
        upper = np.linalg.qr(np.concatenate([scaled, np.eye(scaled.shape[1])]), mode="r")
        inverse = np.linalg.inv(upper)
        known = np.eye(len(inverse)) - inverse @ inverse.T
        members = np.eye(len(precisions))[self.groups]
        logdet = 2 * float(np.sum(np.log(np.abs(np.diag(upper)))))
        return Determined(np.diag(known) @ members, members.T @ known**2 @ members, logdet)


class ColumnCovariance(AbstractCovariance):
    """Σ = FFᵀ in units in which each column of √β LD above √A has length 1.

    So the units of the parameters affect neither accuracy nor which directions are lost.

    - `factor`: F; `units`: the lengths of the columns, by which parameters are multiplied.
    - `lost`: an orthonormal basis of the directions that nothing fixes.
    - `tolerance`: the length along these, relative to the whole, above which it is more than round-off.
    """

    problem: AbstractProblem
    params: Params
    factor: Float[Array, "K rank"]
    lost: Float[Array, "K missing"]
    units: Float[Array, " K"]
    tolerance: float = eqx.field(static=True)

    @property
    def rank(self) -> int:
        """How many directions are fixed."""
        return self.factor.shape[1]

    def scaled(self, noise: float) -> "ColumnCovariance":
        """The covariance if the noise is this many times as large."""
        return eqx.tree_at(lambda this: this.factor, self, as_double(np.asarray(self.factor) * noise))

    def without_vague(self, values: Float[np.ndarray, " K"]) -> "ColumnCovariance":
        """The same, but with directions that the data hardly fix counted as lost.

        These are directions with a singular value of at most 1e-6 times the largest, along which one standard error is
        more than 1e6 times the parameters. An example is the place of a step whose slope has diverged.

        **Arguments:**

        - `values`: the values of the parameters.
        """
        factor = np.asarray(self.factor)
        errors = np.linalg.norm(factor, axis=0)
        axes = factor / np.where(errors > 0, errors, 1)
        sizes = np.linalg.norm(axes * (np.asarray(self.units) * values)[:, None], axis=0)
        vague = (errors * VAGUE >= errors.min(initial=np.inf)) & (errors * VAGUE > sizes)
        if not vague.any():
            return self
        lost = as_double(np.concatenate([np.asarray(self.lost), axes[:, vague]], axis=1))
        return eqx.tree_at(lambda this: (this.factor, this.lost), self, (as_double(factor[:, ~vague]), lost))

    def unfixed(self) -> np.ndarray:
        """Which parameters nothing fixes."""
        return np.linalg.norm(np.asarray(self.lost), axis=1) > self.tolerance

    def directions(self) -> Float[np.ndarray, "K missing"]:
        """Unit vectors, in the units of the parameters, that span the directions that nothing fixes."""
        raw = np.asarray(self.lost) / np.asarray(self.units)[:, None]
        return raw / np.linalg.norm(raw, axis=0, keepdims=True)

    def variances(self) -> Float[np.ndarray, " K"]:
        found = np.sum(np.asarray(self.factor) ** 2, axis=1) / np.asarray(self.units) ** 2
        return np.where(self.unfixed(), np.inf, found)

    def part(self, index: Int[np.ndarray, " k"]) -> Float[np.ndarray, "k k"]:
        rows = np.asarray(self.factor)[index] / np.asarray(self.units)[index, None]
        unfixed = self.unfixed()[index]
        return np.where(unfixed[:, None] | unfixed[None, :], np.inf, rows @ rows.T)

    def of_outputs(
        self, apply: Callable[[PyTree, PyTree], Array], inputs: PyTree, contrasts: bool
    ) -> Float[Array, "M Q Q"]:
        block = Block(apply, inputs)
        return of_dense_rows(self.problem, self.params, block, lambda rows: self._squares(rows, contrasts))

    def of_whole(self, block: Block, count: int, contrasts: bool) -> Float[Array, "M Q Q"]:
        """jΣjᵀ for each of `count` samples that form a single sample of the block, because a network couples them."""
        trainable, frozen = self.problem.partition(self.params)
        rows = _rows(block, trainable, frozen)
        return self._squares(rows.reshape(count, -1, rows.shape[1]), contrasts)

    def _squares(self, rows: Float[Array, "m Q K"], contrasts: bool) -> Float[Array, "m Q Q"]:
        squares = _Squares(self.tolerance, contrasts)
        return in_double(squares, rows.dtype, rows, self.factor, self.lost, self.units)


class _Squares(eqx.Module):
    """|F·j/units|², computed in one dtype and returned in another; infinite if j has a part along lost directions."""

    tolerance: float = eqx.field(static=True)
    contrasts: bool = eqx.field(static=True)

    def __call__(self, dtype: jnp.dtype, out: jnp.dtype) -> Callable[..., Array]:
        def run(rows: Array, factor: Array, lost: Array, units: Array) -> Array:
            scaled = rows.astype(dtype) / units.astype(dtype)[None, None]
            if self.contrasts:
                scaled = scaled - jnp.mean(scaled, axis=1, keepdims=True)
            with jax.default_matmul_precision("highest"):
                seen = scaled @ factor.astype(dtype)
                found = jnp.einsum("mqr,mpr->mqp", seen, seen)
                if lost.shape[1]:
                    missing = jnp.sum((scaled @ lost.astype(dtype)) ** 2, axis=2)
                    whole = jnp.sum(scaled**2, axis=2)
                    free = missing > self.tolerance**2 * whole
                    found = jnp.where(free[:, :, None] | free[:, None, :], jnp.inf, found)
            return found.astype(out)

        return run


def column_covariance(
    problem: AbstractProblem,
    params: Params,
    triangle: Float[np.ndarray, "rows K"],
    precisions: Float[np.ndarray, " K"],
    beta: float,
    dtype: jnp.dtype,
) -> ColumnCovariance:
    """(βRᵀR + diag(precisions))⁻¹, or the part that exists if the matrix is singular.

    **Arguments:**

    - `triangle`: R of LD.
    - `precisions`: the precisions of the prior, 0 for none.
    - `dtype`: the dtype that D was computed in.
    """
    rows = np.sqrt(beta) * triangle
    if precisions.any():
        rows = np.concatenate([rows, np.diag(np.sqrt(precisions))[precisions > 0]])
        rows = np.asarray(np.linalg.qr(rows, mode="r"))
    units = np.linalg.norm(rows, axis=0)
    units = np.where(units > 0, units, 1)
    _, values, right = np.linalg.svd(rows / units, full_matrices=True)
    kept = values > round_off((problem.num_rows(params), rows.shape[1]), dtype) * values[0]
    rank = int(np.sum(kept))
    factor = right[:rank].T / values[:rank]
    tolerance = float(jnp.finfo(dtype).eps) ** 0.5
    return ColumnCovariance(problem, params, as_double(factor), as_double(right[rank:].T), as_double(units), tolerance)


def of_dense_rows(
    problem: AbstractProblem, params: Params, block: Block, function: Callable[[Float[Array, "m Q K"]], Array]
) -> Array:
    """`function` of the rows of D for the samples of a block, some samples at a time."""
    trainable, frozen = problem.partition(params)
    height = jax.eval_shape(block.rows, params, block.sample()).size
    size = chunk_of(block.num_samples, height * problem.num_params(params))

    def rows(inputs: PyTree) -> Array:
        part = eqx.tree_at(lambda block: block.inputs, block, inputs)
        return function(_rows(part, trainable, frozen).reshape(size, height, -1))

    return in_chunks(rows, block.inputs, size)


def in_chunks(function: Callable[[PyTree], Any], inputs: PyTree, size: int) -> Any:
    """`function` of chunks of `size` samples, one after another; the last chunk is filled up with its last sample."""
    count = jax.tree.leaves(inputs)[0].shape[0]
    if count == size:
        return function(inputs)
    short = -count % size

    def cut(leaf: Array) -> Array:
        filled = jnp.concatenate([leaf, jnp.repeat(leaf[-1:], short, axis=0)]) if short else leaf
        return filled.reshape(-1, size, *leaf.shape[1:])

    found = jax.lax.map(function, jax.tree.map(cut, inputs))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], found)
