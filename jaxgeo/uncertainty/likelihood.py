"""A cost as a likelihood of the data: the weight of each row, the number of observations, and their misfit."""

import math
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgeo._checks import check_positive
from jaxgeo.costs import AbstractCost, SampleWeighted, SoftmaxCrossEntropy, WeightedL2
from jaxgeo.costs.squares import AbstractSquares
from jaxgeo.linalg.covariance.weighting import RowRoot
from jaxgeo.outputs import AbstractProblem, Params


@dataclass(frozen=True)
class Likelihood:
    """The data as −log p(y | θ) = β·misfit/2 + …, with β the precision of an observation of weight 1; 1 for classes.

    - `root`: L, such that β(LD)ᵀLD is the curvature in θ.
    - `count`: number of observations; a sample of weight 2 counts twice.
    - `misfit`: |L(x − y)|² for squares, and −2 log p for classes.
    - `log_precisions`: the sum over observations of the logarithms of their weights.
    - `is_gaussian`: whether there is noise to estimate.
    """

    root: RowRoot
    count: float
    misfit: float
    log_precisions: float
    is_gaussian: bool

    def log(self, beta: float) -> float:
        """log p(y | θ)."""
        if not self.is_gaussian:
            return -0.5 * self.misfit
        norm = self.count * (math.log(beta) - math.log(2 * math.pi)) if self.count else 0.0
        return 0.5 * (norm + self.log_precisions - beta * self.misfit)


def read_likelihood(problem: AbstractProblem, params: Params, noise: Any) -> Likelihood:
    """The likelihood that belongs to the cost of a problem.

    **Arguments:**

    - `noise`: a sequence of standard deviations, one for each block. Other values are only checked for classes, which
        have no noise.
    """
    cost = problem.loss
    outputs = _outputs(problem, params)
    counts, bare = np.ones(len(outputs)), cost
    if isinstance(cost, SampleWeighted):
        counts, bare = np.asarray(cost.weights, np.float64), cost.cost
    if isinstance(bare, SoftmaxCrossEntropy):
        if noise is not None:
            raise ValueError(f"`noise` does not apply to class labels; got {noise!r} for {_name(bare)}.")
        values = np.asarray(bare.values(outputs), np.float64)
        blocks = np.asarray(_dense_root(bare, outputs), np.float64) * np.sqrt(counts)[:, None, None]
        misfit = 2 * float(np.sum(np.where(counts > 0, counts * values, 0)))
        return Likelihood(RowRoot(None, blocks), float(counts.sum()), misfit, 0.0, False)
    if not isinstance(bare, AbstractSquares | WeightedL2):
        raise ValueError(
            f"the posterior needs a cost that is a likelihood: `L2`, `WeightedL2`, `SumOfSquares`, "
            f"`SoftmaxCrossEntropy`, or one of these in `SampleWeighted`; got {_name(bare)}."
        )
    precisions = np.asarray(bare.weights, np.float64) if isinstance(bare, WeightedL2) else np.ones(outputs.shape)
    if isinstance(noise, tuple):
        precisions = precisions * _block_precisions(problem, params, noise).reshape(outputs.shape)
    counts = np.broadcast_to(counts[:, None], outputs.shape) * (precisions > 0)
    deviations = np.asarray(bare.deviation(outputs), np.float64)
    weights = counts * precisions
    misfit = float(np.sum(np.where(weights > 0, weights * deviations**2, 0)))
    logs = float(np.sum(counts * np.log(np.where(precisions > 0, precisions, 1))))
    root = RowRoot(np.sqrt(weights).reshape(-1))
    return Likelihood(root, float(np.sum(counts)), misfit, logs, True)


@eqx.filter_jit
def _outputs(problem: AbstractProblem, params: Params) -> Float[Array, "N Q"]:
    with jax.default_matmul_precision("highest"):
        return problem.outputs(params)


@eqx.filter_jit
def _dense_root(cost: SoftmaxCrossEntropy, outputs: Float[Array, "N Q"]) -> Float[Array, "N R Q"]:
    unit = jnp.eye(outputs.shape[1], dtype=outputs.dtype)
    columns = jax.vmap(lambda root: jax.vmap(root)(unit))(cost.curvature(outputs))
    return columns.transpose(0, 2, 1)


def _block_precisions(problem: AbstractProblem, params: Params, noise: tuple) -> Float[np.ndarray, " QN"]:
    """1/noise² of each row, in the unit of the rows, which are scaled by the weight of their block."""
    blocks = problem.blocks
    if len(noise) != len(blocks):
        raise ValueError(
            f"`noise` must be one number, or a tuple of one for each block; got {len(noise)} for {len(blocks)} blocks."
        )
    rows = []
    for index, (block, deviation) in enumerate(zip(blocks, noise, strict=True)):
        check_positive(f"noise[{index}]", deviation)
        size = block.num_samples * jax.eval_shape(block.rows, params, block.sample()).size
        rows.append(np.full(size, 1 / (float(deviation) * float(block.scale)) ** 2))
    return np.concatenate(rows)


def _name(cost: AbstractCost) -> str:
    return f"`{type(cost).__name__}`"
