"""The batches that an optimizer gets: all samples, or some of them in a random order given by a seed."""

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Int, PyTree

from jaxgeo._checks import is_key
from jaxgeo.costs import SampleWeighted
from jaxgeo.optim.problem_maker import CostOfTargets
from jaxgeo.outputs import Params
from jaxgeo.prior import has_prior, prior_of, with_prior, without_prior
from jaxgeo.problem import Problem


class AbstractBatches(eqx.Module):
    """Provides the problem of each update."""

    @abc.abstractmethod
    def take(self, index: Any, params: Params) -> Problem:
        """The problem for an entry of the order; None if all updates use one problem."""


class Keyed(NamedTuple):
    """Samples with PRNG keys, as for dropout, and the number of the update, which is folded into the keys."""

    samples: Int[Array, " size"] | Int[np.ndarray, "count size"] | None
    number: Int[Array, "..."] | Int[np.ndarray, " count"]

    def fold_in(self, inputs: PyTree) -> PyTree:
        def folded(keys: Array) -> Array:
            each = jax.vmap(lambda key: jax.random.fold_in(key, self.number))(keys.reshape(-1))
            return each.reshape(keys.shape)

        return jax.tree.map(lambda leaf: folded(leaf) if is_key(leaf) else leaf, inputs)


class Batches(AbstractBatches):
    """The samples of a run; each batch of them becomes a problem.

    The order of the samples in an epoch depends only on `seed` and the number of the epoch, so that no state of a
    random generator needs to be saved. Samples that do not fill a whole batch are skipped in that epoch.
    """

    problem: Problem
    targets: PyTree
    cost: CostOfTargets
    size: int | None = eqx.field(static=True)
    seed: int = eqx.field(static=True)
    weights: Array | None = None

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch."""
        return 1 if self.size is None else self.problem.num_samples // self.size

    def order(self, first: int, count: int) -> PyTree[Int[np.ndarray, "count ..."]] | None:
        """The samples of the updates `first`, `first` + 1, …, and a number for the keys among them.

        None if all updates use the same problem.
        """
        samples = self._samples(first, count)
        if not any(map(is_key, jax.tree.leaves(self.problem.blocks[0].inputs))):
            return samples
        return Keyed(samples, np.arange(first, first + count, dtype=np.int32))

    def _samples(self, first: int, count: int) -> Int[np.ndarray, "count size"] | None:
        if self.size is None:
            return None
        rows = []
        for epoch in range(first // self.per_epoch, (first + count - 1) // self.per_epoch + 1):
            drawn = np.random.default_rng([self.seed, epoch]).permutation(self.problem.num_samples)
            rows.append(drawn[: self.per_epoch * self.size].reshape(self.per_epoch, self.size))
        skipped = first % self.per_epoch
        return np.concatenate(rows)[skipped : skipped + count].astype(np.int32)

    def take(self, index: Int[Array, " size"] | Keyed | None, params: Params) -> Problem:
        """The problem of these samples."""
        if isinstance(index, Keyed):
            fresh = eqx.tree_at(lambda batches: batches.problem.blocks[0].inputs, self, replace_fn=index.fold_in)
            return fresh.take(index.samples, params)
        if index is None:
            return self.problem
        whole = without_prior(self.problem)
        inputs = jax.tree.map(lambda leaf: leaf[index], whole.inputs)
        # What the cost took from all targets, such as the number of classes, a batch cannot tell.
        cost = whole.loss.take(index)
        if cost is None:
            cost = self.cost(jax.tree.map(lambda leaf: leaf[index], self.targets))
            if self.weights is not None:
                cost = SampleWeighted(cost, self.weights[index])
        network = whole.blocks[0].apply
        batch = Problem(network, inputs, cost, trainable=whole.trainable, per_sample=whole.per_sample)
        if not has_prior(self.problem):
            return batch
        # As much of the prior as the batch is of the data.
        (precisions, groups), part = prior_of(self.problem), cost.total_weight / whole.loss.total_weight
        return with_prior(batch, params, precisions * part, groups)
